//! One question and its answer, for what has to be known before a load begins.

use std::time::{Duration, Instant};

use rustix::{event::epoll, time::Timespec};

use super::{
    conn::{Conn, Flight, Outcome},
    socket::Peer,
};
use crate::{
    plan::{Prepared, Target, Wire},
    record::Code,
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server said.
#[derive(Debug)]
pub enum Said {
    /// The body, and the length of its JSON head where it says one.
    Good(Vec<u8>, Option<usize>),
    /// The code, and the server's words.
    Bad(Code, String),
}

/// Asks `target` once, on a connection of its own.
///
/// # Errors
/// In words: the server cannot be reached, or does not answer in time.
pub fn ask(target: &Target, wire: Wire) -> Result<Said, String> {
    ask_within(target, wire, PATIENCE)
}

/// As `ask`, given up after `limit`.
pub fn ask_within(target: &Target, wire: Wire, limit: Duration) -> Result<Said, String> {
    let began = Instant::now();
    let said = ask_while(target, wire, || began.elapsed() < limit)?;
    said.ok_or_else(|| {
        let seconds = limit.as_secs_f64();
        format!("the server at {} cannot be asked: no answer within {seconds} s", target.address)
    })
}

/// As `ask`, for as long as `goes_on` says so, which is asked now and then; `None` where that was not long enough.
pub fn ask_while(
    target: &Target,
    wire: Wire,
    goes_on: impl Fn() -> bool,
) -> Result<Option<Said>, String> {
    let peer = Peer::of(target)?;
    let fail = |why: String| format!("the server at {} cannot be asked: {why}", target.address);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| fail(e.to_string()))?;
    let conn = Conn::begin(&peer, target.protocol, usize::MAX, &epoll, 0);
    let mut conn = conn.map_err(|e| fail(e.to_string()))?;
    let mut prepared = Some(Prepared { variant: 0, wire, expected: None });
    let (mut buffer, mut ended) = (vec![0; 64 << 10], Vec::new());
    while goes_on() {
        if conn.room(1) > 0
            && let Some(prepared) = prepared.take()
        {
            let flight = Flight { due: 0, sent: 0, request: 0, again: false };
            conn.send(flight, &prepared).map_err(|e| fail(e.to_string()))?;
        }
        conn.flush(&epoll, 0).map_err(|e| fail(e.to_string()))?;
        let empty =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [empty; 1];
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let happened = epoll::wait(&epoll, &mut events[..], Some(&pause)).unwrap_or(0);
        let flags = events[..happened].first().map_or(epoll::EventFlags::empty(), |e| e.flags);
        if flags.contains(epoll::EventFlags::OUT) {
            conn.writable().map_err(|e| fail(e.to_string()))?;
        }
        if !flags.is_empty() && flags != epoll::EventFlags::OUT {
            let read = conn.read(&mut buffer, &mut ended);
            if let Some((_, outcome)) = ended.pop() {
                return said(outcome).map(Some).map_err(fail);
            }
            read.map_err(|(_, why)| fail(why))?;
        }
    }
    Ok(None)
}

fn said(outcome: Outcome) -> Result<Said, String> {
    match outcome {
        Outcome::Good { body, header_length, .. } => Ok(Said::Good(body, header_length)),
        Outcome::Bad { code: code @ (Code::Http(_) | Code::Grpc(_)), said, .. } => {
            Ok(Said::Bad(code, said))
        }
        Outcome::Bad { said, .. } => Err(said),
        Outcome::Unprocessed => Err("it refused to look at the request".to_owned()),
    }
}
