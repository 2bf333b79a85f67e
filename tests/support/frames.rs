//! HTTP/2 frames by hand, for what a client library would hide: resets, GOAWAY, streams that never got their answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
};

use super::server::Socket;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Settings: streams at once, a stream's first window.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// What happened to a stream, or to all of them.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream's answer is whole; whether it carried a message.
    Answered {
        id: u32,
        message: bool,
    },
    Reset {
        id: u32,
    },

    /// The server goes; what is above this stream it has not looked at.
    GoAway {
        last: u32,
    },
    Closed,
}

/// A connection that calls ModelInfer.
pub struct Frames {
    pub socket: Socket,
    buffer: Vec<u8>,
    next: u32,
    /// Streams whose answers carried a message.
    messages: BTreeSet<u32>,
    /// What the server allows.
    pub settings: BTreeMap<u16, u32>,
    /// The code of the last GOAWAY or RST_STREAM.
    pub error: Option<u32>,
    /// Answer no ping and no settings.
    pub mute: bool,
}

impl Frames {
    pub fn connect(address: &str) -> Frames {
        Frames::with(address, &[])
    }

    /// A connection with these settings, and room for every answer of a test, so that no window has to be given back.
    pub fn with(address: &str, settings: &[(u16, u32)]) -> Frames {
        let mut socket = Socket::connect(address).expect("the server listens");
        let setting =
            |(key, value): &(u16, u32)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let settings: Vec<u8> = settings.iter().flat_map(setting).collect();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &settings);
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
        socket.write_all(&hello).expect("the preface goes out");
        let (buffer, messages) = (Vec::new(), BTreeSet::new());
        Frames {
            socket,
            buffer,
            next: 1,
            messages,
            settings: BTreeMap::new(),
            error: None,
            mute: false,
        }
    }

    /// Sends one call, whole; its stream.
    pub fn call(&mut self, message: &[u8]) -> io::Result<u32> {
        let (id, request) = self.frames_of(message);
        self.socket.write_all(&request)?;
        Ok(id)
    }

    /// The stream and the bytes of the next call.
    pub fn frames_of(&mut self, message: &[u8]) -> (u32, Vec<u8>) {
        let data = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        let (id, mut request) = (self.next, Vec::new());
        frame(&mut request, HEADERS, END_HEADERS, id, &head());
        frame(&mut request, DATA, END_STREAM, id, &data);
        self.next += 2;
        (id, request)
    }

    /// Sends one frame, whatever it is.
    pub fn raw(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind, flags, id, payload);
        self.socket.write_all(&bytes)
    }

    /// Reads until the server's end of the connection; what it said last.
    pub fn ended(&mut self) -> Option<u32> {
        while !matches!(self.event(), Ok(Event::Closed) | Err(_)) {}
        self.error
    }

    /// Gives a stream up: CANCEL.
    pub fn reset(&mut self, id: u32) {
        let mut bytes = Vec::new();
        frame(&mut bytes, RST_STREAM, 0, id, &8u32.to_be_bytes());
        self.socket.write_all(&bytes).expect("the reset goes out");
    }

    /// The next thing that happens. Settings and pings are acknowledged on the way.
    pub fn event(&mut self) -> io::Result<Event> {
        loop {
            let Some(Frame { kind, flags, id, payload }) = self.frame()? else {
                return Ok(Event::Closed);
            };
            let number = |at: usize| {
                let bytes = payload[at..at + 4].try_into().expect("four bytes");
                u32::from_be_bytes(bytes) & 0x7fff_ffff
            };
            match kind {
                GOAWAY => {
                    self.error = Some(number(4));
                    return Ok(Event::GoAway { last: number(0) });
                }
                RST_STREAM => {
                    self.error = Some(number(0));
                    return Ok(Event::Reset { id });
                }
                DATA if payload.len() >= 5 => drop(self.messages.insert(id)),
                HEADERS if flags & 1 == 1 => {
                    return Ok(Event::Answered { id, message: self.messages.remove(&id) });
                }
                SETTINGS | PING if flags & 1 == 0 && !self.mute => {
                    let mut bytes = Vec::new();
                    frame(&mut bytes, kind, 1, 0, if kind == PING { &payload } else { &[] });
                    // A server that is gone does not need it.
                    let _ = self.socket.write_all(&bytes);
                    if kind == SETTINGS {
                        let number = |b: &[u8]| u32::from_be_bytes([b[2], b[3], b[4], b[5]]);
                        let pair = |b: &[u8]| (u16::from_be_bytes([b[0], b[1]]), number(b));
                        self.settings = payload.chunks_exact(6).map(pair).collect();
                    }
                }
                _ => {}
            }
        }
    }

    fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(b) = self.buffer.get(..9) {
                let length = u32::from_be_bytes([0, b[0], b[1], b[2]]) as usize;
                let (kind, flags) = (b[3], b[4]);
                let id = u32::from_be_bytes([b[5], b[6], b[7], b[8]]);
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Ok(Some(Frame { kind, flags, id, payload }));
                }
            }
            let mut part = [0; 1 << 14];
            let read = self.socket.read(&mut part)?;
            if read == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&part[..read]);
        }
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    id: u32,
    payload: Vec<u8>,
}

/// The headers of a call of ModelInfer, each as it is (HPACK without an index).
pub fn head() -> Vec<u8> {
    let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http
    for (name, value) in [
        (":path", "/inference.GRPCInferenceService/ModelInfer"),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        headers.extend([0x00, name.len() as u8]);
        headers.extend(name.as_bytes());
        headers.push(value.len() as u8);
        headers.extend(value.as_bytes());
    }
    headers
}

pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend(payload);
}
