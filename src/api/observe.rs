//! The outermost layer of every port: a line of the access log and a span for each request, where they are asked for.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::{answer::Answer, body::Body, gate, grpc, peer::Peer};
use crate::{
    telemetry::{
        clock::now,
        logs::Access,
        request::{self, Known},
        trace::{Outcome, Parent, RequestSpan, Traces},
    },
    types::{
        error::{Blame, Code},
        time::Tick,
    },
};

/// What watches the requests.
#[derive(Debug)]
pub struct Observer {
    pub access: Access,
    pub traces: Option<Traces>,
}

impl Observer {
    /// Has the last spans sent; takes a second at most.
    pub fn finish(&self) {
        if let Some(traces) = &self.traces {
            traces.finish();
        }
    }
}

/// What answers, watched where there is an observer.
#[derive(Clone)]
pub struct Observed<A> {
    pub inner: A,
    pub observer: Option<Arc<Observer>>,
}

impl<A: Answer> Answer for Observed<A> {
    const RUNS_MODELS: bool = A::RUNS_MODELS;

    fn answer(
        self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<A> {
        let Some(observer) = self.observer else {
            return Answering { answer: self.inner.answer(request, peer), watch: None };
        };
        let mut watch = Box::new(Watch::new(observer, &request, peer));
        let answer = request::within(&mut watch.known, || self.inner.answer(request, peer));
        Answering { answer, watch: Some(watch) }
    }
}

pin_project! {
    /// An answer on its way.
    struct Answering<F> {
        #[pin]
        answer: F,
        watch: Option<Box<Watch>>,
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let way = self.project();
        let Some(watch) = way.watch else { return way.answer.poll(cx) };
        let mut answer = ready!(request::within(&mut watch.known, || way.answer.poll(cx)));
        if let (Some(mut watch), Ok(answer)) = (way.watch.take(), &mut answer) {
            watch.answered(answer);
        }
        Poll::Ready(answer)
    }
}

/// One request under watch. Dropped before its answer, its client left.
struct Watch {
    observer: Arc<Observer>,
    /// `None` only while a step of the request runs.
    known: Option<Box<Known>>,
    began: Tick,
    head: Head,
    span: Option<RequestSpan>,
    trace_id: Option<String>,
    finished: bool,
}

/// What is kept of a request's head.
struct Head {
    peer: Arc<Peer>,
    method: String,
    path: String,
    protocol: &'static str,
    id: Option<String>,
}

impl Watch {
    fn new(observer: Arc<Observer>, request: &Request<Incoming>, peer: &Arc<Peer>) -> Watch {
        let head = Head::of(request, peer);
        let parent = Parent::of(request.headers());
        let name = || format!("{} {}", head.method, head.path);
        let span = observer.traces.as_ref().and_then(|traces| traces.begin(&parent, name()));
        let trace_id = span.as_ref().map(RequestSpan::trace_id).or_else(|| parent.trace_id());
        let ids = span.as_ref().map(RequestSpan::ids);
        let known = Some(Box::new(Known { span: ids, ..Known::default() }));
        Watch { observer, known, began: now(), head, span, trace_id, finished: false }
    }

    fn answered(&mut self, answer: &mut Response<Body>) {
        let status = answer.status().as_u16();
        self.finish(status, gate::code_of(answer));
        let response = self.span.as_ref().and_then(RequestSpan::response);
        if let Some(value) = response {
            answer.headers_mut().insert("traceresponse", value);
        }
    }

    fn finish(&mut self, status: u16, code: Option<Code>) {
        self.finished = true;
        let known = self.known.take().unwrap_or_default();
        // The engine's own word is exact where several codes look alike on the wire.
        let code = code.map(|code| known.code.unwrap_or(code));
        if self.observer.access.takes(code.is_some()) {
            self.write(status, code, &known);
        }
        if let (Some(traces), Some(span)) = (&self.observer.traces, &self.span) {
            traces.end(span, &known.spans, self.outcome(status, code, &known));
        }
    }

    /// The line of the access log. What a client sent is escaped with the rest of the line.
    fn write(&self, status: u16, code: Option<Code>, known: &Known) {
        let Head { peer, method, path, protocol, id } = &self.head;
        let micros = |time: std::time::Duration| time.as_micros() as u64;
        let inferred = known.inferences > 0;
        tracing::info!(
            target: "access",
            peer = peer.ip.map(tracing::field::display),
            caller = known.caller.as_deref(),
            protocol,
            method,
            path,
            status,
            code = code.map_or("ok", Code::label),
            duration_us = micros(now().since(self.began)),
            model = known.model.as_deref(),
            version = known.version.as_deref(),
            rows = inferred.then_some(known.rows as u64),
            queue_us = inferred.then_some(micros(known.spans.queue)),
            infer_us = inferred.then_some(micros(known.spans.infer)),
            request_id = id.as_deref(),
            trace_id = self.trace_id.as_deref(),
        );
    }

    /// By the names of OpenTelemetry's semantic conventions where there are any.
    fn outcome(&self, status: u16, code: Option<Code>, known: &Known) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.attribute("http.request.method", self.head.method.clone());
        outcome.attribute("url.path", self.head.path.clone());
        outcome.attribute("network.protocol.version", self.head.protocol);
        if let Some(ip) = self.head.peer.ip {
            outcome.attribute("client.address", ip.to_string());
        }
        if self.head.protocol == "grpc" {
            let grpc = code.map_or(0, Code::grpc);
            outcome.attribute("rpc.system", "grpc");
            outcome.attribute("rpc.grpc.status_code", i64::from(grpc));
        } else {
            outcome.attribute("http.response.status_code", i64::from(status));
        }
        if let (Some(model), Some(version)) = (&known.model, &known.version) {
            outcome.attribute("onnxd.model", model.clone());
            outcome.attribute("onnxd.version", version.clone());
            outcome.attribute("onnxd.rows", i64::try_from(known.rows).unwrap_or(i64::MAX));
        }
        if let Some(code) = code {
            outcome.attribute("error.type", code.label());
            outcome.error = (code.blame() != Blame::Client).then(|| code.label());
        }
        outcome
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(Code::Cancelled.http(), Some(Code::Cancelled));
        }
    }
}

/// The longest path and id that a line keeps; routes of ours are shorter.
const LONGEST: usize = 256;

impl Head {
    fn of(request: &Request<Incoming>, peer: &Arc<Peer>) -> Head {
        let short = |text: &str| text[..text.floor_char_boundary(LONGEST)].to_owned();
        let id = request.headers().get("x-request-id").map(HeaderValue::as_bytes);
        Head {
            peer: peer.clone(),
            method: short(request.method().as_str()),
            path: short(request.uri().path()),
            protocol: match request.version() {
                _ if grpc::spoken(request.headers()) => "grpc",
                Version::HTTP_2 => "2",
                Version::HTTP_11 => "1.1",
                _ => "1.0",
            },
            id: id.map(|id| short(&String::from_utf8_lossy(id))),
        }
    }
}
