//! Keeps a queue from standing: one that never empties adds delay and nothing else. Pure; told the time. Why so: the ADR
//! on standing queues.

use std::time::Duration;

use crate::types::time::Tick;

/// How many runs of one row may wait for each executor, where nothing else is set: enough that the ups and downs of
/// arrivals below capacity are served and not refused, and that no executor is ever idle.
const SINGLE_RUNS: u32 = 6;
/// The same in runs of the smallest batch that serves nearly as many rows a second as any: one that waits, one that fills.
const BATCH_RUNS: u32 = 2;
/// No target is shorter: below it, what the system does with threads is as long as the queue.
const LEAST_TARGET: Duration = Duration::from_millis(20);
/// How long the delay must have been above the target without a break before anybody is refused, if not longer: a burst is
/// over, or has at least stopped growing.
const INTERVAL: Duration = Duration::from_millis(200);

/// The delay that may stand, and for how long more is an ordinary burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub delay: Duration,
    pub interval: Duration,
}

impl Target {
    /// From what a run of one row takes, and one of the smallest batch that serves nearly as many rows a second as any.
    pub fn of(single: Duration, batch: Duration) -> Target {
        let delay = (single * SINGLE_RUNS).max(batch * BATCH_RUNS).max(LEAST_TARGET);
        Target { delay, interval: INTERVAL.max(batch * BATCH_RUNS) }
    }
}

/// What is known of one queue's delay.
#[derive(Debug, Default)]
pub struct Standing {
    /// Since when the delay has been above its target.
    above: Option<Tick>,
    /// Places that may wait at most; none while the delay has not been above its target for an interval.
    ceiling: Option<usize>,
    /// When somebody was last refused at the ceiling.
    refused: Option<Tick>,
    /// Places that left, and since when they are counted.
    left: usize,
    since: Tick,
}

impl Standing {
    /// Before a push: whether it is one too many.
    pub fn refuses(&mut self, now: Tick, queue: Depth, target: Target) -> bool {
        if queue.delay > target.delay {
            self.above(now, queue, target);
        }
        self.ceiling.is_some_and(|ceiling| queue.ahead >= ceiling)
    }

    /// Somebody was refused: more comes than is served.
    pub fn refused(&mut self, now: Tick) {
        self.refused = Some(now);
    }

    /// The queue was empty and none of it ran.
    pub fn idle(&mut self) {
        *self = Standing::default();
    }

    /// A batch of so many places was taken, of which the first had waited so long; `queue` is what is left.
    pub fn took(
        &mut self,
        now: Tick,
        (places, waited): (usize, Duration),
        queue: Depth,
        target: Target,
    ) {
        self.left += places;
        if queue.delay > target.delay {
            self.above(now, queue, target);
        } else {
            self.above = None;
            let calm = self.refused.is_none_or(|at| now.since(at) >= target.interval);
            let empty = queue.waiting == 0 && waited < target.delay / 2;
            if calm || empty {
                self.idle();
                return;
            }
        }
        // What leaves a queue that hardly stands says what came, not what could be served.
        if waited < target.delay / 2 {
            (self.left, self.since) = (0, now);
            return;
        }
        let elapsed = now.since(self.since);
        if self.refused.is_some() && self.ceiling.is_some() && elapsed >= target.interval {
            let rate = self.left as f64 / elapsed.as_secs_f64();
            let places = (rate * target.delay.as_secs_f64()) as usize + 1;
            self.ceiling = Some(places.max(queue.least));
            (self.left, self.since) = (0, now);
        }
    }

    fn above(&mut self, now: Tick, queue: Depth, target: Target) {
        let since = *self.above.get_or_insert(now);
        if self.ceiling.is_none() && now.since(since) >= target.interval {
            // It may grow a little still: callers that wait for their answers come again as they are answered.
            let callers = queue.waiting + queue.running;
            self.ceiling = Some((callers + callers / 4 + queue.least).max(queue.fits));
            (self.left, self.since) = (0, now);
        }
    }
}

/// What waits in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Places that would run before the one that comes.
    pub ahead: usize,
    pub waiting: usize,
    /// Places in the runs under way.
    pub running: usize,
    /// What it takes to run all that waits, by the learned cost.
    pub delay: Duration,
    /// Places that the learned cost runs within the target, if nobody else has anything to run.
    pub fits: usize,
    /// Places that keep every executor at work for one run.
    pub least: usize,
}
