//! What the handlers of both protocols share: the table, the engine behind a trait, and what a caller may do.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::body::BodyLimits;
use crate::{
    predlog::labels::intake::Intake,
    repository::{calls::Control, remote_status::StoreStatus, table::SharedTable, traffic::Place},
    serving::{caller::Caller, engine::Engine, memory::Budget, regions::Regions},
    shutdown::{self, Phase},
    telemetry::{clock::now, logs::Format},
    types::{
        error::Error,
        request::{InferRequest, InferResponse},
    },
};

/// An answer on its way.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<InferResponse, Error>> + Send + 'a>>;

/// The engine, as the routes of tonic's generated service call it (the fast lane calls the engine itself).
pub trait Infer: Send + Sync {
    /// Answers one request; `timeout` is what the protocol gave (`grpc-timeout`), `None` where it gave nothing.
    /// `caller`: who asks, where callers are configured. Dropping the future gives the request up.
    fn infer(
        &self,
        request: InferRequest,
        timeout: Option<Duration>,
        caller: Option<Arc<Caller>>,
    ) -> Answer<'_>;
}

impl Infer for Engine {
    fn infer(
        &self,
        request: InferRequest,
        timeout: Option<Duration>,
        caller: Option<Arc<Caller>>,
    ) -> Answer<'_> {
        Box::pin(
            async move { self.begin(request, now(), timeout, caller.as_deref())?.answer().await },
        )
    }
}

/// What every handler sees.
#[derive(Clone)]
pub struct Api {
    pub table: SharedTable,
    pub infer: Arc<dyn Infer>,
    /// Every wanted model serves. Wakes who waits whenever the table has changed.
    pub ready: watch::Receiver<bool>,
    /// How it goes with the object store that models come from, where they do.
    pub store: Option<Arc<StoreStatus>>,
    /// How far a stop has come: from its first phase on the server is not ready any more.
    pub shutdown: shutdown::Listener,
    /// Whether this port carries the repository's load and unload calls.
    pub control: bool,
    /// Where those calls go.
    pub calls: Control,
    /// What a request's message or body is held to.
    pub limits: BodyLimits,
    /// What bodies are charged to.
    pub budget: Arc<Budget>,
    /// Where traffic rules are written.
    pub place: Place,
    /// Where labels of logged predictions go.
    pub labels: Intake,
    /// What clients registered of shared memory.
    pub regions: Arc<Regions>,
    /// How the log's lines look, for the settings of the logging extension.
    pub log_format: Format,
    /// The share of requests that get a span, for those of the trace extension; `None`: there are no spans.
    pub traced: Option<f64>,
}

impl Api {
    pub fn ready(&self) -> bool {
        *self.ready.borrow() && self.shutdown.phase() == Phase::Serving
    }

    /// What is wrong with the models' object store, ready or not.
    pub fn note(&self) -> Option<&'static str> {
        self.store.as_ref()?.note()
    }
}
