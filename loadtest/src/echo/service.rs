//! The echo server on hyper: both protocols on one port.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use rand_pcg::{
    Pcg64Mcg,
    rand_core::{Rng, SeedableRng},
};
use tokio::{net::TcpListener, sync::oneshot, task::LocalSet};

use super::{
    Options,
    answers::{self, Refusal, refusal},
    line::Line,
    timer::Timer,
};

const HEADER_LENGTH: &str = "inference-header-content-length";
const SERVICE: &str = "/inference.GRPCInferenceService/";
/// Bytes of a request.
const LARGEST: usize = 64 << 20;

/// What all connections share. Everything of it runs on one thread; the timer has its own.
pub struct Echo {
    options: Options,
    began: Instant,
    line: std::sync::Mutex<(Line, Pcg64Mcg)>,
    timer: Timer,
}

impl Echo {
    pub fn new(options: Options, line: Line, timer: Timer) -> Echo {
        let rng = Pcg64Mcg::seed_from_u64(options.seed);
        Echo { options, began: Instant::now(), line: (line, rng).into(), timer }
    }

    /// Waits as long as the service of this request takes.
    async fn serve(&self) -> Result<(), Refusal> {
        let now = self.began.elapsed().as_nanos() as u64;
        let (end, fails) = {
            let mut line = self.line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (line, rng) = &mut *line;
            let service = self.options.latency.sample(rng);
            let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            (line.come(now, service), unit < self.options.failures)
        };
        let end = end.ok_or_else(|| refusal(429, 8, "the line is full"))?;
        if end > now {
            self.timer.at(self.began + Duration::from_nanos(end)).await;
        }
        if fails { Err(refusal(500, 13, "it fails, as it was told to")) } else { Ok(()) }
    }
}

/// Takes connections until it is stopped.
pub async fn accept(listener: TcpListener, echo: Arc<Echo>, mut stop: oneshot::Receiver<()>) {
    let local = LocalSet::new();
    local
        .run_until(async {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = &mut stop => return,
                };
                // Too many open files: the next one may find some closed.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let echo = echo.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(echo.clone(), request));
                    let mut builder = auto::Builder::new(Local);
                    builder
                        .http2()
                        .initial_stream_window_size(2 << 20)
                        .initial_connection_window_size(16 << 20)
                        .max_concurrent_streams(1000);
                    // A client that breaks off ends its own connection.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        })
        .await;
}

/// Spawns on the server's own thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn answer(echo: Arc<Echo>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    Ok(if grpc { call(&echo, request).await } else { http(&echo, request).await })
}

async fn whole(body: Incoming) -> Result<Bytes, Refusal> {
    let read = Limited::new(body, LARGEST).collect().await;
    read.map(|read| read.to_bytes()).map_err(|e| refusal(400, 3, format!("the body: {e}")))
}

async fn http(echo: &Echo, request: Request<Incoming>) -> Response<Body> {
    let answered = route(echo, request).await;
    let (status, body, length) = match answered {
        Ok((body, length)) => (200, body, length),
        Err(Refusal { http, message, .. }) => {
            (http, serde_json::json!({"error": message}).to_string().into_bytes(), None)
        }
    };
    let mut response = Response::new(Body { data: Some(body.into()), trailers: None });
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(length) = length {
        headers.insert(HEADER_LENGTH, length.into());
    }
    response
}

async fn route(
    echo: &Echo,
    request: Request<Incoming>,
) -> Result<(Vec<u8>, Option<usize>), Refusal> {
    let path = request.uri().path().to_owned();
    let version = &echo.options.version;
    if request.method() == Method::GET {
        let found = answers::get(&path, version);
        let found = found.ok_or_else(|| refusal(404, 12, format!("there is no {path}")))?;
        return Ok((found.to_string().into_bytes(), None));
    }
    let model = path.strip_prefix("/v2/models/").and_then(|rest| rest.strip_suffix("/infer"));
    let model = model.ok_or_else(|| refusal(404, 12, format!("there is no {path}")))?;
    let model = model.split('/').next().unwrap_or(model).to_owned();
    let length = request.headers().get(HEADER_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let body = whole(request.into_body()).await?;
    let answered = answers::infer_http(&model, version, &body, length)?;
    echo.serve().await?;
    Ok(answered)
}

async fn call(echo: &Echo, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let method = path.strip_prefix(SERVICE).unwrap_or(path).to_owned();
    let version = &echo.options.version;
    let answered = async {
        let framed = whole(request.into_body()).await?;
        let message = framed.get(5..).ok_or_else(|| refusal(400, 3, "the message is cut off"))?;
        if method != "ModelInfer" {
            return answers::call(&method, message, version);
        }
        let answered = answers::infer_grpc(message, version)?;
        echo.serve().await?;
        Ok(answered)
    };
    let (data, status, text) = match answered.await {
        Ok(message) => {
            let mut framed = vec![0];
            framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
            framed.extend_from_slice(&message);
            (Some(framed.into()), 0, None)
        }
        Err(Refusal { grpc, message, .. }) => (None, grpc, Some(message)),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", u16::from(status).into());
    if let Some(text) = text.and_then(|text| HeaderValue::from_str(&text.replace(' ', "%20")).ok())
    {
        trailers.insert("grpc-message", text);
    }
    let mut response = Response::new(Body { data, trailers: Some(trailers) });
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A body that is here whole, and trailers.
struct Body {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let data = this.data.take().filter(|data| !data.is_empty()).map(Frame::data);
        Poll::Ready(data.or_else(|| this.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
