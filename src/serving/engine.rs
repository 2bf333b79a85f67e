//! The life of a request: admitted, routed to a version, held against its signature, run, answered.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    admission,
    bind::{Bound, Want, Wanted, bind},
    caller::Caller,
    classify::classify,
    memory::Budget,
    regions::{Outgoing, RegionOptions, Regions},
    routed::{self, Routed},
    shadow::Shadows,
};
use crate::{
    batcher::{
        reply::{Reply, Spent},
        run,
        served::Request,
    },
    cache::ask::{Answering, Cached},
    predlog::capture::{Ending, Entry, Offered, Waiting},
    repository::{
        calls::Control,
        table::{SharedTable, Version},
    },
    runtime::session::Outputs,
    telemetry::{clock::now, registry::registry, request, stats::Spans},
    types::{
        error::{Code, Error},
        request::{InferRequest, InferResponse, OutputTensor, Regions as Places},
        tensor::{Dims, Tensor},
        text::Text,
        time::Tick,
    },
};

/// How often a request has its model loaded, and when one that gave up may come again.
const MOST_TRIES: usize = 8;
const THRASHING: Duration = Duration::from_secs(1);

/// What a person can set about the request path.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes that all requests under way may hold together (`memory`).
    pub request_memory_bytes: usize,
    /// No request waits longer than this, whatever its client asks for.
    pub max_deadline: Option<Duration>,
    /// Requests under way at once; one more is refused.
    pub max_requests: usize,
    /// Regions of shared memory that clients may register.
    pub shared_memory: RegionOptions,
    /// Bytes that one request may have, and a tensor in shared memory.
    pub max_request_bytes: usize,
}

/// Serves requests of both protocols.
pub struct Engine {
    pub table: SharedTable,
    pub budget: Arc<Budget>,
    /// Where there is a budget for models: has those loaded that are out of memory.
    demand: Option<Control>,
    pub regions: Arc<Regions>,
    /// Takes copies of requests for shadows.
    pub shadows: Shadows,
    max_deadline: Option<Duration>,
    max_requests: usize,
    under_way: AtomicUsize,
}

impl Engine {
    pub fn new(table: SharedTable, options: &EngineOptions) -> Engine {
        Engine {
            table,
            budget: Budget::new(options.request_memory_bytes),
            demand: None,
            regions: Arc::new(Regions::new(
                options.shared_memory.clone(),
                options.max_request_bytes,
            )),
            shadows: Shadows::none(),
            max_deadline: options.max_deadline,
            max_requests: options.max_requests,
            under_way: AtomicUsize::new(0),
        }
    }

    /// A request for a model that is out of memory has it loaded, and waits.
    #[must_use]
    pub fn loading_on_demand(self, control: Control) -> Engine {
        Engine { demand: Some(control), ..self }
    }

    /// Copies for shadows go there.
    #[must_use]
    pub fn with_shadows(self, shadows: Shadows) -> Engine {
        Engine { shadows, ..self }
    }

    /// Answers one request. `received`: when its head arrived; `timeout`: what the transport says of its deadline.
    /// Dropping the future at any moment is safe: work that nobody waits for is not run, or ended.
    pub async fn infer(
        &self,
        request: InferRequest,
        received: Tick,
        timeout: Option<Duration>,
    ) -> Result<InferResponse, Error> {
        self.begin(request, received, timeout, None)?.answer().await
    }

    /// Everything up to the wait: admits the request, finds its version, holds it against the signature and hands it to
    /// the batcher. Apart from `infer`, so that what waits carries no request around. `caller`: who asks, where callers are
    /// configured.
    pub fn begin<'a>(
        &'a self,
        request: InferRequest,
        received: Tick,
        timeout: Option<Duration>,
        caller: Option<&'a Caller>,
    ) -> Result<Pending<'a>, Error> {
        let refused = |error: &Error| registry().refused(error.code);
        if let Some(caller) = caller {
            caller.may_use(&request.model).inspect_err(refused)?;
        }
        match self.way(&request) {
            Ok(Way::Plain(version)) => self.enter(version, request, received, timeout, caller),
            Ok(Way::Routed(taken)) => {
                let routed = self.begin_routed(taken, request, received, timeout, caller);
                routed.map(Pending::Routed)
            }
            Err(_) if self.is_parked(&request.model) => {
                let engine = self;
                let absent = Absent { engine, request, received, timeout, caller };
                Ok(Pending::Absent(Box::new(absent)))
            }
            Err(error) => {
                refused(&error);
                Err(error)
            }
        }
    }

    /// What a request gets, as the table has it now.
    fn way(&self, request: &InferRequest) -> Result<Way, Error> {
        let table = self.table.load();
        table.model(&request.model).and_then(|model| match &model.routes {
            None => model.resolve(&request.version).map(Way::Plain),
            Some(routes) => routed::take(model, routes, request).map(Way::Routed),
        })
    }

    #[cold]
    fn is_parked(&self, model: &str) -> bool {
        let parked = || self.table.load().model(model).is_ok_and(|model| model.parked);
        self.demand.is_some() && parked()
    }

    /// What a request gets whose model is out of memory, once it was loaded. Others may push it out again before this
    /// request has it: it is asked for anew, a few times.
    async fn loaded(&self, request: &InferRequest) -> Result<Way, Error> {
        for _ in 0..MOST_TRIES {
            if let Some(control) = &self.demand {
                control.demand(&request.model).await?;
            }
            let way = self.way(request);
            if way.is_ok() || !self.is_parked(&request.model) {
                return way;
            }
        }
        let model = &request.model;
        let message = format!(
            "model '{model}' was pushed out of memory again and again: others need it more"
        );
        Err(Error::overloaded(message, THRASHING))
    }

    /// As `begin`, once the version is known.
    pub(super) fn enter(
        &self,
        version: Arc<Version>,
        request: InferRequest,
        received: Tick,
        timeout: Option<Duration>,
        caller: Option<&Caller>,
    ) -> Result<Pending<'_>, Error> {
        let refused = |error: &Error| registry().refused(error.code);
        request::note(|known| {
            known.model = Some(version.model.clone());
            known.version = Some(version.label.clone());
        });
        let entry = version.log.as_ref().and_then(|log| {
            log.begin(&request, received, caller.and_then(|caller| caller.shown.as_ref()))
        });
        let mut passage = match self.admit(version, received, caller) {
            Ok(passage) => passage,
            Err(error) => {
                refused(&error);
                log_failure(entry, error.code, received);
                return Err(error);
            }
        };
        passage.entry = entry;
        match self.submit(&mut passage, request, timeout, caller) {
            Ok(submitted) => Ok(Pending::Submitted { passage, submitted }),
            Err(error) => {
                passage.finish(Err(&error));
                Err(error)
            }
        }
    }

    fn submit(
        &self,
        passage: &mut Passage,
        mut request: InferRequest,
        timeout: Option<Duration>,
        caller: Option<&Caller>,
    ) -> Result<Submitted, Error> {
        let Passage { version, received, favoured, entry, .. } = passage;
        let (received, favoured) = (*received, *favoured);
        let default = version.default_timeout;
        let deadline =
            admission::deadline(received, timeout, &request, default, self.max_deadline)?;
        let cap = caller.map_or(0, |caller| caller.priority);
        let usual = version.served.options.default_priority;
        let priority = admission::priority(&request, usual, cap)?;
        let id = request.id.clone();
        let outgoing = match request.regions.take() {
            None => None,
            Some(places) => self.gather(&mut request, *places, caller)?,
        };
        let bypassed = version.cache.is_some() && Cached::bypassed(&request)?;
        let bound = bind(&version.signature, version.served.padding.as_ref(), request)?;
        let Bound { inputs, rows, bytes, bucket, wanted } = bound;
        if let Some(entry) = entry {
            entry.bound(&inputs, rows);
        }
        let started = now();
        if deadline.is_some_and(|deadline| deadline <= started) {
            return Err(run::expired());
        }
        let job = Request { inputs, rows, bytes, bucket, deadline, priority, favoured };
        let answering = match &version.cache {
            Some(cache) if !bypassed => cache.ask(&version.served, job, started)?,
            _ => Answering::Own(version.served.submit(job, started)?),
        };
        if bypassed {
            version.stats.bypassed();
        }
        Ok(Submitted { answering, deadline, id, wanted, rows, outgoing })
    }

    /// Fetches what lies in shared memory, and keeps what is to go there.
    #[cold]
    fn gather(
        &self,
        request: &mut InferRequest,
        places: Places,
        caller: Option<&Caller>,
    ) -> Result<Option<Box<Outgoing>>, Error> {
        let caller = caller.map(|caller| &caller.name);
        let outgoing = self.regions.gather(caller, request, places, &self.budget)?;
        Ok(outgoing.map(Box::new))
    }

    /// Counts the request in, or refuses it.
    fn admit(
        &self,
        version: Arc<Version>,
        received: Tick,
        caller: Option<&Caller>,
    ) -> Result<Passage<'_>, Error> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        // A caller leaves as many places as it takes: the next one finds some.
        let places = self.max_requests.saturating_sub(before);
        let own = caller.map_or(1, |caller| caller.account.usage.at_once() as usize);
        if own > places {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            let full =
                format!("{} requests are under way, as many as are taken", self.max_requests);
            return Err(Error::overloaded(full, version.served.retry_after()));
        }
        version.stats.started();
        let place = caller.map(|caller| caller.place);
        let favoured = place.is_some_and(|place| version.served.shares.enter(place));
        let (engine, entry) = (self, None);
        Ok(Passage { engine, version, received, place, favoured, finished: false, entry })
    }
}

/// Ends the row of a request that failed, if it has one: nobody waits for that.
fn log_failure(entry: Option<Box<Entry>>, code: Code, received: Tick) {
    if let Some(entry) = entry {
        let spans = Spans { total: now().since(received), ..Spans::default() };
        let _ = entry.end(Ending { code: Some(code), spans, batch: None });
    }
}

/// What a request gets: a version, or what traffic rules make of it.
enum Way {
    Plain(Arc<Version>),
    Routed(routed::Taken),
}

/// A request that waits for its answer.
pub enum Pending<'a> {
    Submitted {
        passage: Passage<'a>,
        submitted: Submitted,
    },
    /// Its model has to be loaded first.
    Absent(Box<Absent<'a>>),
    /// Its model has traffic rules.
    Routed(Box<Routed<'a>>),
}

/// A request for a model that is out of memory.
pub struct Absent<'a> {
    engine: &'a Engine,
    request: InferRequest,
    received: Tick,
    timeout: Option<Duration>,
    caller: Option<&'a Caller>,
}

type Later<'a> = Pin<Box<dyn Future<Output = Result<InferResponse, Error>> + Send + 'a>>;

impl<'a> Absent<'a> {
    /// As a value of its own, so that nobody else's future is larger for it.
    fn answer(self) -> Later<'a> {
        Box::pin(self.load_and_answer())
    }

    /// Has the model loaded, and waits for that until the request's deadline; then it is a request like any other.
    async fn load_and_answer(self) -> Result<InferResponse, Error> {
        let Absent { engine, request, received, timeout, caller } = self;
        let deadline = admission::deadline(received, timeout, &request, None, engine.max_deadline);
        let loaded = engine.loaded(&request);
        let way = match deadline? {
            None => loaded.await,
            Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), loaded)
                .await
                .unwrap_or_else(|_| Err(run::expired())),
        };
        match way.inspect_err(|error| registry().refused(error.code))? {
            Way::Plain(version) => {
                engine.enter(version, request, received, timeout, caller)?.answer().await
            }
            Way::Routed(taken) => {
                engine.begin_routed(taken, request, received, timeout, caller)?.answer().await
            }
        }
    }
}

/// What is kept of a request while it waits.
pub struct Submitted {
    answering: Answering,
    deadline: Option<Tick>,
    id: Text,
    wanted: Wanted,
    rows: usize,
    /// Outputs that are to go into shared memory.
    outgoing: Option<Box<Outgoing>>,
}

impl Pending<'_> {
    /// Waits for the answer, until the deadline at most.
    pub async fn answer(self) -> Result<InferResponse, Error> {
        let (mut passage, submitted) = match self {
            Pending::Submitted { passage, submitted } => (passage, submitted),
            Pending::Absent(absent) => return absent.answer().await,
            Pending::Routed(routed) => return routed.answer().await,
        };
        let Submitted { answering, deadline, id, wanted, rows, outgoing } = submitted;
        let kept = answering.lookup();
        if let Some(entry) = &mut passage.entry {
            entry.cached(answering.cache_use());
        }
        let reply = match deadline.filter(|_| !answering.prompt()) {
            None => Ok(answering.await),
            Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), answering)
                .await
                .map_err(|_| run::expired()),
        };
        let rest = Rest { id, wanted, rows, outgoing, kept, deadline };
        match conclude(passage, reply, rest) {
            Ok(answer) => answer,
            Err(later) => later.await,
        }
    }
}

/// What it takes to make an answer of a reply.
struct Rest {
    id: Text,
    wanted: Wanted,
    rows: usize,
    outgoing: Option<Box<Outgoing>>,
    /// What it took to find it in the cache, where it was there.
    kept: Option<Duration>,
    deadline: Option<Tick>,
}

/// The answer; or where it has to wait for its row in the prediction log, a value of its own, so that nobody else's future is
/// larger for it.
fn conclude<'a>(
    mut passage: Passage<'a>,
    reply: Result<Reply, Error>,
    rest: Rest,
) -> Result<Result<InferResponse, Error>, Later<'a>> {
    let Rest { id, wanted, rows, outgoing, kept, deadline } = rest;
    let answer = reply.and_then(|reply| respond(&passage.version, id, wanted, reply));
    if let (Some(entry), Ok((response, _))) = (&mut passage.entry, &answer) {
        entry.answered(&response.outputs);
    }
    let answer = answer.and_then(|(mut response, spent)| {
        if let Some(outgoing) = outgoing {
            outgoing.scatter(&mut response)?;
        }
        passage.engine.budget.outputs(&mut response)?;
        Ok((response, spent))
    });
    let waiting = match &answer {
        Ok((_, spent)) => passage.log(*spent),
        Err(_) => None,
    };
    match waiting {
        None => Ok(passage.end(answer, rows, kept)),
        Some(waiting) => Err(Box::pin(async move {
            let logged = waiting.wait(deadline).await;
            passage.end(logged.and(answer), rows, kept)
        })),
    }
}

/// Picks what was asked for out of what the model gave.
fn respond(
    version: &Version,
    id: Text,
    wanted: Wanted,
    reply: Reply,
) -> Result<(InferResponse, Spent), Error> {
    let outputs = pick(version, wanted, reply.outputs?)?;
    let response = InferResponse {
        model: version.model.clone(),
        version: version.label.clone(),
        id,
        outputs,
        regions: None,
        route: None,
        signature: version.signature.clone(),
    };
    Ok((response, reply.spent))
}

/// Of what the model gave, the outputs that were asked for, in the form that was.
///
/// # Errors
/// As `classify`; an output that the model did not give.
pub fn pick(
    version: &Version,
    wanted: Wanted,
    mut given: Outputs,
) -> Result<SmallVec<[OutputTensor; 2]>, Error> {
    let count = given.len();
    wanted
        .into_iter()
        .map(|Want { index, binary, classes }| {
            let missing = || {
                Error::internal(format!(
                    "the model gave {count} outputs: output {index} is missing"
                ))
            };
            let tensor = given.get_mut(index).ok_or_else(missing)?;
            // Taken and not cloned: no output is asked for twice.
            let empty = Tensor { data: Bytes::new(), dims: Dims::new(), ..*tensor };
            let mut tensor = mem::replace(tensor, empty);
            if classes > 0 {
                let signature = &version.signature;
                let spec = &signature.outputs[index];
                tensor = classify(&tensor, spec, classes, signature.can_batch)?;
            }
            Ok(OutputTensor { index, binary, tensor })
        })
        .collect()
}

/// A request between admission and answer; dropped unfinished, its client left.
pub struct Passage<'a> {
    engine: &'a Engine,
    version: Arc<Version>,
    received: Tick,
    /// Where the version counts what its caller has under way.
    place: Option<usize>,
    favoured: bool,
    finished: bool,
    /// Its row in the prediction log, until that ends; `None` where there is none.
    entry: Option<Box<Entry>>,
}

impl Passage<'_> {
    /// Ends the row of an answered request; what its answer has to wait for, where the log's mode says so.
    fn log(&mut self, spent: Spent) -> Option<Waiting> {
        let entry = self.entry.take()?;
        let Spent { queue, input, infer, output, batch } = spent;
        let total = now().since(self.received);
        let spans = Spans { total, queue, input, infer, output };
        match entry.end(Ending { code: None, spans, batch }) {
            Offered::Done => None,
            Offered::Waits(waiting) => Some(waiting),
        }
    }

    /// Answered from the cache, which took `lookup` to find it.
    fn finish_kept(&mut self, rows: usize, lookup: Duration) {
        self.finished = true;
        let total = now().since(self.received);
        self.version.stats.answered_from_cache(rows, total, lookup);
        let spans = Spans { total, ..Spans::default() };
        request::note(|known| known.answered(rows, spans));
    }

    /// Counts the answer as what it is.
    fn end(
        mut self,
        answer: Result<(InferResponse, Spent), Error>,
        rows: usize,
        kept: Option<Duration>,
    ) -> Result<InferResponse, Error> {
        match (&answer, kept) {
            (Ok(_), Some(lookup)) => self.finish_kept(rows, lookup),
            _ => self.finish(answer.as_ref().map(|(_, spent)| (rows, *spent))),
        }
        answer.map(|(response, _)| response)
    }

    fn finish(&mut self, outcome: Result<(usize, Spent), &Error>) {
        self.finished = true;
        let total = now().since(self.received);
        match outcome {
            Ok((rows, spent)) => {
                let Spent { queue, input, infer, output, .. } = spent;
                let spans = Spans { total, queue, input, infer, output };
                self.version.stats.answered(rows, spans);
                request::note(|known| known.answered(rows, spans));
            }
            Err(error) => {
                log_failure(self.entry.take(), error.code, self.received);
                self.version.stats.failed(error.code, total);
                request::note(|known| known.code = Some(error.code));
            }
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.engine.under_way.fetch_sub(1, Ordering::Relaxed);
        if let Some(place) = self.place {
            self.version.served.shares.leave(place);
        }
        if !self.finished {
            log_failure(self.entry.take(), Code::Cancelled, self.received);
            self.version.stats.failed(Code::Cancelled, now().since(self.received));
        }
    }
}
