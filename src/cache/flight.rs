//! Runs that several equal requests wait for: the first starts it, the others join, and it belongs to none of them.
//!
//! Invariant: a run ends early only when nobody waits for it any more. Whoever started it may leave as anybody may.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use super::{key::Key, store::Store};
use crate::{
    batcher::reply::{Reply, RunWatch, Shared},
    runtime::session::Outputs,
    telemetry::{clock::now, stats::VersionStats},
    types::{error::Code, time::Tick},
};

/// Few meet: by the key, whose bits are as good as random.
const SHARDS: usize = 16;

/// No deadline, as the number that `Flight::latest` keeps.
const NEVER: u64 = u64::MAX;

/// The runs under way by key.
#[derive(Default)]
pub struct Flights {
    shards: [Shard; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// How many have landed: who looked before one did looks again.
    landed: AtomicU64,
    flying: Mutex<HashMap<Key, Arc<Flight>, foldhash::fast::FixedState>>,
}

/// What a request brings when it boards.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub deadline: Option<Tick>,
    /// Higher runs earlier.
    pub priority: u8,
}

/// What came of boarding.
pub enum Boarded {
    /// The answer has come since the request looked.
    Kept(Outputs),
    /// A run is under way: the place in it.
    Joined(Seat),
    /// The request is to start the run.
    Leads(Seat),
}

impl Flights {
    fn shard(&self, key: Key) -> &Shard {
        &self.shards[key as usize % SHARDS]
    }

    /// To be taken before the store is asked, and given to `board`.
    pub fn glance(&self, key: Key) -> u64 {
        self.shard(key).landed.load(Ordering::Acquire)
    }

    /// Takes a place in the run for `key`; the store had no answer since `glance`.
    pub fn board(
        &self,
        store: &Arc<Store>,
        stats: &Arc<VersionStats>,
        key: Key,
        glance: u64,
        ticket: Ticket,
    ) -> Boarded {
        let shard = self.shard(key);
        let mut flying = shard.flying.lock();
        if let Some(boarded) = flying.get(&key).and_then(|flight| flight.join(ticket)) {
            return boarded;
        }
        // Why under the lock: whatever lands from here on finds this flight in its place.
        if shard.landed.load(Ordering::Acquire) != glance
            && let Some(outputs) = store.get(key)
        {
            return Boarded::Kept(outputs);
        }
        let flight = Flight::new(store.clone(), stats.clone(), key, ticket);
        // One that nobody waits for any more, or that is less urgent, goes on without joiners.
        flying.insert(key, flight.clone());
        Boarded::Leads(Seat { flight, place: 0, deadline: ticket.deadline, answered: false })
    }

    /// Nobody joins this flight any more.
    fn remove(&self, flight: &Arc<Flight>) {
        let shard = self.shard(flight.key);
        let mut flying = shard.flying.lock();
        if flying.get(&flight.key).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            flying.remove(&flight.key);
        }
        shard.landed.fetch_add(1, Ordering::Release);
    }

    #[cfg(test)]
    fn flying(&self) -> usize {
        self.shards.iter().map(|shard| shard.flying.lock().len()).sum()
    }
}

/// One run, for everybody who waits for it.
pub struct Flight {
    store: Arc<Store>,
    stats: Arc<VersionStats>,
    key: Key,
    /// Of the request that started it.
    first: Ticket,
    abandoned: AtomicBool,
    /// The latest deadline of those who wait, in a tick's nanoseconds.
    latest: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// Places whose request waits.
    waiting: usize,
    /// By place. Most runs have one request.
    wakers: SmallVec<[Option<Waker>; 1]>,
    run: Option<Arc<RunWatch>>,
    outcome: Option<Outcome>,
    /// Nobody joins any more.
    closed: bool,
}

/// What came of a run; `None`: there was none, it was refused or lost.
type Outcome = Option<Reply>;

impl Flight {
    fn new(store: Arc<Store>, stats: Arc<VersionStats>, key: Key, first: Ticket) -> Arc<Flight> {
        let latest = AtomicU64::new(first.deadline.map_or(NEVER, |deadline| deadline.0));
        let state =
            State { waiting: 1, wakers: smallvec![None], run: None, outcome: None, closed: false };
        let abandoned = AtomicBool::new(false);
        Arc::new(Flight { store, stats, key, first, abandoned, latest, state: Mutex::new(state) })
    }

    /// A place in it, or its answer; none where it is given up, or would run later than this request should.
    fn join(self: &Arc<Flight>, ticket: Ticket) -> Option<Boarded> {
        let mut state = self.state.lock();
        match &state.outcome {
            // About to be kept.
            Some(Some(Reply { outputs: Ok(outputs), .. })) => {
                return Some(Boarded::Kept(outputs.clone()));
            }
            Some(_) => return None,
            None if state.waiting == 0 || ticket.priority > self.first.priority => return None,
            None => state.waiting += 1,
        }
        state.wakers.push(None);
        self.latest
            .fetch_max(ticket.deadline.map_or(NEVER, |deadline| deadline.0), Ordering::AcqRel);
        let place = state.wakers.len() - 1;
        let deadline = ticket.deadline;
        Some(Boarded::Joined(Seat { flight: self.clone(), place, deadline, answered: false }))
    }

    /// What the place comes to, and given back with that; `None`: the run was refused, or ended, for reasons of others'.
    fn poll(
        &self,
        place: usize,
        deadline: Option<Tick>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Reply>> {
        let mut state = self.state.lock();
        let State { waiting, wakers, outcome, closed, .. } = &mut *state;
        let Some(outcome) = outcome else {
            match &mut wakers[place] {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        *waiting -= 1;
        let last = *closed && *waiting == 0;
        let outcome = if last { outcome.take() } else { outcome.clone() };
        let later = |first: Tick| deadline.is_none_or(|own| own > first);
        let theirs = self.first.deadline.is_some_and(later);
        Poll::Ready(outcome.filter(|reply| match &reply.outputs {
            Err(error) => error.code != Code::DeadlineExceeded || !theirs,
            Ok(_) => true,
        }))
    }

    fn leave(&self, place: usize) {
        let mut state = self.state.lock();
        // None, where the answer has come: those were taken.
        if let Some(waker) = state.wakers.get_mut(place) {
            *waker = None;
        }
        state.waiting -= 1;
        if state.waiting > 0 || state.outcome.is_some() {
            return;
        }
        self.abandoned.store(true, Ordering::Release);
        let run = state.run.take();
        drop(state);
        if let Some(run) = run {
            run.leave();
        }
    }

    /// Gives those who wait their answer.
    fn deliver(&self, outcome: Outcome, closed: bool) {
        let wakers = {
            let mut state = self.state.lock();
            state.run = None;
            state.outcome = Some(outcome);
            state.closed = closed;
            mem::take(&mut state.wakers)
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn keep(&self, outputs: &Outputs) {
        let started = now();
        self.store.keep(self.key, outputs);
        self.stats.kept(now().since(started));
    }

    /// The answer, where it is to be kept.
    fn wanted<'a>(&self, outcome: &'a Outcome) -> Option<&'a Outputs> {
        let outputs = outcome.as_ref()?.outputs.as_ref().ok()?;
        self.store.wants(self.key, outputs).then_some(outputs)
    }
}

impl Shared for Flight {
    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn latest(&self) -> Option<Tick> {
        match self.latest.load(Ordering::Acquire) {
            NEVER => None,
            deadline => Some(Tick(deadline)),
        }
    }

    fn begin(&self, watch: &Arc<RunWatch>) {
        let mut state = self.state.lock();
        // Whoever left before is not counted.
        match state.waiting {
            0 => {
                drop(state);
                watch.leave();
            }
            _ => state.run = Some(watch.clone()),
        }
    }

    fn land(self: Arc<Self>, reply: Option<Reply>) {
        match self.wanted(&reply).cloned() {
            // First those who wait get it, then it is kept; whoever comes meanwhile finds it here.
            Some(outputs) => {
                self.deliver(reply, false);
                self.keep(&outputs);
                self.store.flights.remove(&self);
            }
            // Whoever comes meanwhile asks again, as anybody will who comes later.
            None => {
                self.store.flights.remove(&self);
                self.deliver(reply, true);
            }
        }
    }
}

/// One request's place in a run; dropped, it is given up.
pub struct Seat {
    pub flight: Arc<Flight>,
    place: usize,
    /// Of the request that has it.
    deadline: Option<Tick>,
    /// The place is given back.
    answered: bool,
}

impl Seat {
    /// The answer; `None`: the request is to ask for a run of its own.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let reply = self.flight.poll(self.place, self.deadline, cx);
        self.answered = reply.is_ready();
        reply
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.answered {
            self.flight.leave(self.place);
        }
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
