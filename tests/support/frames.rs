//! HTTP/2 frames by hand, for what a client library would hide: resets, GOAWAY, streams that never got their answer.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
};

use super::server::Socket;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

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
}

impl Frames {
    pub fn connect(address: &str) -> Frames {
        let mut socket = Socket::connect(address).expect("the server listens");
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &[]);
        // Room for every answer of a test, so that no window has to be given back.
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
        socket.write_all(&hello).expect("the preface goes out");
        Frames { socket, buffer: Vec::new(), next: 1, messages: BTreeSet::new() }
    }

    /// Sends one call, whole; its stream.
    pub fn call(&mut self, message: &[u8]) -> io::Result<u32> {
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
        let data = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        let (id, mut request) = (self.next, Vec::new());
        frame(&mut request, HEADERS, 4, id, &headers);
        frame(&mut request, DATA, 1, id, &data);
        self.next += 2;
        self.socket.write_all(&request)?;
        Ok(id)
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
                GOAWAY => return Ok(Event::GoAway { last: number(0) }),
                RST_STREAM => return Ok(Event::Reset { id }),
                DATA if payload.len() >= 5 => drop(self.messages.insert(id)),
                HEADERS if flags & 1 == 1 => {
                    return Ok(Event::Answered { id, message: self.messages.remove(&id) });
                }
                SETTINGS | PING if flags & 1 == 0 => {
                    let mut bytes = Vec::new();
                    frame(&mut bytes, kind, 1, 0, if kind == PING { &payload } else { &[] });
                    // A server that is gone does not need it.
                    let _ = self.socket.write_all(&bytes);
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

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend(payload);
}
