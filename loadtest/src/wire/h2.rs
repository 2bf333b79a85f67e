//! One connection of HTTP/2 that carries unary gRPC calls: frames in, frames out, flow control both ways.
//!
//! It announces a header table of no bytes, so that answers' header blocks mean the same wherever they stand, and windows so wide
//! that the server never waits for us.

use std::collections::VecDeque;

use super::hpack::Decoder;

/// What the client says first, but for SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LARGEST_WINDOW: i64 = (1 << 31) - 1;
const FIRST_WINDOW: i64 = 65_535;
/// Frames that a server may send: what we announce.
const LARGEST_FRAME: usize = 1 << 20;
/// Bytes of one header block, continuations included.
const LARGEST_BLOCK: usize = 256 << 10;
/// After this many streams a connection is left for a new one, long before the numbers end.
const LAST_STREAM: u32 = 0x7000_0001;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a status; `message`: the answer's, without its prefix, where it is kept.
    Status { status: u32, text: String, message: Vec<u8>, bytes: u64 },
    /// HTTP's own status, where that is not 200.
    Http(u16),
    /// The server had not looked at it and never will: it may be asked again elsewhere.
    Unprocessed,
    /// RST_STREAM with this code.
    Reset(u32),
    /// What came was no answer to a call.
    Garbled(&'static str),
}

/// The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fatal(pub &'static str);

/// A call under way.
#[derive(Debug)]
struct Call<T> {
    token: T,
    /// Bytes of the message that were not sent yet wait in `Session::waiting`.
    window: i64,
    http: Option<u16>,
    status: Option<(u32, String)>,
    /// The answer as it came, prefix included, where it is kept.
    message: Vec<u8>,
    bytes: u64,
}

/// A message that the windows hold back.
#[derive(Debug)]
struct Waiting {
    stream: u32,
    message: std::sync::Arc<[u8]>,
    sent: usize,
}

/// A connection. `T`: what its owner knows a call by.
#[derive(Debug)]
pub struct Session<T> {
    keep: usize,
    /// Streams from `first` on, two apart; those that ended are empty until they are the first.
    calls: VecDeque<Option<Call<T>>>,
    first: u32,
    open: usize,
    waiting: VecDeque<Waiting>,
    /// What the server lets us send.
    window: i64,
    stream_window: i64,
    frame: usize,
    streams: usize,
    /// Bytes of answers since the connection's window was last opened.
    eaten: i64,
    /// The end of what was given and is no whole frame yet.
    held: Vec<u8>,
    block: Option<(u32, bool, Vec<u8>)>,
    decoder: DecoderBox,
    leaving: bool,
    greeted: bool,
}

/// So that a session can be shown.
#[derive(Default)]
struct DecoderBox(Decoder);

impl std::fmt::Debug for DecoderBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl<T> Session<T> {
    /// A new connection, and what to send on it first. `keep`: how many bytes of an answer are wanted.
    pub fn new(keep: usize, out: &mut Vec<u8>) -> Session<T> {
        out.extend_from_slice(PREFACE);
        let settings: [(u16, u32); 4] =
            [(1, 0), (2, 0), (4, LARGEST_WINDOW as u32), (5, LARGEST_FRAME as u32)];
        head(6 * settings.len(), kind::SETTINGS, 0, 0, out);
        for (name, value) in settings {
            out.extend_from_slice(&name.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        window_update(0, (LARGEST_WINDOW - FIRST_WINDOW) as u32, out);
        Session {
            keep,
            calls: VecDeque::new(),
            first: 1,
            open: 0,
            waiting: VecDeque::new(),
            window: FIRST_WINDOW,
            stream_window: FIRST_WINDOW,
            frame: 16_384,
            // Until the server has said otherwise.
            streams: 100,
            eaten: 0,
            held: Vec::new(),
            block: None,
            decoder: DecoderBox::default(),
            leaving: false,
            greeted: false,
        }
    }

    /// Calls that it can take now.
    pub fn room(&self) -> usize {
        if self.leaving { 0 } else { self.streams.saturating_sub(self.open) }
    }

    pub fn open(&self) -> usize {
        self.open
    }

    /// It takes no further calls, and is of no use once those under way have ended.
    pub fn leaving(&self) -> bool {
        self.leaving
    }

    /// The server's settings have come.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Begins a call: its frames, as far as the windows let them, are appended to `out`. Gives the stream's number.
    pub fn call(
        &mut self,
        token: T,
        headers: &[u8],
        message: &std::sync::Arc<[u8]>,
        out: &mut Vec<u8>,
    ) -> u32 {
        let stream = self.first + 2 * self.calls.len() as u32;
        self.leaving |= stream >= LAST_STREAM;
        let window = self.stream_window;
        let call = Call { token, window, http: None, status: None, message: Vec::new(), bytes: 0 };
        self.calls.push_back(Some(call));
        self.open += 1;
        let mut blocks = headers.chunks(self.frame).peekable();
        let mut first = true;
        while let Some(block) = blocks.next() {
            let end = if blocks.peek().is_none() { END_HEADERS } else { 0 };
            let kind = if first { kind::HEADERS } else { kind::CONTINUATION };
            head(block.len(), kind, end, stream, out);
            out.extend_from_slice(block);
            first = false;
        }
        let mut waiting = Waiting { stream, message: message.clone(), sent: 0 };
        if !self.waiting.is_empty() || !self.send(&mut waiting, out) {
            self.waiting.push_back(waiting);
        }
        stream
    }

    /// Gives a call up.
    pub fn cancel(&mut self, stream: u32, out: &mut Vec<u8>) -> Option<T> {
        let call = self.end(stream)?;
        reset(stream, 8, out);
        Some(call.token)
    }

    /// Calls under way, by the numbers of their streams.
    pub fn calls(&self) -> impl Iterator<Item = (u32, &T)> {
        let calls = self.calls.iter().enumerate();
        calls.filter_map(|(at, call)| Some((self.first + 2 * at as u32, &call.as_ref()?.token)))
    }

    /// The tokens of all calls under way: the connection is gone.
    pub fn abandon(&mut self) -> Vec<T> {
        self.open = 0;
        self.waiting.clear();
        self.calls.drain(..).flatten().map(|call| call.token).collect()
    }

    /// Sends what the windows let it of a message; whether that was all.
    fn send(&mut self, waiting: &mut Waiting, out: &mut Vec<u8>) -> bool {
        let (stream, frame) = (waiting.stream, self.frame);
        // Reset meanwhile: nobody waits for the rest.
        let Some(call) = slot(&mut self.calls, self.first, stream).and_then(Option::as_mut) else {
            return true;
        };
        loop {
            let left = waiting.message.len() - waiting.sent;
            let room = usize::try_from(self.window.min(call.window)).unwrap_or(0);
            let size = left.min(frame).min(room);
            if size == 0 && left > 0 {
                return false;
            }
            let last = size == left;
            head(size, kind::DATA, if last { END_STREAM } else { 0 }, stream, out);
            out.extend_from_slice(&waiting.message[waiting.sent..waiting.sent + size]);
            waiting.sent += size;
            self.window -= size as i64;
            call.window -= size as i64;
            if last {
                return true;
            }
        }
    }

    /// Goes on with what windows held back. A stream whose own window is closed does not hold up the others.
    fn resume(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.waiting.len() {
            let Some(mut waiting) = self.waiting.pop_front() else { return };
            if !self.send(&mut waiting, out) {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// Takes what has come. Calls that ended are given to `ended`; what is to be sent in return is appended to `out`.
    pub fn receive(
        &mut self,
        new: &[u8],
        out: &mut Vec<u8>,
        ended: &mut impl FnMut(T, End),
    ) -> Result<(), Fatal> {
        let mut held = std::mem::take(&mut self.held);
        let mut bytes = new;
        if !held.is_empty() {
            held.extend_from_slice(new);
            bytes = &held;
        }
        while let Some((front, rest)) = bytes.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, front[0], front[1], front[2]]) as usize;
            if length > LARGEST_FRAME {
                return Err(Fatal("a frame is larger than was announced"));
            }
            let Some((payload, after)) = rest.split_at_checked(length) else { break };
            let stream = u32::from_be_bytes([front[5], front[6], front[7], front[8]]) & LOW_BITS;
            self.frame(front[3], front[4], stream, payload, out, ended)?;
            bytes = after;
        }
        self.held = bytes.to_vec();
        if self.eaten > LARGEST_WINDOW / 2 {
            window_update(0, self.eaten as u32, out);
            self.eaten = 0;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a frame")]
    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        ended: &mut impl FnMut(T, End),
    ) -> Result<(), Fatal> {
        if self.block.is_some() && kind != kind::CONTINUATION {
            return Err(Fatal("a header block is interrupted"));
        }
        match kind {
            kind::DATA => self.data(flags, stream, payload, ended),
            kind::HEADERS => {
                let mut block = unpadded(flags, payload)?;
                if flags & PRIORITY != 0 {
                    block = block.get(5..).ok_or(Fatal("a HEADERS frame is too short"))?;
                }
                self.headers(flags, (stream, flags & END_STREAM != 0), block, ended)
            }
            kind::CONTINUATION => match self.block.take() {
                Some((of, last, mut block)) if of == stream => {
                    block.extend_from_slice(payload);
                    if block.len() > LARGEST_BLOCK {
                        return Err(Fatal("a header block does not end"));
                    }
                    self.headers(flags, (stream, last), &block, ended)
                }
                _ => Err(Fatal("a CONTINUATION frame continues nothing")),
            },
            kind::RST_STREAM => {
                let code = word(payload)?;
                if let Some(call) = self.end(stream) {
                    // REFUSED_STREAM
                    let end = if code == 7 { End::Unprocessed } else { End::Reset(code) };
                    ended(call.token, end);
                }
                Ok(())
            }
            kind::SETTINGS => self.settings(flags, payload, out),
            kind::PING if flags & ACK == 0 => {
                if payload.len() != 8 {
                    return Err(Fatal("a PING frame has not eight bytes"));
                }
                head(8, kind::PING, ACK, 0, out);
                out.extend_from_slice(payload);
                Ok(())
            }
            kind::GOAWAY => {
                self.leaving = true;
                let last = word(payload)? & LOW_BITS;
                for at in 0..self.calls.len() {
                    let stream = self.first + 2 * at as u32;
                    if stream > last
                        && let Some(call) = self.calls[at].take()
                    {
                        self.open -= 1;
                        ended(call.token, End::Unprocessed);
                    }
                }
                Ok(())
            }
            kind::WINDOW_UPDATE => self.window_update(stream, payload, out),
            kind::PUSH_PROMISE => Err(Fatal("a PUSH_PROMISE, which was forbidden")),
            // Of what is not known nothing follows.
            _ => Ok(()),
        }
    }

    fn data(
        &mut self,
        flags: u8,
        stream: u32,
        payload: &[u8],
        ended: &mut impl FnMut(T, End),
    ) -> Result<(), Fatal> {
        self.eaten += payload.len() as i64;
        let data = unpadded(flags, payload)?;
        let keep = self.keep;
        if let Some(Some(call)) = slot(&mut self.calls, self.first, stream) {
            call.bytes += data.len() as u64;
            let kept = data.len().min(keep.saturating_sub(call.message.len()));
            call.message.extend_from_slice(&data[..kept]);
            if flags & END_STREAM != 0 {
                self.finish(stream, ended);
            }
        } else if stream >= self.first + 2 * self.calls.len() as u32 {
            return Err(Fatal("a frame of a stream that was not opened"));
        }
        Ok(())
    }

    fn headers(
        &mut self,
        flags: u8,
        (stream, last): (u32, bool),
        block: &[u8],
        ended: &mut impl FnMut(T, End),
    ) -> Result<(), Fatal> {
        if flags & END_HEADERS == 0 {
            self.block = Some((stream, last, block.to_vec()));
            return Ok(());
        }
        let head = self.decoder.0.decode(block).ok_or(Fatal("a header block cannot be read"))?;
        let Some(Some(call)) = slot(&mut self.calls, self.first, stream) else { return Ok(()) };
        // An informational head precedes another one.
        if head.status.is_some_and(|status| (100..200).contains(&status)) {
            return Ok(());
        }
        call.http = call.http.or(head.status);
        if let Some(status) = head.grpc_status {
            call.status = Some((status, head.grpc_message.unwrap_or_default()));
        }
        if last {
            self.finish(stream, ended);
        }
        Ok(())
    }

    /// A stream has ended: what did the server say?
    fn finish(&mut self, stream: u32, ended: &mut impl FnMut(T, End)) {
        let Some(call) = self.end(stream) else { return };
        let Call { token, http, status, mut message, bytes, .. } = call;
        let end = match (http, status) {
            (Some(200), Some((0, _))) if bytes < 5 => End::Garbled("OK without a message"),
            (Some(200), Some((status, text))) => {
                message.drain(..message.len().min(5));
                End::Status { status, text, message, bytes }
            }
            (Some(200), None) => End::Garbled("the answer has no grpc-status"),
            (Some(status), _) => End::Http(status),
            (None, _) => End::Garbled("the answer has no status"),
        };
        ended(token, end);
    }

    fn settings(&mut self, flags: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fatal> {
        if flags & ACK != 0 {
            return Ok(());
        }
        // Without a word on it, a server takes any number.
        if !self.greeted {
            self.streams = usize::MAX;
            self.greeted = true;
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fatal("a SETTINGS frame is cut off"));
        }
        for [n0, n1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*n0, *n1]) {
                3 => self.streams = value as usize,
                4 => {
                    let change = i64::from(value) - self.stream_window;
                    self.stream_window = i64::from(value);
                    for call in self.calls.iter_mut().flatten() {
                        call.window += change;
                    }
                }
                5 => self.frame = (value as usize).clamp(16_384, 1 << 24),
                _ => {}
            }
        }
        head(0, kind::SETTINGS, ACK, 0, out);
        self.resume(out);
        Ok(())
    }

    fn window_update(
        &mut self,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fatal> {
        let more = i64::from(word(payload)? & LOW_BITS);
        if stream == 0 {
            self.window += more;
            if self.window > LARGEST_WINDOW {
                return Err(Fatal("the connection's window overflows"));
            }
        } else if let Some(Some(call)) = slot(&mut self.calls, self.first, stream) {
            call.window = (call.window + more).min(LARGEST_WINDOW);
        }
        self.resume(out);
        Ok(())
    }

    fn end(&mut self, stream: u32) -> Option<Call<T>> {
        let call = slot(&mut self.calls, self.first, stream)?.take()?;
        self.open -= 1;
        while let Some(None) = self.calls.front() {
            self.calls.pop_front();
            self.first += 2;
        }
        Some(call)
    }
}

const LOW_BITS: u32 = 0x7fff_ffff;

fn slot<C>(calls: &mut VecDeque<C>, first: u32, stream: u32) -> Option<&mut C> {
    if stream < first || stream.is_multiple_of(2) {
        return None;
    }
    calls.get_mut(((stream - first) / 2) as usize)
}

fn head(length: usize, kind: u8, flags: u8, stream: u32, out: &mut Vec<u8>) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn reset(stream: u32, code: u32, out: &mut Vec<u8>) {
    head(4, kind::RST_STREAM, 0, stream, out);
    out.extend_from_slice(&code.to_be_bytes());
}

fn window_update(stream: u32, more: u32, out: &mut Vec<u8>) {
    head(4, kind::WINDOW_UPDATE, 0, stream, out);
    out.extend_from_slice(&more.to_be_bytes());
}

fn word(payload: &[u8]) -> Result<u32, Fatal> {
    let bytes = payload.first_chunk::<4>().ok_or(Fatal("a frame is too short"))?;
    Ok(u32::from_be_bytes(*bytes))
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Fatal> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Fatal("a padded frame is empty"))?;
    let length = rest.len().checked_sub(usize::from(*padding));
    Ok(&rest[..length.ok_or(Fatal("a frame has more padding than bytes"))?])
}

#[cfg(test)]
#[path = "h2_tests.rs"]
mod tests;
