//! Bodies: a request's read whole within the limits, a response's written from the chunks that the codecs give.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use smallvec::SmallVec;

use super::{encoding::Inflating, streaming::Stream};
use crate::{
    serving::memory::Charge,
    types::error::{Code, Error},
    wire::flate::Coding,
};

/// What a request's body is held to.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes of one body.
    pub max_bytes: usize,
    /// From its head until its last byte.
    pub timeout: Duration,
}

/// The pieces of an answer, in the order in which they are written.
pub type Chunks = SmallVec<[Bytes; 4]>;

/// The body of a response: chunks (and gRPC's trailers) of the fast lane, a stream, or whatever a router answered.
#[allow(clippy::large_enum_variant, reason = "the large one is the fast lane's: no box for it")]
pub enum Body {
    Chunks { chunks: smallvec::IntoIter<[Bytes; 4]>, left: u64, trailers: Option<HeaderMap> },
    Stream(Box<Stream>),
    Routed(axum::body::Body),
}

impl Body {
    pub fn chunks(chunks: Chunks, trailers: Option<HeaderMap>) -> Body {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Body::Chunks { chunks: chunks.into_iter(), left, trailers }
    }

    pub fn whole(bytes: impl Into<Bytes>) -> Body {
        Body::chunks(SmallVec::from_iter([bytes.into()]), None)
    }
}

/// Empty, as tonic makes the bodies of its errors.
impl Default for Body {
    fn default() -> Body {
        Body::chunks(Chunks::new(), None)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Body::Routed(body) => Pin::new(body).poll_frame(cx),
            Body::Stream(stream) => stream.poll_frame(cx).map(|frame| frame.map(Ok)),
            Body::Chunks { chunks, left, trailers } => Poll::Ready(match chunks.next() {
                Some(chunk) => {
                    *left -= chunk.len() as u64;
                    Some(Ok(Frame::data(chunk)))
                }
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Routed(body) => body.is_end_stream(),
            Body::Stream(stream) => stream.is_end_stream(),
            Body::Chunks { left, trailers, .. } => *left == 0 && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Routed(body) => body.size_hint(),
            Body::Stream(_) => SizeHint::default(),
            Body::Chunks { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

/// Reads a body whole. What it holds is charged as it arrives; a declared length reserves nothing.
pub async fn read<B>(body: B, limits: BodyLimits, charge: &mut Charge) -> Result<Bytes, Error>
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Unpin,
{
    if body.size_hint().lower() > limits.max_bytes as u64 {
        return Err(too_large(limits.max_bytes));
    }
    let mut collected = pin!(collect(body, limits.max_bytes, charge));
    // Most bodies are here with their heads: those need no clock.
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(collected.as_mut().poll(cx))).await {
        return done;
    }
    within(limits.timeout, collected).await
}

/// Reads a compressed body and gives what it was: both within the limit, what comes out charged as it grows.
pub async fn read_coded<B>(
    body: B,
    coding: Coding,
    limits: BodyLimits,
    charge: &mut Charge,
) -> Result<Bytes, Error>
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>>,
{
    if body.size_hint().lower() > limits.max_bytes as u64 {
        return Err(too_large(limits.max_bytes));
    }
    let inflated = async {
        let mut body = pin!(body);
        let mut inflating = Inflating::new(coding, limits.max_bytes);
        let mut read = 0usize;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(arrival)?.into_data() else { continue };
            read = read.saturating_add(data.len());
            if read > limits.max_bytes {
                return Err(too_large(limits.max_bytes));
            }
            inflating.push(&data, charge).await?;
        }
        inflating.finish()
    };
    within(limits.timeout, inflated).await
}

async fn within<F>(limit: Duration, body: F) -> Result<Bytes, Error>
where
    F: Future<Output = Result<Bytes, Error>>,
{
    match tokio::time::timeout(limit, body).await {
        Ok(result) => result,
        Err(_) => {
            let late = format!("the body did not arrive within {} s", limit.as_secs_f32());
            Err(Error::new(Code::DeadlineExceeded, late))
        }
    }
}

async fn collect<B>(mut body: B, max: usize, charge: &mut Charge) -> Result<Bytes, Error>
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Unpin,
{
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let mut read = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(arrival)?;
        let Ok(data) = frame.into_data() else { continue };
        read = read.saturating_add(data.len());
        if read > max {
            return Err(too_large(max));
        }
        charge.grow(data.len())?;
        match &mut rest {
            Some(buffer) => extend(buffer, &data, body.size_hint().lower()),
            None if first.is_empty() => first = data,
            None => {
                let mut buffer = BytesMut::from(&*first);
                extend(&mut buffer, &data, body.size_hint().lower());
                rest = Some(buffer);
            }
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// Appends, growing by what is known to come, but at most fourfold: memory follows what arrived, not what was declared.
pub fn extend(buffer: &mut BytesMut, data: &[u8], remaining: u64) {
    if buffer.capacity() - buffer.len() < data.len() {
        let have = buffer.len() + data.len();
        let more = usize::try_from(remaining).unwrap_or(usize::MAX).clamp(have, have * 3);
        buffer.reserve(data.len() + more);
    }
    buffer.extend_from_slice(data);
}

/// Why a body did not arrive whole.
pub fn arrival(error: impl Into<axum::BoxError>) -> Error {
    let error = error.into();
    let mut cause: Option<&dyn std::error::Error> = Some(&*error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return Error::new(Code::TooLarge, "the body is larger than the limit");
        }
        cause = error.source();
    }
    Error::new(Code::Cancelled, "the body was cut off")
}

pub fn too_large(max: usize) -> Error {
    Error::new(Code::TooLarge, format!("the body is larger than the limit of {max} bytes"))
}
