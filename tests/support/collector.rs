//! A collector of spans (OTLP over gRPC) that keeps what it is sent.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onnxd::api::body::{Body, Chunks};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::net::TcpListener;

pub struct Collector {
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Listens on a free port of loopback until the process ends.
    pub fn start() -> Collector {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        listener.set_nonblocking(true).expect("a socket");
        let kept = spans.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("an event loop").block_on(serve(listener, kept));
        });
        Collector { endpoint, spans }
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: std::net::TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let spans = spans.clone();
        let service = service_fn(move |request| take(request, spans.clone()));
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn take(
    request: Request<Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
) -> Result<Response<Body>, Infallible> {
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    let message = ExportTraceServiceRequest::decode(&body[5..]).expect("an export");
    let scopes = message.resource_spans.into_iter().flat_map(|r| r.scope_spans);
    let mut kept = spans.lock().unwrap_or_else(PoisonError::into_inner);
    kept.extend(scopes.flat_map(|scope| scope.spans));
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let nothing = Chunks::from_iter([Bytes::from_static(&[0; 5])]);
    let answer = Response::builder().header("content-type", "application/grpc");
    Ok(answer.body(Body::chunks(nothing, Some(trailers))).expect("an answer"))
}

/// An attribute's text, or its number as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}
