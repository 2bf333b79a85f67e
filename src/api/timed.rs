//! The bodies of routed requests: held to the same size and time as those of the fast lane, which reads its own.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{body::BodyLimits, grpc};

/// The calls whose requests are a stream of messages: they may take hours, and cost a stream meanwhile.
const STREAMED: [&str; 2] = ["/ModelStreamInfer", "/ServerReflectionInfo"];

/// The request as the routers take it, its body within the limits.
pub fn request(request: Request<Incoming>, limits: BodyLimits) -> Request<axum::body::Body> {
    let streamed = STREAMED.iter().any(|call| request.uri().path().ends_with(call));
    let timeout = (!streamed).then_some(limits.timeout);
    // A call of gRPC may be many messages: each is held to the size where it is read.
    let max = if grpc::spoken(request.headers()) { usize::MAX } else { limits.max_bytes };
    request.map(|body| {
        let body = Limited::new(body, max);
        axum::body::Body::new(Timed { body, timeout, sleep: None })
    })
}

struct Timed {
    body: Limited<Incoming>,
    timeout: Option<Duration>,
    /// Set when something is first waited for: most bodies are here with their heads.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx).map_err(axum::Error::new);
        let (true, Some(timeout)) = (frame.is_pending(), this.timeout) else { return frame };
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        sleep.as_mut().poll(cx).map(|()| {
            let late = format!("the body did not arrive within {} s", timeout.as_secs_f32());
            Some(Err(axum::Error::new(std::io::Error::new(std::io::ErrorKind::TimedOut, late))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
