//! The fast lane: the infer routes of both protocols, answered directly on hyper; everything else goes to the routers.

use std::{cell::RefCell, convert::Infallible, num::IntErrorKind, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{
    body::{self, Body, BodyLimits, Chunks},
    coded, compat, encoding, errors,
    gate::Gate,
    grpc,
    heads::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING, HEADER_LENGTH, Heads, TIMEOUT},
    http::wrong_method,
    streaming::{self, Stream},
    timed, v1,
};
use crate::{
    predlog::capture::{LABEL_HEAD, REQUEST_ID},
    serving::{
        caller::Caller,
        engine::Engine,
        memory::{Budget, Level},
    },
    shutdown,
    telemetry::registry::registry,
    types::{
        error::{Code, Error},
        request::{InferResponse, RouteHeads},
        text::Text,
        time::Tick,
        traffic::ROUTE,
    },
    wire::{self, flate::Coding},
};

const GRPC_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const GRPC_STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// What every connection of the data ports shares.
pub struct Front {
    pub engine: Arc<Engine>,
    /// Every other route of both protocols.
    pub router: axum::Router,
    pub limits: BodyLimits,
    pub gate: Gate,
    /// Tells streams that the server stops.
    pub shutdown: shutdown::Listener,
}

/// Where a request goes, and what of it is needed there.
pub enum Lane {
    Grpc { body: Incoming, call: Result<Call, Error> },
    Http { body: Incoming, form: Result<Form, Error> },
    V1(Box<v1::Ask>),
    Stream { body: Incoming, call: Result<streaming::Call, Error> },
    Router(Box<Request<Incoming>>),
}

impl Front {
    /// What of a request's headers traffic rules look at: of nearly every server nothing.
    pub fn route_heads(&self, headers: &HeaderMap) -> RouteHeads {
        let table = self.engine.table.load();
        if table.heads.is_empty() { None } else { route_heads(&table.heads, headers) }
    }
}

#[cold]
fn route_heads(names: &[Arc<str>], headers: &HeaderMap) -> RouteHeads {
    let given = names.iter().filter_map(|name| {
        let value = headers.get(&**name)?.to_str().ok()?;
        Some((name.clone(), Text::from(value)))
    });
    let given: Box<[_]> = given.collect();
    (!given.is_empty()).then_some(given)
}

/// What of them holds for every request of a stream: an id, or a key for labels, is that of one.
fn of_stream(heads: RouteHeads) -> RouteHeads {
    let heads: Vec<_> = heads?
        .into_iter()
        .filter(|(name, _)| ![LABEL_HEAD, REQUEST_ID].contains(&&**name))
        .collect();
    (!heads.is_empty()).then(|| heads.into())
}

/// Says in the answer's head which way the request took, where the model has traffic rules.
pub fn say_route(route: &Option<Arc<str>>, answer: &mut Response<Body>) {
    if let Some(route) = route
        && let Ok(value) = HeaderValue::from_str(route)
    {
        answer.headers_mut().insert(HeaderName::from_static(ROUTE), value);
    }
}

impl Lane {
    /// Chosen from the head alone, before anything waits: a future that waits carries no headers around.
    pub fn of(front: &Front, request: Request<Incoming>) -> Lane {
        let path = request.uri().path();
        let post = request.method() == Method::POST;
        if path == GRPC_INFER || post && path == GRPC_STREAM {
            let heads = Heads::of(request.headers());
            let routes = || front.route_heads(request.headers());
            if heads.content_type.is_some_and(|kind| grpc::is_grpc(kind.as_bytes())) {
                if path == GRPC_INFER {
                    let call = Call::of(&heads, routes());
                    return Lane::Grpc { call, body: request.into_body() };
                }
                let call = streaming::Call::of(&heads, of_stream(routes()));
                return Lane::Stream { call, body: request.into_body() };
            }
        } else if post && let Some(target) = infer_target(path) {
            let form = target.and_then(|target| Form::of(front, request.headers(), target));
            return Lane::Http { form, body: request.into_body() };
        } else if let Some(call) = compat::call(path) {
            let call = if post { call } else { Err(wrong_method(request.method(), path)) };
            return Lane::V1(Box::new(v1::Ask::of(front, call, request)));
        }
        Lane::Router(Box::new(request))
    }
}

/// Answers one request, whatever it asks for.
pub async fn answer(
    front: Arc<Front>,
    lane: Lane,
    caller: Option<Arc<Caller>>,
    received: Tick,
) -> Result<Response<Body>, Infallible> {
    match lane {
        Lane::Grpc { body, call } => {
            let answer = grpc_infer(&front, body, call, caller.as_deref(), received).await;
            Ok(answer.unwrap_or_else(|error| grpc_error(&error)))
        }
        Lane::Http { body, form } => {
            let answer = http_infer(&front, body, form, caller.as_deref(), received).await;
            let mut answer = answer.unwrap_or_else(|error| http_error(&error));
            // HTTP/2 knows no such header, and leaves it out.
            if front.engine.budget.level() >= Level::Shrink {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        }
        // Boxed, as all that is not everybody's.
        Lane::V1(ask) => {
            let answer = Box::pin(v1::infer(&front, *ask, caller.as_deref(), received)).await;
            Ok(answer.unwrap_or_else(|error| {
                let mut answer = http_error(&error);
                if error.code == Code::WrongMethod {
                    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                }
                answer
            }))
        }
        Lane::Stream { body, call } => Ok(match call.inspect_err(count_refused) {
            Ok(call) => {
                grpc_head(Body::Stream(Box::new(Stream::new(front, body, &call, caller, received))))
            }
            Err(error) => grpc_error(&error),
        }),
        // Boxed so that the fast lane's future does not carry the routers'.
        Lane::Router(request) => Box::pin(route(front, *request, caller)).await,
    }
}

async fn route(
    front: Arc<Front>,
    request: Request<Incoming>,
    caller: Option<Arc<Caller>>,
) -> Result<Response<Body>, Infallible> {
    let mut request = timed::request(request, front.limits);
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let response = front.router.clone().oneshot(request).await?;
    Ok(response.map(Body::Routed))
}

// ---- gRPC

/// What the head of a call says about how to read it and how to answer.
pub struct Call {
    timeout: Option<Duration>,
    messages: encoding::Messages,
    routes: RouteHeads,
}

impl Call {
    fn of(heads: &Heads<'_>, routes: RouteHeads) -> Result<Call, Error> {
        let timeout =
            heads.grpc_timeout.map(|value| grpc::timeout(value.as_bytes())).transpose()?;
        Ok(Call { timeout, messages: encoding::of_call(heads)?, routes })
    }
}

async fn grpc_infer(
    front: &Front,
    body: Incoming,
    call: Result<Call, Error>,
    caller: Option<&Caller>,
    received: Tick,
) -> Result<Response<Body>, Error> {
    let Call { timeout, messages, routes } = call.inspect_err(count_refused)?;
    let budget = &front.engine.budget;
    let mut charge = budget.charge();
    let framed = body::read(body, front.limits, &mut charge).await.inspect_err(count_refused)?;
    let mut message = match grpc_message(framed).inspect_err(count_refused)? {
        (false, message) => message,
        // Boxed, as all that is not everybody's: the future of a plain request stays as small as it was.
        (true, packed) => {
            let sent = std::mem::replace(&mut charge, budget.charge());
            let max = front.limits.max_bytes;
            let plain = Box::pin(coded::unpack(&packed, messages.sent, max, &mut charge)).await;
            drop(sent);
            plain.inspect_err(count_refused)?
        }
    };
    message = charge.go_with(message);
    let pending = {
        let mut request = wire::grpc::decode_request(&message).inspect_err(count_refused)?;
        budget.decoded(&mut request, &message).inspect_err(count_refused)?;
        drop(message);
        request.heads = routes;
        front.engine.begin(request, received, timeout, caller)?
    };
    let response = pending.answer().await?;
    let chunks = HEAD.with_borrow_mut(|head| wire::grpc::encode_response(&response, head))?;
    let mut answer = match messages.answer {
        Coding::Identity => grpc_head(Body::chunks(chunks, Some(ok()))),
        coding => Box::pin(grpc_packed(chunks, coding, budget)).await?,
    };
    say_route(&response.route, &mut answer);
    Ok(answer)
}

/// The trailers of a call that went well.
fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

/// The answer to a call whose client compresses: compressed too, where that makes it smaller.
async fn grpc_packed(
    chunks: Chunks,
    coding: Coding,
    budget: &Arc<Budget>,
) -> Result<Response<Body>, Error> {
    let packed = coded::pack(chunks, coding, budget).await?;
    let smaller = packed.first().is_some_and(|chunk| chunk.first() == Some(&1));
    let mut answer = grpc_head(Body::chunks(packed, Some(ok())));
    let headers = answer.headers_mut();
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(encoding::GRPC_ACCEPTED));
    if smaller {
        headers.insert(GRPC_ENCODING, HeaderValue::from_static(coding.name()));
    }
    Ok(answer)
}

thread_local! {
    /// Where this thread writes the heads of its answers; what was sent is used again.
    static HEAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Counts a request that reached no version; the engine counts those it sees.
pub fn count_refused(error: &Error) {
    registry().refused(error.code);
}

/// The one message of a unary call: a flag byte, a length, the message. Whether it is compressed comes first.
fn grpc_message(mut framed: Bytes) -> Result<(bool, Bytes), Error> {
    let Some((&head, rest)) = framed.split_first_chunk::<5>() else {
        let got = framed.len();
        return Err(Error::invalid(format!("a gRPC message begins with 5 bytes, got {got}")));
    };
    let (packed, length) = coded::frame_head(head)?;
    if length != rest.len() {
        return Err(Error::invalid(format!(
            "the gRPC message says {length} bytes, the call carries {}",
            rest.len()
        )));
    }
    framed.advance(5);
    Ok((packed, framed))
}

fn grpc_head(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A trailers-only answer: the status in the head of a response without a body.
fn grpc_error(error: &Error) -> Response<Body> {
    errors::grpc_status(error).into_http()
}

// ---- HTTP

/// The model and version of a path that is an infer route, percent-decoded.
struct Target {
    model: Text,
    version: Text,
}

impl Target {
    /// Why there is no such model or version, where that is so: of a request that is wrong otherwise, too, that is what a person
    /// has to know first.
    fn unknown(&self, engine: &Engine) -> Option<Error> {
        let resolved = engine.table.load().resolve(&self.model, &self.version);
        resolved.err().filter(|error| error.code == Code::NotFound)
    }
}

/// `/v2/models/M[/versions/V]/infer`; `None` where the path is something else.
fn infer_target(path: &str) -> Option<Result<Target, Error>> {
    let middle = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
    let (model, version) = match middle.split_once('/') {
        None => (middle, ""),
        Some((model, rest)) => (model, rest.strip_prefix("versions/")?),
    };
    if version.contains('/') || (version.is_empty() && middle.contains('/')) {
        return None;
    }
    let decoded = super::path::decode(model).and_then(|model| {
        let version = super::path::decode(version)?;
        Ok(Target { model, version })
    });
    Some(decoded)
}

async fn http_infer(
    front: &Front,
    body: Incoming,
    form: Result<Form, Error>,
    caller: Option<&Caller>,
    received: Tick,
) -> Result<Response<Body>, Error> {
    let form = form.inspect_err(count_refused)?;
    let budget = &front.engine.budget;
    let mut charge = budget.charge();
    let Form { target, json_length, plain: Plain { timeout, coding, answer, routes } } = form;
    let body = match coding {
        Coding::Identity => body::read(body, front.limits, &mut charge).await,
        coding => Box::pin(body::read_coded(body, coding, front.limits, &mut charge)).await,
    };
    let body = charge.go_with(body.inspect_err(count_refused)?);
    let pending = {
        let decoded = match json_length {
            None => wire::json::decode_request(&body),
            Some(length) => wire::binary::decode_request(&body, length),
        };
        let decoded = decoded.map_err(|error| target.unknown(&front.engine).unwrap_or(error));
        let mut request = decoded.inspect_err(count_refused)?;
        budget.decoded(&mut request, &body).inspect_err(count_refused)?;
        drop(body);
        request.model = target.model;
        request.version = target.version;
        request.heads = routes;
        front.engine.begin(request, received, timeout, caller)?
    };
    let response = pending.answer().await?;
    let mut plain = http_answer(&response, budget)?;
    say_route(&response.route, &mut plain);
    drop(response);
    match answer {
        Coding::Identity => Ok(plain),
        coding => Box::pin(coded::answer(plain, coding, budget)).await,
    }
}

/// What the head says about how to read the request.
pub struct Form {
    target: Target,
    json_length: Option<usize>,
    plain: Plain,
}

/// The part of it that every call over HTTP has.
pub struct Plain {
    pub timeout: Option<Duration>,
    /// Of the request's body, and of the answer's.
    pub coding: Coding,
    pub answer: Coding,
    pub routes: RouteHeads,
}

impl Plain {
    pub fn of(front: &Front, heads: &Heads<'_>) -> Result<Plain, Error> {
        let coding = encoding::of_body(heads)?;
        if let Some(kind) = heads.content_type {
            accepted(kind)?;
        }
        // More than a number holds is longer than anybody waits.
        let timeout = number(heads.timeout, &TIMEOUT, "milliseconds", Some(u64::MAX))?;
        let timeout = timeout.filter(|&ms| ms > 0).map(Duration::from_millis);
        let answer = encoding::accepted(heads);
        Ok(Plain { timeout, coding, answer, routes: front.route_heads(heads.all) })
    }
}

impl Form {
    fn of(front: &Front, headers: &HeaderMap, target: Target) -> Result<Form, Error> {
        let heads = Heads::of(headers);
        let plain = Plain::of(front, &heads)?;
        let json_length = number(heads.header_length, &HEADER_LENGTH, "bytes of JSON", None)?;
        let json_length = json_length.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(Form { target, json_length, plain })
    }
}

/// The body decides what it is; a type that says it is something else altogether is refused.
fn accepted(kind: &HeaderValue) -> Result<(), Error> {
    const KINDS: [&str; 4] = [
        "application/json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "application/vnd.sagemaker-triton.binary+json",
    ];
    let text = kind.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    if KINDS.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Error::new(
        Code::UnsupportedMedia,
        "the content-type is none of application/json and application/octet-stream",
    ))
}

/// `most`: what more than 64 bits hold counts as; `None`: it is refused.
fn number(
    value: Option<&HeaderValue>,
    name: &HeaderName,
    what: &str,
    most: Option<u64>,
) -> Result<Option<u64>, Error> {
    let Some(value) = value else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits => Ok(Some(number)),
        Err(error) if digits && *error.kind() == IntErrorKind::PosOverflow && most.is_some() => {
            Ok(most)
        }
        _ => Err(Error::invalid(format!(
            "header {name}: expected a number of {what}, got '{}'",
            value.as_bytes().get(..64).unwrap_or(value.as_bytes()).escape_ascii()
        ))),
    }
}

fn http_answer(response: &InferResponse, budget: &Arc<Budget>) -> Result<Response<Body>, Error> {
    if response.outputs.iter().any(|output| output.binary) {
        let encoded = wire::binary::encode_response(response)?;
        let mut answer = Response::new(Body::chunks(encoded.chunks, None));
        let headers = answer.headers_mut();
        let kind = match encoded.json_len {
            Some(length) => {
                headers.insert(HEADER_LENGTH, HeaderValue::from(length));
                "application/octet-stream"
            }
            None => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        return Ok(answer);
    }
    let mut json = Vec::new();
    wire::json::encode_response(response, &mut json)?;
    let json = budget.written(json.into())?;
    let mut answer = Response::new(Body::whole(json));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn http_error(error: &Error) -> Response<Body> {
    errors::http_response(error).map(Body::Routed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infer_routes_are_told_from_others() {
        let parts = |path| match infer_target(path) {
            Some(Ok(t)) => Some((t.model.to_string(), t.version.to_string())),
            _ => None,
        };
        let named = |m: &str, v: &str| Some((m.to_owned(), v.to_owned()));
        assert_eq!(parts("/v2/models/iris/infer"), named("iris", ""));
        assert_eq!(parts("/v2/models/iris/versions/3/infer"), named("iris", "3"));
        assert_eq!(parts("/v2/models/a%2Eb/infer"), named("a.b", ""));
        assert_eq!(parts("/v2/models/iris/ready"), None);
        assert_eq!(parts("/v2/models/iris/versions//infer"), None);
        assert_eq!(parts("/v2/models/iris/versions/3/4/infer"), None);
        assert_eq!(parts("/v2/models/a/b/infer"), None);
    }

    #[test]
    fn a_grpc_call_carries_exactly_one_message() {
        let frame = |bytes: &'static [u8]| grpc_message(Bytes::from_static(bytes));
        assert_eq!(frame(b"\0\0\0\0\x02ab"), Ok((false, Bytes::from_static(b"ab"))));
        assert_eq!(frame(b"\x01\0\0\0\x02ab"), Ok((true, Bytes::from_static(b"ab"))));
        for bad in [&b""[..], b"\0\0\0\0\x03ab", b"\0\0\0\0\x01ab", b"\x02\0\0\0\x02ab"] {
            assert!(frame(bad).is_err());
        }
    }
}

#[cfg(test)]
#[path = "fast_tests.rs"]
mod against_tonic;
