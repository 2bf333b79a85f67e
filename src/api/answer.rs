//! Who answers on which port: the one place that every request of every listener passes first.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{
    body::Body,
    fast::{self, Front, Lane},
    peer::Peer,
};
use crate::telemetry::clock::now;

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
impl Answer for Arc<Front> {
    const RUNS_MODELS: bool = true;

    fn answer(
        self,
        request: Request<Incoming>,
        _peer: &Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let received = now();
        fast::answer(self, Lane::of(request), received)
    }
}

/// The operator's port.
impl Answer for axum::Router {
    const RUNS_MODELS: bool = false;

    fn answer(
        self,
        mut request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        request.extensions_mut().insert(peer.clone());
        let routed = self.oneshot(request.map(axum::body::Body::new));
        async { Ok(routed.await?.map(Body::Routed)) }
    }
}
