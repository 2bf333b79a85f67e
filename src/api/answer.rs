//! Who answers on which port, behind the gate.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{
    body::{Body, BodyLimits},
    fast::{self, Front, Lane},
    gate::{Behind, Gate},
    peer::Peer,
    timed,
};
use crate::{serving::caller::Caller, telemetry::clock::now};

/// Who answers on a set of listeners; one clone a request.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Whether its threads run models: they take turns (`batcher::turn`).
    const RUNS_MODELS: bool;

    /// Called when the head has arrived; the future waits for the rest.
    fn answer(
        self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<Self>;
}

/// The data ports: the fast lane, and the routers behind it.
impl Behind for Arc<Front> {
    const RUNS_MODELS: bool = true;

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn answer(
        self,
        request: Request<Incoming>,
        caller: Option<Arc<Caller>>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let received = now();
        let lane = Lane::of(&self, request);
        fast::answer(self, lane, caller, received)
    }
}

/// The operator's port.
#[derive(Clone)]
pub struct Operator {
    pub router: axum::Router,
    pub gate: Arc<Gate>,
    pub limits: BodyLimits,
}

impl Behind for Operator {
    const RUNS_MODELS: bool = false;

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn answer(
        self,
        request: Request<Incoming>,
        _caller: Option<Arc<Caller>>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let routed = self.router.oneshot(timed::request(request, self.limits));
        async { Ok(routed.await?.map(Body::Routed)) }
    }
}
