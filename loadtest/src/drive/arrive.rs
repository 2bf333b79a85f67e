//! Which request is due next, of the share that a thread has.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::{
    arrivals::Schedule,
    plan::{Arrivals, Plan, Recorded},
    units::Speed,
};

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shot {
    /// Nanoseconds on the run's clock.
    pub due: u64,
    /// Index into `Plan::requests`.
    pub request: usize,
}

/// The share of one thread in a phase.
pub struct Arriving<'a> {
    way: Way,
    /// The number, among those of all threads, of the request that is next.
    number: u64,
    every: u64,
    mix: Mix<'a>,
    /// Of a log: which request has which number.
    recorded: Option<&'a [Recorded]>,
}

enum Way {
    /// Whatever the server does.
    Open { schedule: Schedule, origin: u64, next: Option<u64> },
    /// Callers that come back.
    Closed {
        asks: BinaryHeap<Reverse<u64>>,
        think: u64,
        /// From here on nobody asks.
        end: u64,
        /// Requests that may still be asked.
        left: u64,
    },
}

impl<'a> Arriving<'a> {
    /// `share`: the first request that is this thread's, and every how many-th from there. `origin`: when the phase began,
    /// nanoseconds on the run's clock.
    pub fn new(plan: &'a Plan, at: usize, share: (usize, usize), origin: u64) -> Arriving<'a> {
        let phase = &plan.phases[at];
        // Each phase has arrivals of its own.
        let seed = mixed(plan.seed ^ mixed(at as u64));
        let (first, every) = (share.0 as u64, share.1 as u64);
        let of = |all: u64| all.saturating_sub(first).div_ceil(every);
        let closed = |callers: usize, think: Duration, most: u64| Way::Closed {
            asks: (0..of(callers as u64)).map(|_| Reverse(origin)).collect(),
            think: nanos(think),
            end: phase.until.duration.map_or(u64::MAX, |d| origin.saturating_add(nanos(d))),
            left: of(phase.until.requests.unwrap_or(u64::MAX).min(most)),
        };
        let recorded = match &phase.arrivals {
            Arrivals::Recorded { asked, .. } => Some(&asked[..]),
            _ => None,
        };
        let way = match &phase.arrivals {
            Arrivals::Closed { callers, think } => closed(*callers, *think, u64::MAX),
            Arrivals::Recorded { asked, speed: Speed::Max } => {
                let callers = plan.connections * plan.shard.of;
                closed(callers, Duration::ZERO, asked.len() as u64)
            }
            arrivals => {
                let mut schedule = Schedule::new(arrivals, &phase.until, seed);
                let next = schedule.nth(share.0);
                Way::Open { schedule, origin, next }
            }
        };
        Arriving { way, number: first, every, mix: Mix::new(plan, seed), recorded }
    }

    /// When the next request is due; `None`: no more is known to come.
    pub fn next(&self) -> Option<u64> {
        match &self.way {
            Way::Open { origin, next, .. } => next.map(|due| origin.saturating_add(due)),
            Way::Closed { left: 0, .. } => None,
            Way::Closed { asks, end, .. } => {
                asks.peek().map(|Reverse(due)| *due).filter(|due| due < end)
            }
        }
    }

    /// The request that is due by now, if one is.
    pub fn take(&mut self, now: u64) -> Option<Shot> {
        let due = self.next().filter(|due| *due <= now)?;
        match &mut self.way {
            Way::Open { schedule, next, .. } => {
                let skipped = usize::try_from(self.every - 1).unwrap_or(usize::MAX);
                *next = schedule.nth(skipped);
            }
            Way::Closed { asks, left, .. } => {
                asks.pop();
                *left -= 1;
            }
        }
        let request = match self.recorded {
            Some(asked) => asked.get(usize::try_from(self.number).ok()?)?.request,
            None => self.mix.pick(self.number),
        };
        self.number += self.every;
        Some(Shot { due, request })
    }

    /// A request has ended: who waited for it thinks, and asks again.
    pub fn ended(&mut self, now: u64) {
        if let Way::Closed { asks, think, .. } = &mut self.way {
            asks.push(Reverse(now.saturating_add(*think)));
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// SplitMix64's finish: every bit of what comes out depends on every bit of what goes in.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which request of the mix has which number: the same for the same seed, however the load is shared out.
struct Mix<'a> {
    plan: &'a Plan,
    /// Shares of the variants, added up; the last is 1.
    up_to: Vec<f64>,
    seed: u64,
    turns: Vec<usize>,
}

impl<'a> Mix<'a> {
    fn new(plan: &'a Plan, seed: u64) -> Mix<'a> {
        let total: f64 = plan.variants.iter().map(|v| v.weight).sum();
        let mut sum = 0.0;
        let share = |weight: f64| {
            sum += weight / total;
            sum
        };
        let up_to = plan.variants.iter().map(|v| v.weight).map(share).collect();
        Mix { plan, up_to, seed, turns: vec![0; plan.variants.len()] }
    }

    fn pick(&mut self, number: u64) -> usize {
        let last = self.up_to.len().saturating_sub(1);
        let variant = match last {
            0 => 0,
            _ => {
                let unit = (mixed(self.seed ^ mixed(!number)) >> 11) as f64 / (1u64 << 53) as f64;
                self.up_to.iter().position(|up_to| unit < *up_to).unwrap_or(last)
            }
        };
        let turn = &mut self.turns[variant];
        let requests = &self.plan.variants[variant].requests;
        let request = requests[*turn % requests.len()];
        *turn += 1;
        request
    }
}

#[cfg(test)]
#[path = "arrive_tests.rs"]
mod tests;
