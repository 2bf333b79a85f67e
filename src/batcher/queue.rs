//! One version's queue: what waits, in which order it runs and when a batch is due. Pure: it is told the time.

use std::time::Duration;

use super::lines::{self, Candidate, Level, Lines};
use crate::types::time::Tick;

/// Says whether nobody waits for an entry any more.
pub trait Abandoned {
    /// The client left: the entry is dropped instead of run. Asked under the caller's lock; must be cheap.
    fn abandoned(&self) -> bool;

    /// The deadline that counts now, where the entry was queued with `own`: others with later ones may have joined.
    fn latest(&self, own: Option<Tick>) -> Option<Tick> {
        own
    }
}

/// Which queue an entry came from; whoever creates queues hands these out and never reuses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// One request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting<T> {
    /// Length of the batch axis; 1 for a model without one. 0 takes a row's place in a batch all the same.
    pub rows: usize,
    /// Bytes of its inputs.
    pub bytes: usize,
    /// Hash of its shapes: only equal buckets share a batch (`assemble::bucket_of`).
    pub bucket: u64,
    pub enqueued: Tick,
    /// From this tick on it must not run.
    pub deadline: Option<Tick>,
    /// Higher runs first.
    pub priority: u8,
    /// Its caller has much less than a fair share of what is under way: before the others of its priority (`shares`).
    pub favoured: bool,
    pub item: T,
}

/// Where an entry stands within its queue: priority, then whether it is favoured. Higher runs first.
pub type Rank = u16;

/// The rank of an entry of this priority.
pub fn rank(priority: u8, favoured: bool) -> Rank {
    Rank::from(priority) << 1 | Rank::from(favoured)
}

/// The priority of a rank.
pub fn priority(rank: Rank) -> u8 {
    (rank >> 1) as u8
}

impl<T> Waiting<T> {
    pub fn rank(&self) -> Rank {
        rank(self.priority, self.favoured)
    }
}

/// What a queue may hold, and how it forms batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows a batch may hold. A single request with more runs alone.
    pub max_batch_rows: usize,
    /// How long a batch that is not full may wait for company. Zero: not at all.
    pub max_delay: Duration,
    pub max_requests: usize,
    pub max_bytes: usize,
}

/// Why an entry was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Requests {
        limit: usize,
    },
    Bytes {
        limit: usize,
    },
    /// The queue has stood for too long (`standing`): what waits takes so long.
    Standing {
        delay: Duration,
    },
    /// It would be answered after its deadline: in about `estimate`, with `left` to go.
    Late {
        estimate: Duration,
        left: Duration,
    },
    /// Its deadline has passed already.
    Expired,
    Closed,
}

/// An entry that left without running. The caller answers or drops it outside its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone<T> {
    pub queue: QueueId,
    pub why: Why,
    pub item: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Expired,
    Abandoned,
    /// It could not have been answered before its deadline.
    Late,
    /// It made room for one of a higher rank.
    Displaced,
}

/// Where `poll` puts what it takes out; kept and emptied by the caller, so that a poll allocates nothing.
#[derive(Debug)]
pub struct Taken<T> {
    /// The batch, all of one bucket. Empty before a poll; filled only where the answer is `Run`.
    pub members: Vec<Waiting<T>>,
    /// Whatever the answer.
    pub gone: Vec<Gone<T>>,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Taken { members: Vec::new(), gone: Vec::new() }
    }
}

/// What an executor asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub now: Tick,
    /// Rows it takes at most, on top of the queue's own limit.
    pub rows: usize,
    /// Rows that a request may have which runs alone; one with more is left (`Poll::TooLarge`).
    pub alone: usize,
    /// Bytes that a row may have; a request with wider ones is left too.
    pub width: usize,
    /// How long the run is expected to take: a batch does not wait past its deadlines minus this.
    pub run: Duration,
    /// Whether who waited longest goes first, whatever its priority.
    pub oldest: bool,
}

impl Ask {
    pub fn new(now: Tick, rows: usize) -> Ask {
        let (alone, width) = (usize::MAX, usize::MAX);
        Ask { now, rows, alone, width, run: Duration::ZERO, oldest: false }
    }
}

impl Ask {
    fn too_wide<T>(&self, waiting: &Waiting<T>) -> bool {
        waiting.bytes > self.width.saturating_mul(waiting.rows.max(1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// `Taken::members` holds a batch of so many rows.
    Run {
        rows: usize,
    },
    /// Something waits for company; ask again then, or after a push.
    WaitUntil(Tick),
    /// What is next has more rows than `Ask::alone`, or wider ones than `Ask::width`.
    TooLarge,
    Idle,
    /// Closed and empty.
    Closed,
}

/// A full queue looks for abandoned entries at most this often.
const SWEEP_INTERVAL: Duration = Duration::from_millis(1);
pub struct Queue<T> {
    id: QueueId,
    limits: Limits,
    lines: Lines<T>,
    closed: bool,
    swept: Tick,
}

impl<T: Abandoned> Queue<T> {
    pub fn new(id: QueueId, mut limits: Limits) -> Queue<T> {
        limits.max_requests = limits.max_requests.min(lines::MOST);
        limits.max_batch_rows = limits.max_batch_rows.max(1);
        Queue { id, limits, lines: Lines::default(), closed: false, swept: Tick(0) }
    }

    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Requests that wait, abandoned ones that no poll has met yet among them.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.lines.bytes()
    }

    /// Rows that wait (a request of none counts as one).
    pub fn rows(&self) -> usize {
        self.lines.places()
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The highest priority that waits.
    pub fn priority(&mut self) -> Option<u8> {
        let first = self.lines.first()?;
        self.lines.head(first).map(|(_, waiting)| waiting.priority)
    }

    /// Rows that wait of this rank or a higher one: what runs before one that comes now.
    pub fn ahead(&self, rank: Rank) -> usize {
        let ahead = self.lines.levels().iter().filter(|level| level.rank >= rank);
        ahead.map(|level| level.places).sum()
    }

    /// The earliest deadline that waits: when to call `expire`.
    pub fn next_deadline(&mut self) -> Option<Tick> {
        self.lines.earliest().map(|(deadline, _)| deadline)
    }

    /// The entry with the earliest deadline: that, and how long it had in all.
    pub fn tightest(&mut self) -> Option<(Tick, Duration)> {
        let (deadline, slot) = self.lines.earliest()?;
        Some((deadline, deadline.since(self.lines.get(slot)?.enqueued)))
    }

    /// Takes no more; what waits is still run, without delay.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Adds an entry, or gives its item back with the reason. A full queue first drops what is expired or abandoned, then
    /// what is of a lower rank, the last to come first.
    pub fn push(
        &mut self,
        now: Tick,
        waiting: Waiting<T>,
        gone: &mut Vec<Gone<T>>,
    ) -> Result<(), (Refusal, T)> {
        if self.closed {
            return Err((Refusal::Closed, waiting.item));
        }
        if waiting.deadline.is_some_and(|d| d <= now) {
            return Err((Refusal::Expired, waiting.item));
        }
        let mut full = self.full(waiting.bytes);
        if full.is_some() && self.tidy(now, gone) {
            full = self.full(waiting.bytes);
        }
        if full.is_some() && self.displace(&waiting, gone) {
            full = None;
        }
        if let Some(refusal) = full {
            return Err((refusal, waiting.item));
        }
        self.lines.insert(waiting);
        Ok(())
    }

    /// Sweeps, if that was not done a moment ago: before anybody is refused, since what nobody waits for takes no place.
    pub fn tidy(&mut self, now: Tick, gone: &mut Vec<Gone<T>>) -> bool {
        let due = now.since(self.swept) >= SWEEP_INTERVAL;
        if due {
            self.sweep(now, gone);
        }
        due
    }

    /// Makes room for `waiting` at the cost of lower ranks; nobody goes where that would not be enough.
    fn displace(&mut self, waiting: &Waiting<T>, gone: &mut Vec<Gone<T>>) -> bool {
        let below = |level: &&Level| level.rank < waiting.rank();
        let bytes: usize = self.lines.levels().iter().filter(below).map(|level| level.bytes).sum();
        if self.lines.levels().iter().find(below).is_none()
            || (self.lines.bytes() - bytes).saturating_add(waiting.bytes) > self.limits.max_bytes
        {
            return false;
        }
        while self.full(waiting.bytes).is_some() {
            let lowest = self.lines.levels().iter().map(|level| level.rank).min();
            let lowest = lowest.filter(|rank| *rank < waiting.rank());
            let Some(slot) = lowest.and_then(|rank| self.lines.newest(rank)) else {
                return false;
            };
            self.remove(slot, Why::Displaced, gone);
        }
        true
    }

    /// Takes the next batch where one is due. `taken.members` must be empty.
    pub fn poll(&mut self, ask: Ask, taken: &mut Taken<T>) -> Poll {
        debug_assert!(taken.members.is_empty(), "a batch was left in Taken");
        self.expire(ask.now, &mut taken.gone);
        let cap = ask.rows.min(self.limits.max_batch_rows).max(1);
        loop {
            let bucket = match self.choose(&ask, cap) {
                Due::Bucket(bucket) => bucket,
                Due::Wait(until) => return Poll::WaitUntil(until),
                Due::Nothing if self.closed => return Poll::Closed,
                Due::Nothing => return Poll::Idle,
            };
            let overdue = if ask.oldest { self.overdue(&ask) } else { None };
            let head = || self.lines.head(bucket).map(|(slot, _)| slot);
            let Some(first) = overdue.or_else(head) else { return Poll::Idle };
            match self.lines.get(first) {
                // Without it, another bucket may come first.
                Some(head) if head.item.abandoned() => {
                    self.remove(first, Why::Abandoned, &mut taken.gone);
                }
                Some(head) if head.rows.max(1) > ask.alone || ask.too_wide(head) => {
                    return Poll::TooLarge;
                }
                _ => return Poll::Run { rows: self.fill(first, cap, &ask, taken) },
            }
        }
    }

    /// Removes what is expired.
    pub fn expire(&mut self, now: Tick, gone: &mut Vec<Gone<T>>) {
        while let Some((deadline, slot)) = self.lines.earliest() {
            if deadline > now {
                break;
            }
            if !self.postpone(slot, deadline) {
                self.remove(slot, Why::Expired, gone);
            }
        }
    }

    /// Removes what would have to be answered by `end` to be in time. The last one is left: it takes nobody's place.
    pub fn give_up(&mut self, end: Tick, gone: &mut Vec<Gone<T>>) {
        while self.lines.len() > 1 {
            let Some((deadline, slot)) = self.lines.earliest() else { break };
            if deadline > end {
                break;
            }
            if !self.postpone(slot, deadline) {
                self.remove(slot, Why::Late, gone);
            }
        }
    }

    /// Gives the entry the deadline that counts for it by now, where that is later than `deadline`.
    fn postpone(&mut self, slot: u32, deadline: Tick) -> bool {
        let Some(waiting) = self.lines.get(slot) else { return false };
        let latest = waiting.item.latest(Some(deadline));
        let later = latest.is_none_or(|latest| latest > deadline);
        if later {
            self.lines.postpone(slot, latest);
        }
        later
    }

    /// Removes what is expired or abandoned; looks at every entry.
    pub fn sweep(&mut self, now: Tick, gone: &mut Vec<Gone<T>>) {
        self.swept = now;
        self.expire(now, gone);
        let mut slot = 0;
        while slot < self.lines.slots() {
            if self.lines.get(slot).is_some_and(|w| w.item.abandoned()) {
                self.remove(slot, Why::Abandoned, gone);
            }
            slot += 1;
        }
    }

    /// Empties the queue, oldest first: for what is left when a version goes.
    pub fn drain(&mut self) -> Vec<T> {
        self.lines.drain()
    }

    fn full(&self, more: usize) -> Option<Refusal> {
        if self.lines.len() >= self.limits.max_requests {
            return Some(Refusal::Requests { limit: self.limits.max_requests });
        }
        let fits = self.lines.bytes().checked_add(more).is_some_and(|b| b <= self.limits.max_bytes);
        (!fits).then_some(Refusal::Bytes { limit: self.limits.max_bytes })
    }

    /// Who waited longest, where priorities differ and nobody waits for company.
    fn overdue(&self, ask: &Ask) -> Option<u32> {
        if self.lines.levels().len() < 2 {
            return None;
        }
        let oldest = self.lines.oldest()?;
        let enqueued = self.lines.get(oldest)?.enqueued;
        (self.closed || enqueued.after(self.limits.max_delay) <= ask.now).then_some(oldest)
    }

    /// Moves `first` and more of its bucket into a batch, first come first served within a rank, until the next one
    /// does not fit; the first always does. Returns the rows.
    fn fill(&mut self, first: u32, cap: usize, ask: &Ask, taken: &mut Taken<T>) -> usize {
        let at = self.lines.bucket_of(first);
        let first = self.lines.unlink(first);
        let mut places = first.as_ref().map_or(0, |waiting| waiting.rows.max(1));
        let mut rows = first.as_ref().map_or(0, |waiting| waiting.rows);
        taken.members.extend(first);
        while places < cap {
            let Some((slot, waiting)) = self.lines.head(at) else { break };
            if waiting.item.abandoned() {
                if let Some(w) = self.lines.unlink(slot) {
                    taken.gone.push(Gone { queue: self.id, why: Why::Abandoned, item: w.item });
                }
                continue;
            }
            let more = waiting.rows.max(1);
            if places.saturating_add(more) > cap || ask.too_wide(waiting) {
                break;
            }
            places = places.saturating_add(more);
            rows = rows.saturating_add(waiting.rows);
            taken.members.extend(self.lines.unlink(slot));
        }
        self.lines.settle(at);
        rows
    }

    /// Which bucket runs now, or when one will.
    fn choose(&mut self, ask: &Ask, cap: usize) -> Due {
        let Some(first) = self.lines.first() else { return Due::Nothing };
        let delay = self.limits.max_delay;
        if delay.is_zero() || self.closed {
            return Due::Bucket(first);
        }
        let mut best: Option<Candidate> = None;
        let mut until = Tick(u64::MAX);
        for candidate in self.lines.candidates() {
            let due = candidate.oldest.after(delay);
            if candidate.places < cap && due > ask.now {
                until = until.min(due);
            } else if best.as_ref().is_none_or(|best| best.rank < candidate.rank) {
                best = Some(candidate);
            }
        }
        if let Some(best) = best {
            return Due::Bucket(best.bucket);
        }
        // Nothing is due by itself; a deadline may not leave the time to wait.
        if let Some((deadline, slot)) = self.lines.earliest() {
            let run = u64::try_from(ask.run.as_nanos()).unwrap_or(u64::MAX);
            let start = Tick(deadline.0.saturating_sub(run));
            if start <= ask.now {
                return Due::Bucket(self.lines.bucket_of(slot));
            }
            until = until.min(start);
        }
        Due::Wait(until)
    }

    fn remove(&mut self, slot: u32, why: Why, gone: &mut Vec<Gone<T>>) {
        let bucket = self.lines.bucket_of(slot);
        if let Some(waiting) = self.lines.unlink(slot) {
            gone.push(Gone { queue: self.id, why, item: waiting.item });
            self.lines.settle(bucket);
        }
    }
}

enum Due {
    Bucket(u32),
    Wait(Tick),
    Nothing,
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
