//! Which queue runs next, over all versions: priority first, then fair shares of executor time. Pure: it is told the
//! time.
//!
//! Fairness is that of start-time fair queueing: each queue has a virtual time that a run moves on by its cost over the
//! queue's weight, and the queue furthest behind runs next. The expected cost is charged when a run starts and corrected
//! when it ends; a queue that was empty starts at the present, with little credit for its idle time. Only queues that
//! hold something are looked at, in one dense array: ten thousand idle ones cost nothing.
//!
//! A run of several threads holds as many executors as it has threads, although one of them calls the runtime. Who is
//! next and does not fit yet is waited for, so that narrow runs cannot keep a wide one out for ever.

use std::{collections::HashMap, time::Duration};

use super::{
    entry::{Entry, Lanes},
    plan::{DEFAULT_WEIGHT, QueueConfig, nanos},
    queue::{self, Abandoned, Ask, Gone, Poll, QueueId, Rank, Refusal, Taken, Waiting},
};
use crate::types::time::Tick;

/// Charged for a run of which nothing is known yet.
const UNKNOWN_COST: u64 = 1_000_000;
/// No run is free, or a model of nanoseconds would never take its turn.
const LEAST_CHARGE: u64 = 1_000;
/// Queues that `would_miss` weighs against the one asked for; leaving some out only makes it more lenient.
const WEIGHED: usize = 64;
/// A queue that comes back from being empty starts so far behind the others (nanoseconds of its virtual time): short
/// runs of a few callers go before the next long one.
const CREDIT: u64 = 20_000_000;
/// Runs on the reserve lane put a queue at most so far ahead of the others: it is capacity that they could not have used.
const LEAD: u64 = 100_000_000;
/// How often an idle model runs a request that its learned cost would refuse: the way back from a wrong cost.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// One run in so many goes to whose turn it is by fairness and age alone, so that a priority starves nobody.
const ANY_PRIORITY: u64 = 8;

/// Which executor asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Takes anything.
    Main,
    /// Takes only runs expected to end within `limit`, in smaller batches where need be; what was never run is not
    /// taken.
    Reserve { limit: Duration },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// `Taken::members` holds the batch. The ticket goes back through `finished`, whatever became of the run.
    Run(Ticket),
    /// Nothing yet; ask again then, or after a push.
    WaitUntil(Tick),
    /// Nothing that this lane may run; ask again after a push or another executor's `finished`.
    Idle,
}

/// A run under way.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that never comes back holds an instance for ever"]
pub struct Ticket {
    pub id: QueueId,
    /// Rows of the batch, for the cost model.
    pub rows: usize,
    /// Places that its members took in the queue.
    places: usize,
    /// Nanoseconds charged in advance.
    charged: u64,
    /// Executors held; none of the main lane's where the reserve runs it.
    held: usize,
}

/// What a push led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// An idle executor of the main lane would find something to run or to wait for.
    pub runnable: bool,
    /// What the queue's smallest run is expected to take: whether a reserve executor is worth waking. `None`: it is not.
    pub least: Option<Duration>,
}

/// What a choice needs of a queue that holds something, close together.
struct Active {
    slot: u32,
    weight: u32,
    virtual_time: u64,
    /// Breaks ties: who ran longest ago.
    turn: u64,
    /// Expected nanoseconds of a run of one row; `u64::MAX` where the reserve may not run it.
    least: u64,
    /// Nanoseconds to run all that waits; 0 where unknown.
    backlog: u64,
    /// The queue said so when it was last asked; until then, or a push, it is not asked again.
    not_before: Tick,
    priority: u8,
    /// It holds as many executors as it may.
    capped: bool,
    /// Executors that its next run holds.
    width: usize,
    /// What is next has more rows, or wider ones, than the reserve takes.
    too_large: bool,
}

pub struct Schedule<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    by_id: HashMap<QueueId, u32, foldhash::fast::FixedState>,
    active: Vec<Active>,
    /// The largest virtual time that a run has started at: the present, where nothing waits.
    clock: u64,
    /// Runs started.
    turns: u64,
    lanes: Lanes,
    /// Executors of the main lane that runs hold.
    held: usize,
}

impl<T: Abandoned> Schedule<T> {
    /// Invariant: runs of the main lane never hold more than `lanes.main` executors together.
    pub fn new(lanes: Lanes) -> Schedule<T> {
        Schedule {
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            active: Vec::new(),
            clock: 0,
            turns: 0,
            lanes,
            held: 0,
        }
    }

    /// Adds a queue; false where the id is taken.
    pub fn add(&mut self, id: QueueId, mut config: QueueConfig) -> bool {
        if self.by_id.contains_key(&id) {
            return false;
        }
        config.weight = config.weight.max(1);
        config.width = config.width.clamp(1, self.lanes.main.max(1));
        let entry = Entry::new(id, config, self.lanes);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.entries.push(Some(entry));
                (self.entries.len() - 1) as u32
            }
        };
        self.by_id.insert(id, slot);
        true
    }

    /// Takes a queue out, with what still waits in it, oldest first. Its runs may go on; their tickets are ignored.
    pub fn remove(&mut self, id: QueueId) -> Vec<T> {
        let Some(slot) = self.by_id.remove(&id) else { return Vec::new() };
        let Some(mut entry) = self.entries[slot as usize].take() else { return Vec::new() };
        if let Some(at) = entry.active {
            self.deactivate(at);
        }
        self.free.push(slot);
        entry.queue.drain()
    }

    /// The queue takes no more; what waits is run at once.
    pub fn close(&mut self, id: QueueId) {
        let Some(slot) = self.by_id.get(&id).copied() else { return };
        if let Some(entry) = &mut self.entries[slot as usize] {
            entry.queue.close();
        }
        self.refresh(slot);
    }

    /// Requests and bytes that wait, and runs under way. `None`: no such queue.
    pub fn load(&self, id: QueueId) -> Option<(usize, usize, usize)> {
        let entry = self.entry(id)?;
        Some((entry.queue.len(), entry.queue.bytes(), entry.running))
    }

    /// When one who was refused for what waits may come again: once the rest is little enough to stand, if nobody else
    /// comes. `None` where nothing is known of the cost.
    pub fn retry_after(&self, id: QueueId) -> Option<Duration> {
        self.entry(id)?.retry_after()
    }

    /// Queues that hold something.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Queues a request, or gives it back with the reason: full, closed, or sure to be late.
    pub fn push(
        &mut self,
        id: QueueId,
        now: Tick,
        waiting: Waiting<T>,
        gone: &mut Vec<Gone<T>>,
    ) -> Result<Pushed, (Refusal, T)> {
        let Some(slot) = self.by_id.get(&id).copied() else {
            return Err((Refusal::Closed, waiting.item));
        };
        if let Some(refusal) = self.late(id, now, &waiting) {
            return Err((refusal, waiting.item));
        }
        let Some(entry) = &mut self.entries[slot as usize] else {
            return Err((Refusal::Closed, waiting.item));
        };
        if let Some(refusal) = entry.stands(now, waiting.rank(), gone) {
            self.refresh(slot);
            return Err((refusal, waiting.item));
        }
        let pushed = entry.queue.push(now, waiting, gone);
        if let Err((Refusal::Requests { .. } | Refusal::Bytes { .. }, _)) = pushed {
            entry.refused(now);
        }
        self.refresh(slot); // also after a refusal: what was gone may have been swept
        pushed?;
        let active = self.entries[slot as usize].as_ref().and_then(|e| e.active);
        Ok(active.map_or(Pushed { runnable: false, least: None }, |at| {
            let active = &self.active[at];
            // The reserve runs it whether or not an executor of the main lane is free.
            let reserve = !active.capped && active.least < u64::MAX;
            let least = reserve.then(|| Duration::from_nanos(active.least));
            Pushed { runnable: !active.capped && self.fits(active), least }
        }))
    }

    /// The next batch for an executor of this lane. `taken.members` must be empty; `taken.gone` fills whatever the
    /// answer.
    pub fn next(&mut self, now: Tick, lane: Lane, taken: &mut Taken<T>) -> Next {
        loop {
            let at = match self.pick(now, lane) {
                Ok(at) => at,
                Err(until) => return until.map_or(Next::Idle, Next::WaitUntil),
            };
            if let Some(ticket) = self.ask(at, now, lane, taken) {
                return Next::Run(ticket);
            }
        }
    }

    /// Ends a run: its instance is free again, and the queue is charged what the run took in place of what was
    /// expected. The caller tells the cost model itself.
    pub fn finished(&mut self, ticket: Ticket, actual: Duration) {
        self.held = self.held.saturating_sub(ticket.held);
        let Some(slot) = self.by_id.get(&ticket.id).copied() else { return };
        let Some(entry) = &mut self.entries[slot as usize] else { return };
        entry.ended(ticket.places, ticket.charged);
        let weight = entry.config.weight;
        let owed = share(entry.config.held(nanos(actual)), weight);
        let paid = share(entry.config.held(ticket.charged), weight);
        let virtual_time = match entry.active {
            Some(at) => &mut self.active[at].virtual_time,
            None => &mut entry.virtual_time,
        };
        *virtual_time = virtual_time.saturating_add(owed).saturating_sub(paid);
        self.refresh(slot);
    }

    /// The earliest deadline of all that waits: when to call `expire`. Looks at every queue that holds something.
    pub fn next_deadline(&mut self) -> Option<Tick> {
        let entries = &mut self.entries;
        let deadlines = self
            .active
            .iter()
            .filter_map(|a| entries.get_mut(a.slot as usize)?.as_mut()?.queue.next_deadline());
        deadlines.min()
    }

    /// Takes out what is expired, wherever it waits: for a timer, while every executor is busy.
    pub fn expire(&mut self, now: Tick, gone: &mut Vec<Gone<T>>) {
        let mut at = 0;
        while let Some(active) = self.active.get(at) {
            let slot = active.slot;
            if let Some(entry) = &mut self.entries[slot as usize] {
                let before = entry.queue.len();
                entry.queue.expire(now, gone);
                if entry.queue.len() == before {
                    at += 1;
                    continue;
                }
            }
            self.refresh(slot);
            // An emptied queue's place is taken by the last one, which comes next.
            at += usize::from(self.active.get(at).is_some_and(|a| a.slot == slot));
        }
    }

    /// The time that a request would take from now to its answer, where that is past its deadline. Rather too short than
    /// too long: it counts the queue's own work ahead, of other queues no more than their fair share meanwhile (all of it where
    /// their priority is higher), and average costs, so that only hopeless work is refused. `None` also where nothing
    /// is known of the cost.
    pub fn would_miss(
        &self,
        id: QueueId,
        now: Tick,
        deadline: Tick,
        rows: usize,
        rank: Rank,
    ) -> Option<Duration> {
        let entry = self.entry(id)?;
        let cost = nanos(entry.config.cost.mean(rows)?);
        let ahead = entry.ahead(rank, entry.active.map_or(0, |at| self.active[at].backlog));
        let mut others = 0u64;
        if let Some(at) = entry.active {
            let theirs = |other: &Active| match other.priority.cmp(&queue::priority(rank)) {
                std::cmp::Ordering::Greater => other.backlog,
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => {
                    let share = u128::from(ahead) * u128::from(other.weight)
                        / u128::from(entry.config.weight);
                    other.backlog.min(u64::try_from(share).unwrap_or(u64::MAX))
                }
            };
            for other in self.active.iter().take(WEIGHED).filter(|o| o.slot != self.active[at].slot)
            {
                others = others.saturating_add(theirs(other));
            }
        }
        let own = ahead / entry.executors() as u64;
        let all = ahead.saturating_add(others) / entry.may_run as u64;
        let estimate = Duration::from_nanos(own.max(all).saturating_add(cost));
        (now.after(estimate) > deadline).then_some(estimate)
    }

    /// Refuses what would be late. An idle model tries one such request a second, or a cost learned in a bad moment
    /// would stand for ever.
    fn late(&mut self, id: QueueId, now: Tick, waiting: &Waiting<T>) -> Option<Refusal> {
        let deadline = waiting.deadline.filter(|d| *d > now)?; // the queue itself refuses an expired one
        let estimate = self.would_miss(id, now, deadline, waiting.rows, waiting.rank())?;
        let slot = *self.by_id.get(&id)?;
        let entry = self.entries[slot as usize].as_mut()?;
        let left = deadline.since(now);
        let idle = entry.queue.is_empty() && entry.running == 0;
        if idle && entry.trial.is_none_or(|t| now.since(t) >= TRIAL_INTERVAL) {
            entry.trial = Some(now);
            return None;
        }
        // Late for the queue's sake, not the model's: more comes than is served.
        if entry.config.cost.mean(waiting.rows).is_some_and(|cost| cost < left) {
            entry.refused(now);
        }
        Some(Refusal::Late { estimate, left })
    }

    /// The place of the queue to ask, or when one will be worth asking.
    fn pick(&self, now: Tick, lane: Lane) -> Result<usize, Option<Tick>> {
        let any = self.any_priority(lane);
        let mut best: Option<usize> = None;
        let mut until: Option<Tick> = None;
        for (at, a) in self.active.iter().enumerate() {
            let eligible = match lane {
                Lane::Main => !a.capped,
                Lane::Reserve { limit } => {
                    !a.capped && !a.too_large && a.least < u64::MAX && a.least <= nanos(limit)
                }
            };
            if !eligible {
                continue;
            }
            if a.not_before > now {
                until = Some(until.map_or(a.not_before, |u| u.min(a.not_before)));
                continue;
            }
            let better = best.is_none_or(|b| {
                let b = &self.active[b];
                let of = |active: &Active| if any { 0 } else { active.priority };
                (of(b), a.virtual_time, a.turn) < (of(a), b.virtual_time, b.turn)
            });
            if better {
                best = Some(at);
            }
        }
        match best {
            // Nobody overtakes it: its turn comes when enough of what runs has ended.
            Some(at) if lane == Lane::Main && !self.fits(&self.active[at]) => Err(until),
            best => best.ok_or(until),
        }
    }

    /// Whether the runs under way hold every executor of the main lane.
    pub fn full(&self) -> bool {
        self.held >= self.lanes.main.max(1)
    }

    /// Whether enough executors of the main lane are free for the queue's next run.
    fn fits(&self, active: &Active) -> bool {
        self.held + active.width <= self.lanes.main.max(1)
    }

    /// Whether the next run goes to whose turn it is whatever its priority.
    fn any_priority(&self, lane: Lane) -> bool {
        lane == Lane::Main && self.turns % ANY_PRIORITY == ANY_PRIORITY - 1
    }

    /// Asks one queue; where it has no batch now, notes why, so that the next pick passes it by.
    fn ask(&mut self, at: usize, now: Tick, lane: Lane, taken: &mut Taken<T>) -> Option<Ticket> {
        let slot = self.active[at].slot;
        let (oldest, lanes) = (self.any_priority(lane), self.lanes);
        let entry = self.entries[slot as usize].as_mut()?;
        let (cap, run) = entry.next_run(now, &mut taken.gone);
        let model = &entry.config.cost;
        let ask = match lane {
            Lane::Main => {
                let rows = entry.config.fair_share(cap, entry.queue.rows(), lanes.main);
                Ask { run, oldest, ..Ask::new(now, rows) }
            }
            Lane::Reserve { limit } => {
                let rows = model.largest_within(limit, entry.config.limits.max_batch_rows.max(1));
                let width = model.widest_within(limit);
                Ask { now, rows: rows.min(cap), alone: rows, width, run, oldest }
            }
        };
        match entry.queue.poll(ask, taken) {
            Poll::Run { rows } => {
                let expected = model.expect(rows).map_or(UNKNOWN_COST, nanos).max(LEAST_CHARGE);
                self.turns += 1;
                entry.turn = self.turns;
                let places = entry.begun(now, taken, expected);
                let id = entry.queue.id();
                let held = if lane == Lane::Main { entry.config.width } else { 0 };
                let ticket = Ticket { id, rows, places, charged: expected, held };
                self.held += held;
                let charge = share(entry.config.held(expected), entry.config.weight);
                self.charge(at, charge, lane);
                self.refresh(slot);
                Some(ticket)
            }
            Poll::WaitUntil(until) => {
                self.refresh(slot);
                // Strictly later than now, or the loop of `next` would not end.
                self.hold(slot, |a| a.not_before = until.max(Tick(now.0.saturating_add(1))));
                None
            }
            Poll::TooLarge => {
                self.refresh(slot);
                self.hold(slot, |a| a.too_large = true);
                None
            }
            Poll::Idle | Poll::Closed => {
                self.refresh(slot);
                None
            }
        }
    }

    fn charge(&mut self, at: usize, charge: u64, lane: Lane) {
        let most = match lane {
            Lane::Main => u64::MAX,
            Lane::Reserve { .. } => self.present(self.active[at].priority).saturating_add(LEAD),
        };
        let active = &mut self.active[at];
        let start = active.virtual_time;
        active.virtual_time = start.saturating_add(charge).min(most.max(start));
        self.clock = self.clock.max(start);
    }

    /// The virtual time of the queue of this priority that is furthest behind and might run.
    fn present(&self, priority: u8) -> u64 {
        let peers = self.active.iter().filter(|a| a.priority == priority && !a.capped);
        peers.map(|a| a.virtual_time).min().unwrap_or(self.clock)
    }

    fn hold(&mut self, slot: u32, note: impl FnOnce(&mut Active)) {
        if let Some(at) = self.entries[slot as usize].as_ref().and_then(|e| e.active) {
            note(&mut self.active[at]);
        }
    }

    /// Brings what `pick` sees of a queue up to date, after anything about it changed.
    fn refresh(&mut self, slot: u32) {
        let Some(entry) = &mut self.entries[slot as usize] else { return };
        let Some(priority) = entry.queue.priority() else {
            if let Some(at) = entry.active.take() {
                entry.virtual_time = self.active[at].virtual_time;
                self.deactivate(at);
            }
            return;
        };
        let known = entry.active.map(|at| (self.active[at].virtual_time, self.active[at].capped));
        let cost = &entry.config.cost;
        let capped = entry.running >= entry.config.runs(usize::MAX);
        let reserve = entry.config.reserve && entry.config.width == 1;
        let mut fresh = Active {
            slot,
            weight: entry.config.weight,
            virtual_time: known.map_or(entry.virtual_time, |(virtual_time, _)| virtual_time),
            turn: entry.turn,
            least: cost.expect(1).filter(|_| reserve).map_or(u64::MAX, nanos),
            backlog: entry.backlog(),
            not_before: Tick(0),
            priority,
            capped,
            width: entry.config.width,
            too_large: false,
        };
        let at = *entry.active.get_or_insert(self.active.len());
        // Neither idleness nor its own cap earns a queue more than a little credit.
        if known.is_none_or(|(_, was_capped)| was_capped && !capped) {
            let floor = self.present(priority).saturating_sub(CREDIT);
            fresh.virtual_time = fresh.virtual_time.max(floor);
        }
        match self.active.get_mut(at) {
            Some(place) => *place = fresh,
            None => self.active.push(fresh),
        }
    }

    fn deactivate(&mut self, at: usize) {
        self.active.swap_remove(at);
        if let Some(moved) = self.active.get(at)
            && let Some(entry) = &mut self.entries[moved.slot as usize]
        {
            entry.active = Some(at);
        }
    }

    fn entry(&self, id: QueueId) -> Option<&Entry<T>> {
        self.entries[*self.by_id.get(&id)? as usize].as_ref()
    }
}

/// Virtual nanoseconds of a cost.
fn share(cost: u64, weight: u32) -> u64 {
    let share = u128::from(cost) * u128::from(DEFAULT_WEIGHT) / u128::from(weight.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "overload_tests.rs"]
mod overload;
