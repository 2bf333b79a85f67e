//! One queue as the schedule keeps it: what it holds and has running, how large its next run may be, when it refuses. Pure.

use std::time::Duration;

use super::{
    plan::{Efficient, QueueConfig},
    queue::{Abandoned, Gone, Queue, QueueId, Rank, Refusal, Taken},
    standing::{Depth, Standing, Target},
};
use crate::types::time::Tick;

/// Who asks for batches, in all.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// Executors of the main lane; at least one.
    pub main: usize,
    /// The limit of the one of the reserve lane, if there is one.
    pub reserve: Option<Duration>,
}

/// One queue of the schedule's.
pub struct Entry<T> {
    pub queue: Queue<T>,
    pub config: QueueConfig,
    /// Runs under way.
    pub running: usize,
    /// Where it stood when it was last emptied.
    pub virtual_time: u64,
    /// Number of its last run among all runs.
    pub turn: u64,
    /// Its place in `active` while it holds something.
    pub active: Option<usize>,
    /// When it last ran a request that its learned cost would have refused.
    pub trial: Option<Tick>,
    /// Executors that may run it: those of the main lane, and the reserve where its runs are short.
    pub may_run: usize,
    lanes: Lanes,
    /// Rows that a run takes.
    cap: usize,
    efficient: Option<Efficient>,
    target: Option<Target>,
    standing: Standing,
    /// Nanoseconds expected of the runs under way, and their places.
    expected: u64,
    places: usize,
}

impl<T: Abandoned> Entry<T> {
    pub fn new(id: QueueId, config: QueueConfig, lanes: Lanes) -> Entry<T> {
        let mut entry = Entry {
            queue: Queue::new(id, config.limits.clone()),
            running: 0,
            virtual_time: 0,
            turn: 0,
            active: None,
            trial: None,
            may_run: 1,
            lanes,
            cap: 1,
            efficient: None,
            target: None,
            standing: Standing::default(),
            expected: 0,
            places: 0,
            config,
        };
        entry.learn();
        entry
    }

    /// What follows from the learned cost; kept, since every push asks for it.
    fn learn(&mut self) {
        let config = &self.config;
        let short = |limit| config.cost.expect(1).is_some_and(|least| least <= limit);
        let reserve = config.reserve && config.width == 1 && self.lanes.reserve.is_some_and(short);
        self.may_run = self.lanes.main.max(1) + usize::from(reserve);
        self.cap = config.cap();
        self.efficient = config.efficient(self.cap);
        self.target = config.target(self.efficient);
    }

    /// Runs that it may have under way at once: as many as the executors that it may hold, where a run holds one.
    pub fn executors(&self) -> usize {
        self.config.runs(self.may_run)
    }

    /// Nanoseconds to run all that waits, on one executor; 0 where nothing is known.
    pub fn backlog(&self) -> u64 {
        self.config.backlog(self.queue.rows(), self.queue.len(), self.cap)
    }

    /// Of `backlog`, the part that runs before one of this rank, and what is left of the runs under way: half of what
    /// they were expected to take.
    pub fn ahead(&self, rank: Rank, backlog: u64) -> u64 {
        let (ahead, all) = (self.queue.ahead(rank), self.queue.rows());
        let part = match ahead == all {
            true => u128::from(backlog),
            false => u128::from(backlog) * ahead as u128 / all.max(1) as u128,
        };
        u64::try_from(part).unwrap_or(u64::MAX).saturating_add(self.expected / 2)
    }

    /// Whether one more of this rank is refused, since the queue has stood for too long.
    pub fn stands(&mut self, now: Tick, rank: Rank, gone: &mut Vec<Gone<T>>) -> Option<Refusal> {
        if self.queue.is_empty() && self.running == 0 {
            self.standing.idle();
            return None;
        }
        let target = self.target?;
        let mut depth = self.depth(rank, target);
        if self.standing.refuses(now, depth, target) && self.queue.tidy(now, gone) {
            depth = self.depth(rank, target);
        }
        if !self.standing.refuses(now, depth, target) {
            return None;
        }
        self.standing.refused(now);
        Some(Refusal::Standing { delay: depth.delay })
    }

    /// Somebody was refused for what waits here.
    pub fn refused(&mut self, now: Tick) {
        self.standing.refused(now);
    }

    /// When one who was refused for what waits may come again: once no more waits than may stand, if nobody else comes.
    /// `None` where nothing is known of the cost.
    pub fn retry_after(&self) -> Option<Duration> {
        let run = self.efficient?.run;
        let target = self.target.unwrap_or_default();
        let delay = self.depth(0, target).delay;
        Some(delay.saturating_sub(target.delay).saturating_add(run))
    }

    /// Rows of the next run at most, and what it is expected to take: no longer than the queue may stand, nor than the
    /// earliest deadline allows. Takes out what cannot be answered in time any more: what still can gets the run.
    pub fn next_run(&mut self, now: Tick, gone: &mut Vec<Gone<T>>) -> (usize, Duration) {
        self.queue.expire(now, gone);
        let (cost, waiting) = (&self.config.cost, self.queue.rows());
        let run = |cap: usize| cost.expect(cap.min(waiting)).unwrap_or_default();
        let mut cap = self.cap;
        if let Some(target) = self.target
            && run(cap) > target.delay
        {
            let efficient = self.efficient.map_or(1, |e| e.rows);
            cap = cost.largest_within(target.delay, cap).max(efficient);
        }
        if let Some((deadline, whole)) = self.queue.tightest()
            && now.after(run(cap)) > deadline
        {
            // Half of it for the run before, half for its own: who cannot wait that long any more is given up for those
            // who can, or every run would be as small as the oldest one's last moments.
            cap = cost.largest_within(deadline.since(now).max(whole / 2), cap).max(1);
            if let Some(run) = cost.mean(cap.min(waiting)) {
                self.queue.give_up(now.after(run), gone);
            }
        }
        (cap, run(cap))
    }

    /// A run of what was taken begins, and is expected to take so many nanoseconds. Gives the places that it takes.
    pub fn begun(&mut self, now: Tick, taken: &Taken<T>, expected: u64) -> usize {
        let places = taken.members.iter().map(|member| member.rows.max(1)).sum();
        self.running += 1;
        self.expected = self.expected.saturating_add(expected);
        self.places = self.places.saturating_add(places);
        if let Some(target) = self.target
            && let Some(first) = taken.members.first()
        {
            let depth = self.depth(0, target);
            self.standing.took(now, (places, now.since(first.enqueued)), depth, target);
        }
        places
    }

    /// Such a run ended.
    pub fn ended(&mut self, places: usize, expected: u64) {
        self.running = self.running.saturating_sub(1);
        self.expected = self.expected.saturating_sub(expected);
        self.places = self.places.saturating_sub(places);
        self.learn();
    }

    fn depth(&self, rank: Rank, target: Target) -> Depth {
        let executors = self.executors();
        let (rows, runs) = self.efficient.map_or((1, 1.0), |efficient| {
            (efficient.rows, target.delay.as_secs_f64() / efficient.run.as_secs_f64())
        });
        let least = executors * rows;
        Depth {
            ahead: self.queue.ahead(rank),
            waiting: self.queue.rows(),
            running: self.places,
            delay: Duration::from_nanos(self.backlog() / executors as u64),
            fits: (least as f64 * runs) as usize,
            least,
        }
    }
}
