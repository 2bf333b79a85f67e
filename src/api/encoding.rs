//! Which coding a body has and which one its answer gets, and the work itself, in pieces between which the thread does
//! other things.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, header};

use super::heads::{GRPC_ACCEPT_ENCODING, Heads};
use crate::{
    batcher::turn,
    serving::memory::{Budget, Charge},
    types::error::{Code, Error},
    wire::flate::{Coding, Deflate, Inflate},
};

/// What `Accept-Encoding` of a 415 says.
pub const ACCEPTED: &str = "gzip, deflate";
/// What `grpc-accept-encoding` of an answer says.
pub const GRPC_ACCEPTED: &str = "identity,gzip,deflate";

/// Answers below this many bytes are sent as they are: they fit a packet, and compressing them only adds time.
pub const WORTH: usize = 1024;

/// Bytes that come out before the thread looks at what else there is: some tenths of a millisecond.
const PIECE_OUT: usize = 128 << 10;
/// Bytes that go in at most in one go: what is made to be slow (a new table of codes every few bytes) takes about a
/// millisecond.
const PIECE_IN: usize = 16 << 10;

/// The coding of a request's body over HTTP.
///
/// # Errors
/// `UnsupportedEncoding` for one that is unknown, and for more than one.
pub fn of_body(heads: &Heads<'_>) -> Result<Coding, Error> {
    let Some(value) = heads.content_encoding else { return Ok(Coding::Identity) };
    let several = heads.all.get_all(header::CONTENT_ENCODING).iter().nth(1).is_some();
    let name = value.to_str().unwrap_or("").trim();
    Coding::parse(name).filter(|_| !several).ok_or_else(|| {
        let message = format!(
            "content-encoding '{}': expected one of gzip and deflate, applied once",
            shown(name)
        );
        Error::new(Code::UnsupportedEncoding, message)
    })
}

/// How the messages of a gRPC call are coded, and how those of its answer may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Of those that are flagged as compressed.
    pub sent: Coding,
    /// In kind: a client that compresses wants the wire spared. Others only say that they could read it (gRPC's C core
    /// says so with every call), and are spared the time.
    pub answer: Coding,
}

/// The codings of a call.
///
/// # Errors
/// `UnsupportedEncoding` for one that is unknown.
pub fn of_call(heads: &Heads<'_>) -> Result<Messages, Error> {
    let Some(value) = heads.grpc_encoding else { return Ok(Messages::default()) };
    let name = value.to_str().unwrap_or("");
    let sent = Coding::parse(name).ok_or_else(|| {
        let message = format!(
            "grpc-encoding '{}' is not supported: expected identity, gzip or deflate",
            shown(name)
        );
        Error::new(Code::UnsupportedEncoding, message)
    })?;
    let accepts = items(heads, GRPC_ACCEPT_ENCODING).any(|item| Coding::parse(item) == Some(sent));
    Ok(Messages { sent, answer: if accepts { sent } else { Coding::Identity } })
}

/// The coding for an answer over HTTP: of those that `Accept-Encoding` gives the most weight gzip, then deflate, then none.
pub fn accepted(heads: &Heads<'_>) -> Coding {
    if heads.accept_encoding.is_none() {
        return Coding::Identity;
    }
    let (mut gzip, mut deflate, mut identity, mut other) = (None, None, None, None);
    for item in items(heads, header::ACCEPT_ENCODING) {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let name = name.trim();
        let weight = match Coding::parse(name) {
            Some(Coding::Gzip) => &mut gzip,
            Some(Coding::Deflate) => &mut deflate,
            Some(Coding::Identity) => &mut identity,
            None if name == "*" => &mut other,
            None => continue,
        };
        *weight = Some(quality(parameters));
    }
    let weights = [(Coding::Gzip, gzip), (Coding::Deflate, deflate)];
    let mut best = (Coding::Identity, identity.or(other).unwrap_or(0));
    // From the last to the first: of equals, the later wins.
    for (coding, weight) in weights.into_iter().rev() {
        let weight = weight.or(other).unwrap_or(0);
        if weight > 0 && weight >= best.1 {
            best = (coding, weight);
        }
    }
    best.0
}

/// The entries of a header that is a list, over all of its lines.
fn items<'a>(heads: &Heads<'a>, name: HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = heads.all.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// `q=0.5` in thousandths; 1000 where there is none, 0 (not wanted) for what is no weight.
fn quality(parameters: &str) -> u16 {
    let text = parameters.trim();
    if text.is_empty() {
        return 1000;
    }
    let Some((name, value)) = text.split_once('=') else { return 0 };
    let (whole, decimals) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    if !name.trim().eq_ignore_ascii_case("q") || !digits {
        return 0;
    }
    let thousandths = format!("{decimals:0<3}").parse().unwrap_or(0);
    match whole {
        "0" => thousandths,
        "1" if thousandths == 0 => 1000,
        _ => 0,
    }
}

/// A client's name of a coding for a message: escaped and capped.
fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}

/// A body that comes in compressed: what it was grows here, within the limit, charged as it grows.
pub struct Inflating {
    state: Inflate,
    out: Vec<u8>,
    max: usize,
}

impl Inflating {
    /// For gzip or deflate. `max`: bytes that may come out.
    pub fn new(coding: Coding, max: usize) -> Inflating {
        Inflating { state: Inflate::new(coding), out: Vec::new(), max }
    }

    /// Takes what has come.
    pub async fn push(&mut self, mut input: &[u8], charge: &mut Charge) -> Result<(), Error> {
        let mut work = 0;
        loop {
            let room = self.room(input.len(), charge)?;
            let piece = &input[..input.len().min(PIECE_IN)];
            let from = self.out.len();
            self.out.resize(from + room, 0);
            let step = self.state.step(piece, &mut self.out[from..]);
            self.out.truncate(from + step.as_ref().map_or(0, |step| step.given));
            let step = step?;
            if self.out.len() > self.max {
                return Err(Error::new(
                    Code::TooLarge,
                    format!(
                        "the body is larger than the limit of {} bytes once decompressed",
                        self.max
                    ),
                ));
            }
            input = &input[step.taken..];
            if input.is_empty() && step.given < room {
                return Ok(());
            }
            work += step.given + step.taken * (PIECE_OUT / PIECE_IN);
            if work >= PIECE_OUT {
                work = 0;
                breathe().await;
            }
        }
    }

    /// The whole, once nothing more comes.
    pub fn finish(self) -> Result<Bytes, Error> {
        self.state.finish()?;
        Ok(self.out.into())
    }

    /// Free space for the next piece. Grows by doubling, one byte past the limit at most: what fills that is too large.
    fn room(&mut self, input: usize, charge: &mut Charge) -> Result<usize, Error> {
        let have = self.out.capacity();
        if have == self.out.len() {
            let more = have.max(input.saturating_mul(3)).max(256);
            let more = more.min((self.max + 1).saturating_sub(have));
            charge.grow(more)?;
            self.out.reserve_exact(more);
        }
        // Cleared before it is filled: a body that comes byte by byte must not cost a large piece each time.
        let likely = input.saturating_mul(64).saturating_add(256);
        Ok((self.out.capacity() - self.out.len()).min(PIECE_OUT).min(likely))
    }
}

/// Decompresses one message that is here.
pub async fn inflate(
    message: &[u8],
    coding: Coding,
    max: usize,
    charge: &mut Charge,
) -> Result<Bytes, Error> {
    let mut inflating = Inflating::new(coding, max);
    inflating.push(message, charge).await?;
    inflating.finish()
}

/// Compresses the chunks of an answer, charged until they are sent; `None` where that makes nothing smaller, or where there is no memory for it.
pub async fn deflate(
    chunks: &[Bytes],
    coding: Coding,
    budget: &Arc<Budget>,
) -> Result<Option<Bytes>, Error> {
    let mut charge = budget.charge();
    let total: usize = chunks.iter().map(Bytes::len).sum();
    let (mut state, mut out, mut seen) = (Deflate::new(coding), Vec::new(), 0usize);
    let mut chunks = chunks.iter().peekable();
    while let Some(mut rest) = chunks.next().map(|chunk| &chunk[..]) {
        loop {
            if out.capacity() == out.len() {
                let more =
                    out.capacity().max(total / 4).max(256).min(total.saturating_sub(out.len()));
                if more == 0 || charge.add(more).is_err() {
                    return Ok(None);
                }
                out.reserve_exact(more);
            }
            let piece = &rest[..rest.len().min(PIECE_IN * 2)];
            let last = piece.len() == rest.len() && chunks.peek().is_none();
            let taken = state.step(piece, last, &mut out)?;
            rest = &rest[taken..];
            seen += taken;
            // Weights and the like do not shrink: noticed early, they cost little.
            if seen >= 2 * PIECE_OUT && out.len() > seen - seen / 16 {
                return Ok(None);
            }
            if if last { state.ended() } else { rest.is_empty() } {
                break;
            }
            if seen % PIECE_OUT < taken {
                breathe().await;
            }
        }
    }
    Ok((out.len() < total).then(|| charge.hold(out.into())))
}

/// Lets the thread do what else is there.
async fn breathe() {
    // Why: jobs that gather for the end of the turn run when the thread has nothing else to do, which is never while a
    // task yields.
    turn::flush();
    tokio::task::yield_now().await;
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
