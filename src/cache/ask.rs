//! Asks a version through its cache: the answer that is kept, a place in a run under way, or a run of one's own.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    flight::{Boarded, Seat, Ticket},
    key::Key,
    store::Store,
};
use crate::{
    batcher::{
        reply::{self, Awaited, Replier, Reply, Spent},
        served::{JobInputs, Request, Served},
    },
    predlog::record::CacheUse,
    runtime::session::Outputs,
    telemetry::clock::now,
    types::{
        error::Error,
        request::{InferRequest, Parameter},
        time::Tick,
    },
};

/// The parameter of a request that says whether the cache may answer it: `true` where it is left out.
pub const PARAMETER: &str = "cache";

/// The cache, as one version has it.
pub struct Cached {
    pub store: Arc<Store>,
    /// What the version is: part of every key.
    identity: u128,
}

impl Cached {
    /// `parts`: all that this version's answers depend on beside what it is asked.
    pub fn new(store: Arc<Store>, parts: &[&[u8]]) -> Cached {
        let identity = store.secret.identity(parts);
        Cached { store, identity }
    }

    /// Whether `request` wants to have nothing to do with the cache.
    pub fn bypassed(request: &InferRequest) -> Result<bool, Error> {
        let mut given = request.parameters.iter().filter(|(name, _)| **name == *PARAMETER);
        match given.next() {
            None => Ok(false),
            Some((_, Parameter::Bool(wanted))) => Ok(!wanted),
            Some(_) => Err(Error::invalid("parameter 'cache': expected true or false")),
        }
    }

    fn key(&self, inputs: &JobInputs) -> Key {
        self.store.secret.key(self.identity, self.store.epoch(), inputs)
    }

    /// The answer to `request`, or the way to it.
    pub fn ask(
        &self,
        served: &Arc<Served>,
        request: Request,
        started: Tick,
    ) -> Result<Answering, Error> {
        let key = self.key(&request.inputs);
        let flights = &self.store.flights;
        let glance = flights.glance(key);
        if let Some(outputs) = self.store.get(key) {
            return Ok(Answering::kept(outputs, started));
        }
        let ticket = Ticket { deadline: request.deadline, priority: request.priority };
        match flights.board(&self.store, &served.stats, key, glance, ticket) {
            Boarded::Kept(outputs) => Ok(Answering::kept(outputs, started)),
            Boarded::Joined(seat) => {
                served.stats.coalesced(now().since(started));
                let (served, request) = (served.clone(), Some(request));
                let waiting = Waiting { served, seat, request, own: None };
                Ok(Answering::Joined(Box::new(waiting)))
            }
            Boarded::Leads(seat) => {
                let begun = now();
                served.stats.missed(begun.since(started));
                let replier = Replier::shared(seat.flight.clone());
                let gathered = served.submit_to(replier, request, begun)?;
                Ok(Answering::Leads { seat, gathered })
            }
        }
    }
}

/// An answer that is there or comes; a future of it.
pub enum Answering {
    /// From the batcher, for this request alone.
    Own(Awaited),
    /// From the cache.
    Kept(Box<Kept>),
    /// From a run that it began, and that others may join.
    Leads { seat: Seat, gathered: bool },
    /// From a run that another one began.
    Joined(Box<Waiting>),
}

/// An answer that was kept.
pub struct Kept {
    outputs: Option<Outputs>,
    /// What it took to find it.
    lookup: Duration,
}

/// A request that waits for another one's run.
pub struct Waiting {
    served: Arc<Served>,
    seat: Seat,
    /// What it asks; `None` once it asked for a run of its own.
    request: Option<Request>,
    own: Option<Awaited>,
}

impl Answering {
    fn kept(outputs: Outputs, started: Tick) -> Answering {
        let lookup = now().since(started);
        Answering::Kept(Box::new(Kept { outputs: Some(outputs), lookup }))
    }

    /// What it took to find an answer that was kept.
    pub fn lookup(&self) -> Option<Duration> {
        match self {
            Answering::Kept(kept) => Some(kept.lookup),
            _ => None,
        }
    }

    /// What the cache has to do with it.
    pub fn cache_use(&self) -> CacheUse {
        match self {
            Answering::Own(_) => CacheUse::Bypass,
            Answering::Kept(_) => CacheUse::Hit,
            Answering::Leads { .. } => CacheUse::Miss,
            Answering::Joined(_) => CacheUse::Coalesced,
        }
    }

    /// Whether the answer comes without a timer being needed: it is there, or at the end of this thread's turn.
    pub fn prompt(&self) -> bool {
        match self {
            Answering::Own(awaited) => awaited.gathered,
            Answering::Kept(_) => true,
            Answering::Leads { gathered, .. } => *gathered,
            Answering::Joined(_) => false,
        }
    }
}

impl Future for Answering {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        match self.get_mut() {
            Answering::Own(awaited) => Pin::new(awaited).poll(cx),
            Answering::Kept(kept) => {
                let outputs = Ok(kept.outputs.take().unwrap_or_default());
                Poll::Ready(Reply { outputs, spent: Spent::default() })
            }
            Answering::Leads { seat, .. } => {
                seat.poll(cx).map(|reply| reply.unwrap_or_else(reply::lost))
            }
            Answering::Joined(waiting) => waiting.poll(cx),
        }
    }
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        if let Some(own) = &mut self.own {
            return Pin::new(own).poll(cx);
        }
        match self.seat.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(reply)) => return Poll::Ready(reply),
            Poll::Ready(None) => {}
        }
        let Some(request) = self.request.take() else { return Poll::Ready(reply::lost()) };
        match self.served.submit(request, now()) {
            Ok(awaited) => Pin::new(self.own.insert(awaited)).poll(cx),
            Err(error) => Poll::Ready(Reply { outputs: Err(error), spent: Spent::default() }),
        }
    }
}
