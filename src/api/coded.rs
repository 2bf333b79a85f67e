//! Compressed bodies on the way in and out: the messages of gRPC calls, HTTP's answers, and the layer that does both for
//! the routers, so that no handler knows of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body as Routed,
    extract::{Request, State},
    middleware::Next,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use super::{
    body::{self, Body, Chunks},
    encoding::{self, WORTH},
    errors::{grpc_status, http_response},
    grpc::spoken,
    heads::{self, Heads},
    state::Api,
};
use crate::{
    serving::memory::{Budget, Charge},
    telemetry::registry::registry,
    types::error::{Code, Error},
    wire::flate::Coding,
};

/// Bytes before every gRPC message: a flag for compression and the length.
const HEAD: usize = 5;

/// Reads what stands before a gRPC message: whether it is compressed, and its length.
///
/// # Errors
/// `InvalidArgument` for a flag that means nothing.
pub fn frame_head(head: [u8; HEAD]) -> Result<(bool, usize), Error> {
    let [flag, a, b, c, d] = head;
    if flag > 1 {
        return Err(Error::invalid(format!(
            "a gRPC message begins with its compressed flag, 0 or 1, got {flag}"
        )));
    }
    Ok((flag == 1, u32::from_be_bytes([a, b, c, d]) as usize))
}

/// Decompresses one gRPC message that was flagged as compressed. `charge` grows by what comes out.
pub async fn unpack(
    message: &Bytes,
    sent: Coding,
    max: usize,
    charge: &mut Charge,
) -> Result<Bytes, Error> {
    if sent == Coding::Identity {
        return Err(Error::invalid(
            "a message is flagged as compressed, but the call has no grpc-encoding that says how",
        ));
    }
    encoding::inflate(message, sent, max, charge).await
}

/// Compresses one framed gRPC message; leaves it as it is where that is not worth it.
pub async fn pack(framed: Chunks, coding: Coding, budget: &Arc<Budget>) -> Result<Chunks, Error> {
    let total: usize = framed.iter().map(Bytes::len).sum();
    if total < HEAD + WORTH {
        return Ok(framed);
    }
    let mut message = framed.clone();
    if let Some(first) = message.first_mut() {
        first.advance(HEAD.min(first.len()));
    }
    Ok(match encoding::deflate(&message, coding, budget).await? {
        Some(packed) => {
            let mut head = BytesMut::with_capacity(HEAD);
            head.put_u8(1);
            // Fits: it is smaller than what fitted before.
            head.put_u32(packed.len() as u32);
            Chunks::from_iter([head.freeze(), packed])
        }
        None => framed,
    })
}

/// Compresses an answer of the fast lane over HTTP, where that is worth it.
pub async fn answer(
    plain: Response<Body>,
    coding: Coding,
    budget: &Arc<Budget>,
) -> Result<Response<Body>, Error> {
    let (mut parts, body) = plain.into_parts();
    let chunks = match body {
        Body::Chunks { chunks, left, trailers: None } if left >= WORTH as u64 => {
            Chunks::from_iter(chunks)
        }
        other => return Ok(Response::from_parts(parts, other)),
    };
    let packed = encoding::deflate(&chunks, coding, budget).await?;
    let body = match packed {
        Some(packed) => {
            announce(&mut parts.headers, coding);
            Body::whole(packed)
        }
        None => Body::chunks(chunks, None),
    };
    Ok(Response::from_parts(parts, body))
}

fn announce(headers: &mut HeaderMap, coding: Coding) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
}

/// The layer before every router: what comes in compressed is handed on plain, and answers (the document, the page, the
/// metrics) are compressed as asked for.
pub async fn layer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response<Routed> {
    if spoken(request.headers()) {
        return grpc(&api, request, next).await;
    }
    http(&api, request, next).await.unwrap_or_else(|error| {
        registry().refused(error.code);
        http_response(&error)
    })
}

async fn http(api: &Api, mut request: Request, next: Next) -> Result<Response<Routed>, Error> {
    let mut charge = api.budget.charge();
    let coding = encoding::of_body(&Heads::of(request.headers()))?;
    if coding != Coding::Identity && !request.body().is_end_stream() {
        let (mut parts, body) = request.into_parts();
        let plain = body::read_coded(body, coding, api.limits, &mut charge).await?;
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.insert(header::CONTENT_LENGTH, plain.len().into());
        request = Request::from_parts(parts, plain.into());
    }
    // Why not the protocol's own routes: an unmodified tritonclient.http.aio asks for gzip with every request (its HTTP library
    // does) and can read it in answers to infer only. Triton compresses those alone, too.
    let plain = request.method() == Method::HEAD || request.uri().path().starts_with("/v2");
    let coding =
        if plain { Coding::Identity } else { encoding::accepted(&Heads::of(request.headers())) };
    let answer = next.run(request).await;
    // Only what is here whole: a stream goes out as it comes.
    let size = answer.body().size_hint().exact().unwrap_or(0);
    let coded = answer.headers().contains_key(header::CONTENT_ENCODING);
    if coding == Coding::Identity || size < WORTH as u64 || coded {
        return Ok(answer);
    }
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|_| Error::internal("an answer broke off"))?.to_bytes();
    let packed = encoding::deflate(std::slice::from_ref(&body), coding, &api.budget).await?;
    let Some(packed) = packed else { return Ok(Response::from_parts(parts, body.into())) };
    announce(&mut parts.headers, coding);
    parts.headers.insert(header::CONTENT_LENGTH, packed.len().into());
    Ok(Response::from_parts(parts, packed.into()))
}

async fn grpc(api: &Api, request: Request, next: Next) -> Response<Routed> {
    let messages = match encoding::of_call(&Heads::of(request.headers())) {
        Ok(messages) => messages,
        Err(error) => {
            registry().refused(error.code);
            return grpc_status(&error).into_http();
        }
    };
    let (mut parts, body) = request.into_parts();
    // tonic refuses what it did not decompress itself; it never sees any.
    parts.headers.remove(heads::GRPC_ENCODING);
    let reader = Reader::new(body, api.limits.max_bytes, messages.sent, &api.budget);
    let body = Routed::new(Recoded::new(reader, Coding::Identity));
    let (mut parts, body) = next.run(Request::from_parts(parts, body)).await.into_parts();
    parts
        .headers
        .insert(heads::GRPC_ACCEPT_ENCODING, HeaderValue::from_static(encoding::GRPC_ACCEPTED));
    if messages.answer == Coding::Identity || body.is_end_stream() {
        return Response::from_parts(parts, body);
    }
    let name = HeaderValue::from_static(messages.answer.name());
    parts.headers.insert(heads::GRPC_ENCODING, name);
    // Ours: as large as they come.
    let reader = Reader::new(body, usize::MAX, Coding::Identity, &api.budget);
    Response::from_parts(parts, Routed::new(Recoded::new(reader, messages.answer)))
}

/// One message of a call, plain, with what its bytes are charged.
pub struct Message {
    pub bytes: Bytes,
    pub charge: Charge,
}

impl Message {
    /// The bytes, which keep the charge for as long as anything shares them.
    pub fn held(self) -> Bytes {
        self.charge.hold(self.bytes)
    }
}

/// Reads the messages of a gRPC body one after the other, each whole, decompressed and within the limit. Nothing is
/// reserved for what a length declares.
///
/// For a handler that reads a call's body itself: `encoding::of_call` on the head, a `Reader` over the body, and
/// `next().await?` until `None`; `Message::held` makes the charge live as long as the bytes (and the tensors in them) do.
/// Handlers of tonic get plain messages from `layer` without doing anything.
pub struct Reader {
    body: Routed,
    max: usize,
    sent: Coding,
    budget: Arc<Budget>,
    buffer: BytesMut,
    /// For the buffer.
    charge: Charge,
    trailers: Option<HeaderMap>,
}

impl Reader {
    /// `max`: bytes of one message, as sent and once decompressed. `sent`: the coding of those that are compressed.
    pub fn new(body: Routed, max: usize, sent: Coding, budget: &Arc<Budget>) -> Reader {
        let (budget, charge) = (budget.clone(), budget.charge());
        Reader { body, max, sent, budget, buffer: BytesMut::new(), charge, trailers: None }
    }

    /// The next message; `None` once the body has ended. After an error there is nothing more to read.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        let Some((packed, message)) = self.whole().await? else { return Ok(None) };
        if !packed {
            return Ok(Some(message));
        }
        let mut charge = self.budget.charge();
        let bytes = unpack(&message.bytes, self.sent, self.max, &mut charge).await?;
        Ok(Some(Message { bytes, charge }))
    }

    /// The next message as it was sent, and whether it is compressed.
    async fn whole(&mut self) -> Result<Option<(bool, Message)>, Error> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<HEAD>() {
                let (packed, length) = frame_head(*head)?;
                if length > self.max {
                    return Err(body::too_large(self.max));
                }
                if self.buffer.len() - HEAD >= length {
                    self.buffer.advance(HEAD);
                    self.charge.shrink(HEAD);
                    let bytes = self.buffer.split_to(length).freeze();
                    let charge = self.charge.split(length);
                    return Ok(Some((packed, Message { bytes, charge })));
                }
            }
            let frame = match self.body.frame().await {
                Some(frame) => frame.map_err(body::arrival)?,
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::invalid("the last message of the call is cut off")),
            };
            match frame.into_data() {
                Ok(data) => {
                    self.charge.grow(data.len())?;
                    self.buffer.extend_from_slice(&data);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().or(self.trailers.take()),
            }
        }
    }
}

/// A gRPC body whose messages were read and are sent on in another coding.
struct Recoded {
    state: Reading,
    to: Coding,
    /// Of the message that was handed on last: whoever asks for the next one is done with it.
    charge: Option<Charge>,
    /// The second part of that message.
    rest: Option<Bytes>,
}

type Read = Pin<Box<dyn Future<Output = (Reader, Result<Option<(Chunks, Charge)>, Error>)> + Send>>;

enum Reading {
    Idle(Box<Reader>),
    Busy(Read),
    Done,
}

impl Recoded {
    fn new(reader: Reader, to: Coding) -> Recoded {
        Recoded { state: Reading::Idle(Box::new(reader)), to, charge: None, rest: None }
    }
}

/// Reads the next message and frames it for the other side.
async fn recode(
    mut reader: Reader,
    to: Coding,
) -> (Reader, Result<Option<(Chunks, Charge)>, Error>) {
    let next = async {
        let Some(Message { bytes, charge }) = reader.next().await? else { return Ok(None) };
        let length = u32::try_from(bytes.len())
            .map_err(|_| Error::new(Code::TooLarge, "a message is larger than a frame can say"))?;
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u8(0);
        head.put_u32(length);
        let framed = Chunks::from_iter([head.freeze(), bytes]);
        let framed = match to {
            Coding::Identity => framed,
            to => pack(framed, to, &reader.budget).await?,
        };
        Ok(Some((framed, charge)))
    };
    let next = next.await;
    (reader, next)
}

impl http_body::Body for Recoded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(rest) = this.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        this.charge = None;
        if let Reading::Idle(_) = this.state
            && let Reading::Idle(reader) = std::mem::replace(&mut this.state, Reading::Done)
        {
            this.state = Reading::Busy(Box::pin(recode(*reader, this.to)));
        }
        let Reading::Busy(read) = &mut this.state else { return Poll::Ready(None) };
        let (mut reader, next) = std::task::ready!(read.as_mut().poll(cx));
        this.state = Reading::Done;
        Poll::Ready(match next {
            Ok(Some((chunks, charge))) => {
                let mut chunks = chunks.into_iter().filter(|chunk| !chunk.is_empty());
                let first = chunks.next().unwrap_or_default();
                (this.rest, this.charge) = (chunks.next(), Some(charge));
                this.state = Reading::Idle(Box::new(reader));
                Some(Ok(Frame::data(first)))
            }
            Ok(None) => reader.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => {
                registry().refused(error.code);
                Some(Err(axum::Error::new(grpc_status(&error))))
            }
        })
    }
}

#[cfg(test)]
#[path = "coded_tests.rs"]
mod tests;
