//! One thread of the generator: takes up what is due, sends it where there is room, notes how it ended.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use memchr::memmem::Finder;
use rustix::{event::epoll, time::Timespec};

use super::{
    arrive::{Arriving, Shot},
    book::{Book, Note},
    conn::{Conn, Flight, Outcome},
    socket::Peer,
};
use crate::{
    plan::{Plan, Protocol},
    record::Code,
};

/// Between two looks at what has become too old, and two reports.
const TICK: u64 = 20_000_000;
const REPORT: u64 = 100_000_000;
/// How long a server may take to accept the first connections.
const CONNECT: u64 = 5_000_000_000;
/// After a connection failed, the next attempt comes after this, and after twice as long each time until it comes every second.
const AGAIN: u64 = 10_000_000;
const AGAIN_MOST: u64 = 1_000_000_000;
/// Of an answer that nobody checks, enough to see its version.
const HEAD: usize = 512;
/// Requests that wait for a connection, at most; those beyond count as not connected.
const BACKLOG: usize = 1 << 22;

/// What a worker says while a phase goes on.
#[derive(Debug, Default)]
pub struct Report {
    pub phase: usize,
    pub notes: Vec<Note>,
    pub examples: Vec<String>,
    /// Of this thread.
    pub thread: usize,
    pub in_flight: usize,
    pub waiting: usize,
    /// The phase is over for this thread; when, nanoseconds on the run's clock.
    pub over: Option<u64>,
}

enum Place {
    Up(Box<Conn>),
    Down { again: u64, wait: u64 },
}

/// A thread's connections and what it does with them.
pub struct Worker<'a> {
    plan: &'a Plan,
    peer: &'a Peer,
    stop: &'a AtomicBool,
    thread: usize,
    /// The run's clock counts from here.
    base: Instant,
    epoll: OwnedFd,
    places: Vec<Place>,
    /// Where to look for room first.
    next: usize,
    /// Connections with something to write.
    touched: Vec<usize>,
    backlog: VecDeque<(Shot, bool)>,
    in_flight: usize,
    book: Book,
    buffer: Vec<u8>,
    ended: Vec<(Flight, Outcome)>,
    versions: Finder<'static>,
    /// Why the last connection failed.
    trouble: String,
    phase: usize,
    origin: u64,
}

impl<'a> Worker<'a> {
    /// `connections`: how many are this thread's.
    pub fn new(
        plan: &'a Plan,
        peer: &'a Peer,
        stop: &'a AtomicBool,
        (thread, connections): (usize, usize),
        base: Instant,
    ) -> Result<Worker<'a>, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll = epoll.map_err(|e| format!("epoll cannot be had: {e}"))?;
        let down = || Place::Down { again: 0, wait: AGAIN };
        Ok(Worker {
            plan,
            peer,
            stop,
            thread,
            base,
            epoll,
            places: (0..connections).map(|_| down()).collect(),
            next: 0,
            touched: Vec::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            book: Book::default(),
            buffer: vec![0; 256 << 10],
            ended: Vec::new(),
            versions: Finder::new("\"model_version\":\""),
            trouble: String::new(),
            phase: 0,
            origin: 0,
        })
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// Makes the connections. The error says why none could be made.
    pub fn connect(&mut self) -> Result<(), String> {
        let until = self.now() + CONNECT;
        loop {
            let now = self.now();
            self.reconnect(now);
            let ready =
                self.places.iter().filter(|p| matches!(p, Place::Up(c) if c.ready())).count();
            let over = now >= until || self.stop.load(Ordering::Relaxed);
            // One that was refused is as good as an answer: nobody listens.
            let refused = ready == 0 && !self.trouble.is_empty();
            if ready == self.places.len() || (ready > 0 && over) {
                return Ok(());
            }
            if over || refused {
                let why = if self.trouble.is_empty() { "no answer" } else { &self.trouble };
                return Err(why.to_owned());
            }
            self.poll(now + TICK, &mut |_, _| {});
        }
    }

    /// Begins what is down and may be tried again.
    fn reconnect(&mut self, now: u64) {
        let keep = match self.plan.requests.iter().any(|r| r.expected.is_some()) {
            true => usize::MAX,
            false => HEAD,
        };
        for at in 0..self.places.len() {
            let Place::Down { again, wait } = self.places[at] else { continue };
            if again > now {
                continue;
            }
            let protocol = self.plan.target.protocol;
            self.places[at] = match Conn::begin(self.peer, protocol, keep, &self.epoll, at as u64) {
                Ok(conn) => Place::Up(Box::new(conn)),
                Err(error) => {
                    self.trouble = error.to_string();
                    Place::Down { again: now + wait, wait: (2 * wait).min(AGAIN_MOST) }
                }
            };
        }
    }

    /// Runs one phase that began at `origin`, and tells `report` about it.
    pub fn phase(
        &mut self,
        phase: usize,
        origin: u64,
        report: &mut dyn FnMut(Report, bool) -> Option<Report>,
    ) {
        (self.phase, self.origin) = (phase, origin);
        let share = self.plan.shard.share(self.thread, self.plan.threads);
        let mut arriving = Arriving::new(self.plan, phase, share, origin);
        let (mut tick, mut reported) = (origin, origin);
        let mut unsent: Option<Report> = None;
        loop {
            let now = self.now();
            self.take_up(&mut arriving, now);
            self.send(&mut arriving);
            if now >= tick {
                tick = now + TICK;
                self.expire(now, &mut arriving);
                self.reconnect(now);
                if now >= reported + REPORT {
                    reported = now;
                    let news = self.report(unsent.take());
                    unsent = report(news, false);
                }
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            let next = arriving.next();
            if next.is_none() && self.in_flight == 0 && self.backlog.is_empty() {
                break;
            }
            let until = next.map_or(tick, |next| next.min(tick));
            self.poll(until, &mut |worker, now| {
                worker.settle(&mut arriving, now);
                // Between two connections' answers, what has become due meanwhile.
                worker.take_up(&mut arriving, now);
                worker.send(&mut arriving);
            });
        }
        self.give_up();
        let last = Report { over: Some(self.now()), ..self.report(unsent) };
        report(last, true);
    }

    fn report(&mut self, unsent: Option<Report>) -> Report {
        let (mut notes, mut examples) = self.book.hand_over();
        if let Some(unsent) = unsent {
            notes.extend(unsent.notes);
            examples.extend(unsent.examples);
        }
        Report {
            phase: self.phase,
            notes,
            examples,
            thread: self.thread,
            in_flight: self.in_flight,
            waiting: self.backlog.len(),
            over: None,
        }
    }

    /// The place in the book of a request.
    fn key(&self, due: u64, request: usize) -> (u64, usize) {
        (due.saturating_sub(self.origin) / REPORT, self.plan.requests[request].variant)
    }

    /// Puts what is due into the backlog.
    fn take_up(&mut self, arriving: &mut Arriving<'_>, now: u64) {
        while let Some(shot) = arriving.take(now) {
            let key = self.key(shot.due, shot.request);
            self.book.taken(key, now - shot.due);
            if self.backlog.len() < BACKLOG {
                self.backlog.push_back((shot, false));
            } else {
                let full = || "more requests wait for a connection than can be held".to_owned();
                self.book.failed(key, Code::Unconnected, 0, full);
                arriving.ended(now);
            }
        }
    }

    /// Sends what waits, as far as there is room.
    fn send(&mut self, arriving: &mut Arriving<'_>) {
        while let Some((shot, again)) = self.backlog.front().copied() {
            let Some(at) = self.room() else { break };
            let Place::Up(conn) = &mut self.places[at] else { break };
            self.backlog.pop_front();
            let sent = self.base.elapsed().as_nanos() as u64;
            let Shot { due, request } = shot;
            let flight = Flight { due, sent, request, again };
            let result = conn.send(flight, &self.plan.requests[request]);
            self.in_flight += 1;
            if !self.touched.contains(&at) {
                self.touched.push(at);
            }
            match result {
                Ok(bytes) => {
                    let key = self.key(due, request);
                    self.book.sent(key, bytes);
                }
                Err(error) => self.lose(at, Code::Broken, &error.to_string(), arriving),
            }
        }
        self.flush(arriving);
    }

    /// One write for all the frames that were put on a connection.
    fn flush(&mut self, arriving: &mut Arriving<'_>) {
        while let Some(at) = self.touched.pop() {
            if let Place::Up(conn) = &mut self.places[at]
                && let Err(error) = conn.flush(&self.epoll, at as u64)
            {
                self.lose(at, Code::Broken, &error.to_string(), arriving);
            }
        }
    }

    /// A connection that can take a request.
    fn room(&mut self) -> Option<usize> {
        let most = match self.plan.target.protocol {
            Protocol::Grpc => self.plan.streams.max(1),
            Protocol::Json | Protocol::Binary => 1,
        };
        let count = self.places.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            if let Place::Up(conn) = &self.places[at]
                && conn.room(most) > 0
            {
                self.next = (at + 1) % count;
                return Some(at);
            }
        }
        None
    }

    /// Waits until `until` for something to happen, and takes it. `after`: called when a connection has been read.
    fn poll(&mut self, until: u64, after: &mut dyn FnMut(&mut Self, u64)) {
        let now = self.now();
        let left = until.saturating_sub(now);
        let timeout = Timespec {
            tv_sec: (left / 1_000_000_000) as i64,
            tv_nsec: (left % 1_000_000_000) as i64,
        };
        let empty =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [empty; 64];
        let happened = epoll::wait(&self.epoll, &mut events[..], Some(&timeout)).unwrap_or(0);
        for event in &events[..happened] {
            let (flags, data) = (event.flags, event.data);
            let at = data.u64() as usize;
            self.event(at, flags);
            after(self, self.now());
        }
    }

    fn event(&mut self, at: usize, flags: epoll::EventFlags) {
        let Some(Place::Up(conn)) = self.places.get_mut(at) else { return };
        let mut over = None;
        if flags.contains(epoll::EventFlags::OUT)
            && let Err(error) = conn.writable()
        {
            over = Some((Code::Broken, error.to_string()));
        }
        if over.is_none() && flags != epoll::EventFlags::OUT {
            loop {
                match conn.read(&mut self.buffer, &mut self.ended) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(why) => {
                        over = Some(why);
                        break;
                    }
                }
            }
        }
        if over.is_none() {
            let flushed = conn.flush(&self.epoll, at as u64);
            over = flushed.err().map(|error| (Code::Broken, error.to_string()));
        }
        if conn.spent() && over.is_none() {
            over = Some((Code::Broken, String::new()));
        }
        if let Some((code, why)) = over {
            self.drop_connection(at, code, &why);
        }
    }

    /// Closes a connection; what was under way on it ends with `code`.
    fn drop_connection(&mut self, at: usize, code: Code, why: &str) {
        let Place::Up(conn) = &mut self.places[at] else { return };
        // One that never was made says something about the server; one that ends after a goodbye nothing.
        let made = conn.ready();
        for flight in conn.abandon() {
            self.ended.push((flight, Outcome::bad(code.clone(), why)));
        }
        let now = self.now();
        if !made {
            why.clone_into(&mut self.trouble);
        }
        let again = if made { now } else { now + AGAIN };
        self.places[at] = Place::Down { again, wait: AGAIN };
        if made {
            self.reconnect(now);
        }
    }

    fn lose(&mut self, at: usize, code: Code, why: &str, arriving: &mut Arriving<'_>) {
        self.drop_connection(at, code, why);
        let now = self.now();
        self.settle(arriving, now);
    }

    /// Notes what has ended.
    fn settle(&mut self, arriving: &mut Arriving<'_>, now: u64) {
        let mut ended = std::mem::take(&mut self.ended);
        for (flight, outcome) in ended.drain(..) {
            self.in_flight -= 1;
            let Flight { due, sent, request, again } = flight;
            let key = self.key(due, request);
            match outcome {
                Outcome::Good { body, header_length, bytes } => {
                    let expected = self.plan.requests[request].expected.as_ref();
                    match expected.map_or(Ok(()), |check| check.check(&body, header_length)) {
                        Ok(()) => {
                            let version = self.version(&body);
                            let times =
                                (now.saturating_sub(due).max(1), now.saturating_sub(sent).max(1));
                            self.book.good(key, times, bytes, version);
                        }
                        Err(why) => self.book.failed(key, Code::Wrong, bytes, || why),
                    }
                    arriving.ended(now);
                }
                // Once: a server that goes on refusing is not one that says goodbye.
                Outcome::Unprocessed if !again => {
                    self.backlog.push_front((Shot { due, request }, true));
                }
                Outcome::Unprocessed => {
                    self.book.failed(key, Code::Broken, 0, || "refused twice".to_owned());
                    arriving.ended(now);
                }
                Outcome::Bad { code, said, bytes } => {
                    self.book.failed(key, code, bytes, || shown(&said));
                    arriving.ended(now);
                }
            }
        }
        self.ended = ended;
    }

    /// The version that an answer says it is from.
    fn version<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        match self.plan.target.protocol {
            Protocol::Grpc => version_of_message(body),
            Protocol::Json | Protocol::Binary => {
                let head = &body[..body.len().min(HEAD)];
                let from = self.versions.find(head)? + self.versions.needle().len();
                let length = head[from..].iter().position(|b| *b == b'"')?;
                Some(&head[from..from + length])
            }
        }
    }

    /// Gives up what is older than it may be.
    fn expire(&mut self, now: u64, arriving: &mut Arriving<'_>) {
        let timeout = u64::try_from(self.plan.timeout.as_nanos()).unwrap_or(u64::MAX);
        let late = |due: u64| due.saturating_add(timeout) <= now;
        let connected = self.places.iter().any(|p| matches!(p, Place::Up(conn) if conn.ready()));
        while let Some((shot, _)) = self.backlog.front().copied().filter(|(s, _)| late(s.due)) {
            self.backlog.pop_front();
            let key = self.key(shot.due, shot.request);
            if connected {
                self.book.failed(key, Code::TimedOut, 0, || "no connection was free".to_owned());
            } else {
                let trouble = self.trouble.clone();
                self.book.failed(key, Code::Unconnected, 0, || trouble);
            }
            arriving.ended(now);
        }
        let mut gone = Vec::new();
        for at in 0..self.places.len() {
            let Place::Up(conn) = &mut self.places[at] else { continue };
            let before = gone.len();
            let mut here = Vec::new();
            let stays = conn.expire(|flight| late(flight.due), &mut here);
            gone.append(&mut here);
            if !stays {
                self.drop_connection(at, Code::TimedOut, "");
            } else if gone.len() > before
                && let Err(error) = conn.flush(&self.epoll, at as u64)
            {
                self.lose(at, Code::Broken, &error.to_string(), arriving);
            }
        }
        for flight in gone {
            self.in_flight -= 1;
            let key = self.key(flight.due, flight.request);
            self.book.failed(key, Code::TimedOut, 0, || "no answer in time".to_owned());
            arriving.ended(now);
        }
    }

    /// The phase ends with what has ended: the rest is let go.
    fn give_up(&mut self) {
        self.backlog.clear();
        if self.in_flight > 0 {
            for at in 0..self.places.len() {
                if matches!(&self.places[at], Place::Up(conn) if conn.under_way() > 0) {
                    self.places[at] = Place::Down { again: 0, wait: AGAIN };
                }
            }
            self.in_flight = 0;
        }
        self.ended.clear();
    }
}

/// A text of the server for a person: one line, not too long.
fn shown(text: &str) -> String {
    let mut line: String =
        text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.trim_end().len());
    line
}

/// `model_version` (field 2) at the front of a ModelInferResponse.
fn version_of_message(mut message: &[u8]) -> Option<&[u8]> {
    loop {
        let (tag, rest) = message.split_first()?;
        let (length, rest) = rest.split_first()?;
        // Names of 128 bytes or more have longer lengths; whose version it is can be seen elsewhere.
        let (value, rest) =
            rest.split_at_checked(usize::from(*length)).filter(|_| *length < 128)?;
        match tag {
            0x0a => message = rest,
            0x12 => return Some(value),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_where_they_are() {
        assert_eq!(version_of_message(b"\x0a\x02mm\x12\x0212\x1a\x00"), Some(&b"12"[..]));
        for other in [&b""[..], b"\x0a\x02m", b"\x12", b"\x0a\x02mm\x1a\x01x", b"\x0a\xff\x01"] {
            assert_eq!(version_of_message(other), None);
        }
        assert_eq!(shown("a\nb\t"), "a b");
    }
}
