//! The log as the request path meets it: a row begins with the request, is filled on the way, and ends with it, whichever way that
//! is. What is kept until then are handles; bytes are copied once it is known that the row stays.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    cells::Predicted,
    columns::{Source, meta::Meta},
    encode::{self, Anchor, Ids},
    large::Larges,
    options::{Mode, OnFull},
    record::{CacheUse, Fields, Lost, Record, Route, Texts},
    sampling::{self, Seen},
    store::{ModelLog, Shared},
    subject::Subject,
    value,
};
use crate::{
    telemetry::{clock::now, predictions::Reason, request, stats::Spans},
    types::{
        error::{Code, Error},
        request::{InferRequest, OutputTensor, Parameter},
        tensor::Tensor,
        time::Tick,
        trace::TraceIds,
    },
};

/// Request parameters that the log looks at.
pub const LABEL_KEY: &str = "label_key";
pub const REPLAY: &str = "replay";

/// The header, or gRPC's metadata, that names a request that has no id itself.
pub const REQUEST_ID: &str = "x-request-id";
const TRACE: &str = "traceparent";

/// The header, or gRPC's metadata, that says the same for who cannot change bodies. A parameter counts more.
pub const LABEL_HEAD: &str = "x-onnxd-label-key";

/// Characters of a client's text that are kept.
const MOST_TEXT: usize = 1024;

/// How long an answer waits for the disk, where its deadline says nothing.
const LONGEST_COMMIT: Duration = Duration::from_secs(10);

/// Between two looks for room.
const ROOM: Duration = Duration::from_millis(1);

/// The log of one version.
pub struct VersionLog {
    pub subject: Arc<Subject>,
    pub(super) model: Arc<ModelLog>,
    pub(super) shared: Arc<Shared>,
    /// No request is likelier to be logged.
    pub(super) most: f64,
    /// Whether some requests are not.
    pub(super) samples: bool,
    /// Whether the answer decides which.
    pub(super) looks: bool,
}

/// Gives a request that has no id one, so that all rows that come of it have the same. Its answer shows none.
pub fn name(request: &mut InferRequest) {
    if request.id.is_empty() && request.head(REQUEST_ID).is_none() {
        let heads = request.heads.take().map(<[_]>::into_vec).unwrap_or_default();
        let own = (Arc::from(REQUEST_ID), new_id().into());
        request.heads = Some(heads.into_iter().chain([own]).collect());
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    /// `None`: it was answered.
    pub code: Option<Code>,
    pub spans: Spans,
    pub batch: Option<(u32, u64)>,
}

/// A row that has begun.
pub struct Entry {
    log: Arc<VersionLog>,
    record: Record,
    inputs: SmallVec<[Option<Tensor>; 2]>,
    place: f64,
}

/// What the end of a row asks of the answer.
pub enum Offered {
    Done,
    Waits(Waiting),
}

impl VersionLog {
    /// Begins the row of a request; `None` where it is not going to be logged.
    pub fn begin(
        self: &Arc<Self>,
        request: &InferRequest,
        received: Tick,
        caller: Option<&Arc<str>>,
    ) -> Option<Box<Entry>> {
        let request_id: Box<str> = match (&*request.id, request.head(REQUEST_ID)) {
            ("", None | Some("")) => new_id().into(),
            ("", Some(id)) | (id, _) => cut(id).into(),
        };
        let place = if self.samples { sampling::place(&request_id) } else { 0.0 };
        if self.samples && place >= self.most {
            return None;
        }
        let options = &self.subject.options;
        let text = |name: &str| parameter(request, name);
        let version = Some(&*request.version).filter(|version| !version.is_empty());
        let mut texts = Texts {
            request_id,
            requested_version: version.map(|version| cut(version).into()),
            caller: caller.cloned(),
            // A span of our own is below the caller's.
            trace: request::span().or_else(|| TraceIds::parse(request.head(TRACE)?)),
            ..Texts::default()
        };
        if !options.tenant.is_empty() {
            let named = || request.head(&options.tenant).map(|name| cut(name).to_owned());
            texts.tenant = text(&options.tenant).or_else(named).map(Into::into);
        }
        texts.label_key = request.head(LABEL_HEAD).map(|key| cut(key).into());
        if !request.parameters.is_empty() {
            texts.label_key = text(LABEL_KEY).map(Into::into).or(texts.label_key);
            let tags = options.tags.iter();
            texts.tags =
                tags.filter_map(|tag| Some((tag.as_str().into(), text(tag)?.into()))).collect();
            if let (Some(key), false) = (&self.subject.key, options.subject.is_empty()) {
                let subject = text(&options.subject);
                texts.subject_key = subject.map(|s| key.hash("subject", s.as_bytes()).into());
            }
        }
        let signature = &self.subject.signature;
        let record = Record::from(Fields {
            subject: self.subject.clone(),
            received,
            code: None,
            spans: Spans::default(),
            batch: None,
            cache: CacheUse::Bypass,
            route: Route { sent: request.sent.clone(), replayed: is_replay(request) },
            protocol: if request.protocol.is_empty() { "http" } else { request.protocol },
            rows: 1,
            sample_p: 1.0,
            texts,
            tensors: (0..signature.inputs.len() + signature.outputs.len()).map(|_| None).collect(),
            data: Vec::new(),
            waiter: None,
            charge: 0,
        });
        let log = self.clone();
        Some(Box::new(Entry { log, record, inputs: SmallVec::new(), place }))
    }

    /// The headers that rows are filled from.
    pub fn heads(&self) -> impl Iterator<Item = &str> {
        let subject = &self.subject;
        let has = |meta: Meta| {
            subject.columns.columns.iter().any(|column| column.source == Source::Meta(meta))
        };
        let traced = has(Meta::TraceId) || has(Meta::SpanId);
        let tenant = has(Meta::Tenant).then_some(&*subject.options.tenant);
        let tenant = tenant.filter(|name| !name.is_empty());
        let asked = [Some(REQUEST_ID), Some(LABEL_HEAD), traced.then_some(TRACE), tenant];
        asked.into_iter().flatten()
    }

    /// What the rows that wait would be written as, each as its columns' values; they are gone then.
    ///
    /// # Errors
    /// They could not be made into columns.
    pub fn preview(&self) -> Result<Vec<Vec<serde_json::Value>>, String> {
        let mut records = Vec::new();
        self.model.ring.take(&mut records);
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let anchor = wall();
        let larges = Larges::of(&records, anchor);
        let batch = encode::encode(&records, &larges, &mut Ids::new(now().0), anchor)?;
        let value = |row| -> Result<Vec<serde_json::Value>, String> {
            let columns = batch.columns().iter();
            columns.map(|column| value::at(column, row).map(|value| value.json())).collect()
        };
        (0..batch.num_rows()).map(value).collect()
    }

    fn closed(&self) -> Error {
        let model = &self.subject.model;
        Error::new(
            Code::Unavailable,
            format!("the prediction log of model '{model}' does not take what was predicted"),
        )
    }

    /// Takes room for a record of this charge; `put` must follow.
    ///
    /// # Errors
    /// There is none: nothing is counted yet.
    fn room(&self, charge: usize) -> Result<(), Reason> {
        match self.shared.is_closing() {
            true => Err(Reason::Closed),
            false => self.model.ring.reserve(charge),
        }
    }

    /// Hands a record, for which there is room, to the writer.
    fn put(&self, record: Record) {
        let waited_for = record.waiter.is_some();
        self.model.ring.put(record);
        if waited_for || self.model.ring.presses() {
            self.shared.wake();
        }
    }
}

impl Entry {
    /// The request fits the signature: its inputs, of so many rows.
    pub fn bound(&mut self, inputs: &[Option<Tensor>], rows: usize) {
        self.inputs = inputs.iter().cloned().collect();
        self.record.rows = if self.log.subject.columns.table { rows } else { 1 };
    }

    pub fn cached(&mut self, how: CacheUse) {
        self.record.cache = how;
    }

    /// Takes what is answered, as long as it is all there.
    pub fn answered(&mut self, outputs: &[OutputTensor]) {
        let sampling = &self.log.subject.options.sampling;
        if !self.log.looks {
            let took = now().since(self.record.received);
            let p = sampling::probability(sampling, Seen { took, ..Seen::default() });
            if self.place >= p && p < 1.0 {
                return;
            }
        }
        self.pack_inputs();
        let subject = self.log.subject.clone();
        let inputs = subject.signature.inputs.len();
        for output in outputs {
            let spec = subject.signature.outputs.get(output.index);
            let at = inputs + output.index;
            // Not where somebody asked for classes in place of the numbers.
            let own = spec.is_some_and(|spec| spec.datatype == output.tensor.datatype);
            if own && subject.needs(at) {
                self.record.hold(at, &output.tensor);
            }
        }
    }

    fn pack_inputs(&mut self) {
        let inputs = std::mem::take(&mut self.inputs);
        let subject = &self.log.subject;
        let needed = |at: usize| subject.needs(at);
        let bytes: usize = inputs.iter().flatten().map(|tensor| tensor.data.len()).sum();
        let room = bytes + subject.output_bytes * self.record.rows;
        self.record.data.reserve(room.min(64 << 10));
        for (at, tensor) in inputs.iter().enumerate() {
            if let Some(tensor) = tensor.as_ref().filter(|_| needed(at)) {
                self.record.hold(at, tensor);
            }
        }
    }

    /// What is known of it when it ends.
    fn seen(&self, ending: &Ending) -> Seen {
        let failed = ending.code.is_some();
        let mut seen = Seen { failed, took: ending.spans.total, ..Seen::default() };
        if self.log.looks && !failed {
            let subject = &self.log.subject;
            let shares = &subject.options.sampling.per_class;
            let predicted = Predicted::of(&self.record, subject);
            for row in 0..self.record.rows {
                let share = predicted.label(row).and_then(|label| shares.get(&label).copied());
                // Of a request's rows the likeliest counts, those without a share of their own among them.
                let share = share.unwrap_or(subject.options.sampling.rate);
                seen.class_share = Some(seen.class_share.map_or(share, |most| most.max(share)));
                if let Some(score) = predicted.score(row) {
                    seen.least_score =
                        Some(seen.least_score.map_or(score, |least: f64| least.min(score)));
                }
            }
        }
        seen
    }

    /// Ends the row: it is offered to the writer, or not logged at all.
    pub fn end(mut self: Box<Self>, ending: Ending) -> Offered {
        let p = sampling::probability(&self.log.subject.options.sampling, self.seen(&ending));
        if p < 1.0 && self.place >= p {
            return Offered::Done;
        }
        self.pack_inputs();
        let Entry { log, mut record, .. } = *self;
        (record.code, record.spans, record.batch) = (ending.code, ending.spans, ending.batch);
        record.sample_p = p;
        if record.rows == 0 {
            return Offered::Done;
        }
        let answered = ending.code.is_none();
        let durable = log.subject.options.mode == Mode::Durable && answered;
        let commit = durable.then(|| {
            let (waiter, commit) = oneshot::channel();
            record.waiter = Some(waiter);
            commit
        });
        record.charge = record.weight();
        offer(log, record, answered, commit)
    }
}

fn offer(
    log: Arc<VersionLog>,
    record: Record,
    answered: bool,
    commit: Option<oneshot::Receiver<Result<(), Lost>>>,
) -> Offered {
    let options = &log.subject.options;
    match log.room(record.charge) {
        Ok(()) => {
            log.put(record);
            commit.map_or(Offered::Done, |commit| Offered::Waits(Waiting::Commit(log, commit)))
        }
        Err(reason) => {
            let waits = options.mode == Mode::Backpressure && answered && reason != Reason::Closed;
            if waits && options.max_wait_ms > 0 {
                let until = now().after(Duration::from_millis(options.max_wait_ms));
                return Offered::Waits(Waiting::Room(Held { log, record: Some(record), until }));
            }
            log.model.ring.refuse(record.rows, reason);
            let rejects = options.mode == Mode::Backpressure && options.on_full == OnFull::Reject;
            match answered && (rejects || options.mode == Mode::Durable) {
                true => Offered::Waits(Waiting::Refused(log)),
                false => Offered::Done,
            }
        }
    }
}

/// An answer that waits for its row.
pub enum Waiting {
    /// To be on the disk.
    Commit(Arc<VersionLog>, oneshot::Receiver<Result<(), Lost>>),
    /// To have room.
    Room(Held),
    /// Nothing: it will not be logged, and so not be answered.
    Refused(Arc<VersionLog>),
}

/// A row without room, counted as dropped where nobody waits for it any more.
pub struct Held {
    log: Arc<VersionLog>,
    record: Option<Record>,
    until: Tick,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.log.model.ring.refuse(record.rows, Reason::Full);
        }
    }
}

impl Held {
    async fn wait(mut self) -> Result<(), Error> {
        while now() < self.until {
            tokio::time::sleep(ROOM).await;
            let charge = self.record.as_ref().map_or(0, |record| record.charge);
            if self.log.room(charge).is_ok() {
                if let Some(record) = self.record.take() {
                    self.log.put(record);
                }
                return Ok(());
            }
        }
        match self.log.subject.options.on_full {
            OnFull::Drop => Ok(()),
            OnFull::Reject => Err(self.log.closed()),
        }
    }
}

impl Waiting {
    /// Until the row is where it is to be, or the deadline.
    ///
    /// # Errors
    /// `Unavailable`: it is not, and the mode says that there is no answer then.
    pub async fn wait(self, deadline: Option<Tick>) -> Result<(), Error> {
        match self {
            Waiting::Refused(log) => Err(log.closed()),
            Waiting::Room(held) => held.wait().await,
            Waiting::Commit(log, commit) => {
                let until = deadline.unwrap_or_else(|| now().after(LONGEST_COMMIT));
                match tokio::time::timeout_at(until.instant().into(), commit).await {
                    Ok(Ok(Ok(()))) => Ok(()),
                    _ => Err(log.closed()),
                }
            }
        }
    }
}

/// What now is on the wall clock.
pub fn wall() -> Anchor {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Anchor { tick: now(), wall_us: i64::try_from(wall).unwrap_or(i64::MAX) }
}

/// An id for a request that brings none: like those of rows, so that it sorts by time.
fn new_id() -> String {
    thread_local! {
        static IDS: RefCell<Ids> = RefCell::new(Ids::new(RandomState::new().hash_one(0)));
    }
    IDS.with_borrow_mut(|ids| ids.next(wall().wall_us).hyphenated().to_string())
}

/// Whether it was asked once more, from a log.
fn is_replay(request: &InferRequest) -> bool {
    let given = request.parameters.iter().find(|(key, _)| **key == *REPLAY);
    given.is_some_and(|(_, value)| *value == Parameter::Bool(true))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

fn parameter(request: &InferRequest, name: &str) -> Option<String> {
    let found = request.parameters.iter().find(|(key, _)| **key == *name)?;
    Some(match &found.1 {
        Parameter::Bool(value) => value.to_string(),
        Parameter::Int64(value) => value.to_string(),
        Parameter::Uint64(value) => value.to_string(),
        Parameter::Double(value) => value.to_string(),
        Parameter::String(value) => cut(value).to_owned(),
    })
}
