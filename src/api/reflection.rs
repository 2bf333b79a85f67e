//! gRPC reflection, v1 and v1alpha: tools find the services and their messages without a .proto at hand.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Router, body::Body, extract::Request, middleware};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic_reflection::server::Builder;

use super::grpc;
use crate::shutdown::{self, Phase};

/// The files of `proto/`, compiled (`tests/proto.rs`).
const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// The routes of both versions.
pub fn routes<S>(shutdown: &shutdown::Listener) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let builder = || Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    // What is generated is whole; a test builds both.
    let whole = "the descriptors are a set of files";
    let v1 = builder().build_v1().expect(whole);
    let v1alpha = builder().build_v1alpha().expect(whole);
    let shutdown = shutdown.clone();
    let until_stop = move |request: Request| {
        let mut shutdown = shutdown.clone();
        let stops = Box::pin(async move { shutdown.reached(Phase::Draining).await });
        std::future::ready(request.map(|body| Body::new(UntilStop { body, stops })))
    };
    Router::new()
        .merge(grpc::routes("/grpc.reflection.v1.ServerReflection/", v1))
        .merge(grpc::routes("/grpc.reflection.v1alpha.ServerReflection/", v1alpha))
        .layer(middleware::map_request(until_stop))
}

/// What a client sends, until the server stops: so that an open call, which may ask nothing for hours, ends then.
struct UntilStop {
    body: Body,
    stops: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl http_body::Body for UntilStop {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self.stops.as_mut().poll(cx).map(|()| None),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
