//! What is kept of one request until it is written: copied out of what came in, so that nothing large stays for it.

use std::{
    ops::{Deref, DerefMut, Range},
    sync::Arc,
};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::subject::Subject;
use crate::{
    telemetry::stats::Spans,
    types::{
        datatype::Datatype,
        error::Code,
        request::{Rollout, Sent},
        tensor::{Dims, Tensor},
        time::Tick,
        trace::TraceIds,
    },
};

/// How the cache had to do with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    Hit,
    Miss,
    Coalesced,
    /// It had no part in it, or there is none.
    #[default]
    Bypass,
}

impl CacheUse {
    /// The value of the column `cache`.
    pub const fn label(self) -> &'static str {
        match self {
            CacheUse::Hit => "hit",
            CacheUse::Miss => "miss",
            CacheUse::Coalesced => "coalesced",
            CacheUse::Bypass => "bypass",
        }
    }
}

/// One request, or a row of each instance in it. Boxed, so that it goes from hand to hand as a pointer: it is large.
pub struct Record(Box<Fields>);

/// What a record holds.
pub struct Fields {
    pub subject: Arc<Subject>,
    pub received: Tick,
    /// `None`: it was answered.
    pub code: Option<Code>,
    /// Where an answer's time went; `queue` and `infer` are zero where nothing ran for it.
    pub spans: Spans,
    /// Rows of the batch that it was run in, and the batch's number.
    pub batch: Option<(u32, u64)>,
    pub cache: CacheUse,
    pub route: Route,
    pub protocol: &'static str,
    /// Rows that it becomes.
    pub rows: usize,
    pub sample_p: f64,
    pub texts: Texts,
    /// Inputs, then outputs, in the signature's order.
    pub tensors: SmallVec<[Option<Held>; 4]>,
    /// The bytes of those that are small.
    pub data: Vec<u8>,
    /// Whoever waits until it is on the disk.
    pub waiter: Option<oneshot::Sender<Result<(), Lost>>>,
    /// Bytes that it is charged with.
    pub charge: usize,
}

/// The row was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Which way a request was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// `None`: there are no traffic rules.
    pub sent: Option<Arc<Sent>>,
    /// It was asked once more, from a log.
    pub replayed: bool,
}

impl Route {
    /// The value of the column `route`.
    pub fn name(&self) -> &str {
        match &self.sent {
            _ if self.replayed => "replay",
            Some(sent) => sent.said.split(';').next().unwrap_or_default(),
            None => "primary",
        }
    }

    /// What was under way; nothing of a replay, which tells nothing about it.
    pub fn rollout(&self) -> Option<&Rollout> {
        self.sent.as_ref()?.rollout.as_ref().filter(|_| !self.replayed)
    }
}

/// What is text of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    pub request_id: Box<str>,
    /// As the client gave it.
    pub label_key: Option<Box<str>>,
    pub requested_version: Option<Box<str>>,
    pub caller: Option<Arc<str>>,
    /// Hashed already.
    pub subject_key: Option<Box<str>>,
    pub tenant: Option<Box<str>>,
    pub trace: Option<TraceIds>,
    pub tags: Vec<(Box<str>, Box<str>)>,
}

/// A tensor of a record.
pub struct Held {
    pub datatype: Datatype,
    pub dims: Dims,
    pub bytes: Place,
}

/// Where its bytes are.
pub enum Place {
    /// In the record's `data`.
    Copied(Range<usize>),
    /// Large: as it came, until its digest is known.
    Kept(Bytes),
}

/// Up to here a tensor is copied, so that a row keeps no buffer of a network connection or of the runtime.
const COPIED: usize = 64 << 10;

/// What a record takes beside its data, by the sizes of what holds it.
pub const OVERHEAD: usize = std::mem::size_of::<Fields>() + 256;

impl From<Fields> for Record {
    fn from(fields: Fields) -> Record {
        Record(Box::new(fields))
    }
}

impl Deref for Record {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Fields {
        &mut self.0
    }
}

impl Fields {
    /// Takes a tensor of the request or of its answer.
    pub fn hold(&mut self, at: usize, tensor: &Tensor) {
        let bytes = match tensor.data.len() {
            length if length > COPIED => Place::Kept(tensor.data.clone()),
            _ => {
                let start = self.data.len();
                self.data.extend_from_slice(&tensor.data);
                Place::Copied(start..self.data.len())
            }
        };
        let held = Held { datatype: tensor.datatype, dims: tensor.dims.clone(), bytes };
        if let Some(place) = self.tensors.get_mut(at) {
            *place = Some(held);
        }
    }

    /// The bytes of one of its tensors.
    pub fn bytes<'a>(&'a self, held: &'a Held) -> &'a [u8] {
        match &held.bytes {
            Place::Copied(range) => self.data.get(range.clone()).unwrap_or_default(),
            Place::Kept(bytes) => bytes,
        }
    }

    /// What it holds of memory.
    pub fn weight(&self) -> usize {
        let kept = self.tensors.iter().flatten().map(|held| match &held.bytes {
            Place::Kept(bytes) => bytes.len(),
            Place::Copied(_) => 0,
        });
        let texts = &self.texts;
        let tags: usize = texts.tags.iter().map(|(key, value)| key.len() + value.len() + 32).sum();
        let ids = texts.request_id.len() + texts.label_key.as_ref().map_or(0, |key| key.len());
        kept.sum::<usize>() + self.data.capacity() + ids + tags + OVERHEAD
    }
}
