//! One connection: what is under way on it, what is to be written, what has come.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::event::epoll;

use super::socket::{Peer, Socket};
use crate::{
    plan::{Prepared, Protocol, Wire},
    record::Code,
    wire::{
        h1,
        h2::{End, Session},
    },
};

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Nanoseconds on the run's clock, as `sent`.
    pub due: u64,
    pub sent: u64,
    pub request: usize,
    /// It was sent before, to a server that certainly did not look at it.
    pub again: bool,
}

/// How a request ended.
#[derive(Debug)]
pub enum Outcome {
    /// With an answer that says it is good.
    Good { body: Vec<u8>, header_length: Option<usize>, bytes: u64 },
    /// It ended otherwise; what the server said of it.
    Bad { code: Code, said: String, bytes: u64 },
    /// The server certainly did not look at it.
    Unprocessed,
}

impl Outcome {
    pub fn bad(code: Code, said: impl Into<String>) -> Outcome {
        Outcome::Bad { code, said: said.into(), bytes: 0 }
    }
}

enum Talk {
    Http {
        reader: h1::Reader,
        flight: Option<Flight>,
        /// The server has said that it closes.
        closing: bool,
    },
    Grpc(Box<Session<Flight>>),
}

/// A connection, from the first attempt to its end.
pub struct Conn {
    socket: Socket,
    talk: Talk,
    /// The connection is made.
    made: bool,
    /// A request of HTTP/1.1 that is being written, and how far.
    direct: Option<(Arc<[u8]>, usize)>,
    out: Vec<u8>,
    out_at: usize,
    /// We are told when it can be written to.
    watched: bool,
}

impl Conn {
    /// Begins to connect. `keep`: how many bytes of an answer are wanted; `key`: what the events are to carry.
    pub fn begin(
        peer: &Peer,
        protocol: Protocol,
        keep: usize,
        epoll: &OwnedFd,
        key: u64,
    ) -> io::Result<Conn> {
        let socket = Socket::begin(peer)?;
        let mut out = Vec::new();
        let talk = match protocol {
            Protocol::Grpc => Talk::Grpc(Box::new(Session::new(keep, &mut out))),
            Protocol::Json | Protocol::Binary => {
                Talk::Http { reader: h1::Reader::new(keep), flight: None, closing: false }
            }
        };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(epoll, socket.fd(), epoll::EventData::new_u64(key), flags)?;
        let (made, direct, out_at, watched) = (false, None, 0, true);
        Ok(Conn { socket, talk, made, direct, out, out_at, watched })
    }

    /// It is made, and the server has said what it takes.
    pub fn ready(&self) -> bool {
        match &self.talk {
            Talk::Http { .. } => self.made,
            Talk::Grpc(session) => self.made && session.greeted(),
        }
    }

    /// Requests that it can take now, of `most` at once.
    pub fn room(&self, most: usize) -> usize {
        if !self.ready() {
            return 0;
        }
        match &self.talk {
            Talk::Http { flight, closing, .. } => {
                usize::from(flight.is_none() && !closing && self.direct.is_none())
            }
            Talk::Grpc(session) => session.room().min(most.saturating_sub(session.open())),
        }
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        match &self.talk {
            Talk::Http { flight, .. } => usize::from(flight.is_some()),
            Talk::Grpc(session) => session.open(),
        }
    }

    /// It takes no more requests, and none is under way.
    pub fn spent(&self) -> bool {
        match &self.talk {
            Talk::Http { flight, closing, .. } => flight.is_none() && *closing,
            Talk::Grpc(session) => session.leaving() && session.open() == 0,
        }
    }

    /// Begins a request; what does not go out at once goes out later. Gives the bytes that it is.
    pub fn send(&mut self, flight: Flight, prepared: &Prepared) -> io::Result<usize> {
        match (&mut self.talk, &prepared.wire) {
            (Talk::Http { flight: place, .. }, Wire::Http(bytes)) => {
                *place = Some(flight);
                self.direct = Some((bytes.clone(), 0));
                let length = bytes.len();
                self.write()?;
                Ok(length)
            }
            (Talk::Grpc(session), Wire::Grpc { headers, message }) => {
                session.call(flight, headers, message, &mut self.out);
                Ok(headers.len() + message.len())
            }
            _ => Err(io::Error::other("a request of another protocol")),
        }
    }

    /// Writes what is to be written, as far as that goes.
    fn write(&mut self) -> io::Result<()> {
        loop {
            let waits = match &mut self.direct {
                Some((bytes, at)) if *at < bytes.len() => &bytes[*at..],
                _ if self.out_at < self.out.len() => &self.out[self.out_at..],
                _ => break,
            };
            let wrote = match self.socket.write(waits) {
                Ok(wrote) => wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match &mut self.direct {
                Some((bytes, at)) if *at < bytes.len() => *at += wrote,
                _ => self.out_at += wrote,
            }
        }
        self.direct = None;
        self.out.clear();
        self.out_at = 0;
        self.socket.flush()
    }

    fn behind(&self) -> bool {
        self.direct.is_some() || self.out_at < self.out.len() || self.socket.behind()
    }

    /// Writes, and asks to be told when more can be written, where something is left.
    pub fn flush(&mut self, epoll: &OwnedFd, key: u64) -> io::Result<()> {
        if self.made {
            self.write()?;
        }
        let watch = !self.made || self.behind();
        if watch != self.watched {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, watch);
            epoll::modify(epoll, self.socket.fd().as_fd(), epoll::EventData::new_u64(key), flags)?;
            self.watched = watch;
        }
        Ok(())
    }

    /// The system says that it can be written to.
    pub fn writable(&mut self) -> io::Result<()> {
        if !self.made {
            self.socket.made()?;
            self.made = true;
        }
        self.write()
    }

    /// Reads once. Requests that this ends are appended to `ended`. `Ok(false)`: nothing more is there. The error says why the
    /// connection is over.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        ended: &mut Vec<(Flight, Outcome)>,
    ) -> Result<bool, (Code, String)> {
        let read = match self.socket.read(buffer) {
            Ok(0) => return Err(self.closed(ended)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err((Code::Broken, error.to_string())),
        };
        let garbled = |what: &str| (Code::Garbled, what.to_owned());
        match &mut self.talk {
            Talk::Grpc(session) => {
                let mut end = |flight, end| ended.push((flight, of_call(end)));
                session
                    .receive(&buffer[..read], &mut self.out, &mut end)
                    .map_err(|fatal| garbled(fatal.0))?;
            }
            Talk::Http { reader, flight, closing } => {
                let answer = reader.take(&buffer[..read]).map_err(|wrong| garbled(wrong.0))?;
                if let Some(answer) = answer {
                    *closing |= answer.closes;
                    match flight.take() {
                        Some(flight) => ended.push((flight, of_answer(answer))),
                        None => return Err(garbled("an answer that nobody asked for")),
                    }
                }
            }
        }
        Ok(read == buffer.len())
    }

    /// The server has closed the connection.
    fn closed(&mut self, ended: &mut Vec<(Flight, Outcome)>) -> (Code, String) {
        if let Talk::Http { reader, flight, .. } = &mut self.talk
            && let Some(answer) = reader.closed()
            && let Some(flight) = flight.take()
        {
            ended.push((flight, of_answer(answer)));
        }
        (Code::Broken, "the server closed the connection".to_owned())
    }

    /// Gives up requests that are older than they may be. `false`: the connection has to go with them.
    pub fn expire(&mut self, late: impl Fn(&Flight) -> bool, gone: &mut Vec<Flight>) -> bool {
        match &mut self.talk {
            Talk::Http { flight, .. } => {
                gone.extend(flight.take_if(|flight| late(flight)));
                // The answer that may still come would be taken for the next one's.
                gone.is_empty()
            }
            Talk::Grpc(session) => {
                let streams: Vec<u32> =
                    session.calls().filter(|(_, f)| late(f)).map(|(stream, _)| stream).collect();
                for stream in streams {
                    gone.extend(session.cancel(stream, &mut self.out));
                }
                true
            }
        }
    }

    /// What was under way when the connection ended.
    pub fn abandon(&mut self) -> Vec<Flight> {
        match &mut self.talk {
            Talk::Http { flight, .. } => flight.take().into_iter().collect(),
            Talk::Grpc(session) => session.abandon(),
        }
    }
}

fn of_answer(answer: h1::Answer) -> Outcome {
    let h1::Answer { status, body, bytes, header_length, .. } = answer;
    match status {
        200 => Outcome::Good { body, header_length, bytes },
        status => {
            let said = String::from_utf8_lossy(&body).into_owned();
            Outcome::Bad { code: Code::Http(status), said, bytes }
        }
    }
}

fn of_call(end: End) -> Outcome {
    match end {
        End::Status { status: 0, message, bytes, .. } => {
            Outcome::Good { body: message, header_length: None, bytes }
        }
        End::Status { status, text, bytes, .. } => {
            Outcome::Bad { code: Code::Grpc(status), said: text, bytes }
        }
        End::Http(status) => Outcome::bad(Code::Http(status), "an HTTP status in place of gRPC's"),
        End::Unprocessed => Outcome::Unprocessed,
        End::Reset(code) => Outcome::bad(Code::Broken, format!("reset with HTTP/2's code {code}")),
        End::Garbled(what) => Outcome::bad(Code::Garbled, what),
    }
}
