//! What the learned cost says of one queue: how large its runs are, and how long what waits will take. Pure.

use std::{sync::Arc, time::Duration};

use super::{cost::CostModel, options::StandingDelay, queue::Limits, standing::Target};

/// The weight of a queue that is no more important than others.
pub const DEFAULT_WEIGHT: u32 = 100;

/// A batch of all that waits must cost less than this many times the batch of one executor's share, or the share is
/// taken: 1 where rows cost nothing, the number of executors where they cost what they cost alone.
const WORTH_ALL: f64 = 1.5;
/// A batch is large enough when it serves this part of the rows a second that any serves.
const NEARLY_AS_MANY: f64 = 0.9;

/// A batch that is worth its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Efficient {
    pub rows: usize,
    pub run: Duration,
}

/// How one queue takes part.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    pub limits: Limits,
    /// Whether requests share runs; otherwise each runs alone.
    pub batch: bool,
    /// Executors it may hold at once. 0: all of them.
    pub instances: usize,
    /// Executors that one run holds: as many as it has threads. At most as many as there are.
    pub width: usize,
    /// Its share of executor time relative to others (`DEFAULT_WEIGHT`).
    pub weight: u32,
    /// Whether the reserve lane may run it: not where a request decides what it costs, for the learned cost then says
    /// nothing of the next run, and one long run would take the reserve from everybody.
    pub reserve: bool,
    /// What a run should take at most; the learned cost then bounds the batch (to one request at least).
    pub latency_target: Option<Duration>,
    /// How long the queue may stand before it refuses.
    pub standing: StandingDelay,
    /// Learned by whoever runs it; read here.
    pub cost: Arc<CostModel>,
}

impl QueueConfig {
    /// Rows that a run takes.
    pub fn cap(&self) -> usize {
        let most = self.limits.max_batch_rows.max(1);
        match self.latency_target {
            _ if !self.batch => 1,
            Some(target) => self.cost.largest_within(target, most).max(1),
            None => most,
        }
    }

    /// The smallest batch, of a power of two or `cap` rows, that serves nearly as many rows a second as any, and what its
    /// run takes. `None` where nothing is known.
    pub fn efficient(&self, cap: usize) -> Option<Efficient> {
        let sizes = || (0..).map(|n| 1usize << n).take_while(|rows| *rows < cap).chain([cap]);
        let speed = |rows: usize| Some(rows as f64 / self.cost.mean(rows)?.as_secs_f64());
        let best = sizes().filter_map(speed).fold(0.0, f64::max);
        let rows = sizes().find(|rows| speed(*rows).is_some_and(|s| s >= best * NEARLY_AS_MANY))?;
        Some(Efficient { rows, run: self.cost.mean(rows)? })
    }

    /// The delay that may stand in the queue. `None`: any.
    pub fn target(&self, efficient: Option<Efficient>) -> Option<Target> {
        let auto = || Some(Target::of(self.cost.mean(1)?, efficient?.run));
        match self.standing {
            StandingDelay::Off => None,
            StandingDelay::Auto => auto(),
            StandingDelay::Fixed(delay) => Some(Target { delay, ..auto()? }),
        }
    }

    /// Runs that it may have under way, of so many executors; one at least.
    pub fn runs(&self, executors: usize) -> usize {
        let held = if self.instances == 0 { executors } else { self.instances.min(executors) };
        (held / self.width.max(1)).max(1)
    }

    /// Nanoseconds to run `requests` of together `rows` rows one after another, `cap` a run; 0 where nothing is known.
    pub fn backlog(&self, rows: usize, requests: usize, cap: usize) -> u64 {
        let cost = |rows: usize| self.cost.mean(rows).map_or(0, nanos);
        if !self.batch {
            return (requests as u64).saturating_mul(cost(rows.div_ceil(requests.max(1))));
        }
        let rest = if rows.is_multiple_of(cap) { 0 } else { cost(rows % cap) };
        let full = if rows < cap { 0 } else { cost(cap) };
        ((rows / cap) as u64).saturating_mul(full).saturating_add(rest)
    }

    /// Executors' time that a run of so many nanoseconds takes.
    pub fn held(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(self.width as u64)
    }

    /// Rows for an executor that is free: all that waits (up to `cap`) where rows are nearly free, else its share of it.
    /// One that takes everything leaves the next one nothing: the last in line then wait for a long run beside an idle
    /// executor.
    pub fn fair_share(&self, cap: usize, waiting: usize, executors: usize) -> usize {
        let all = cap.min(waiting);
        let share = waiting.div_ceil((executors / self.width.max(1)).max(1)).clamp(1, cap);
        // A batch that may wait for company is to be as large as was asked for.
        if share >= all || !self.limits.max_delay.is_zero() {
            return cap;
        }
        match (self.cost.mean(all), self.cost.mean(share)) {
            (Some(all), Some(part)) if all.as_secs_f64() > part.as_secs_f64() * WORTH_ALL => share,
            _ => cap,
        }
    }
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_executor_takes_its_share_unless_rows_are_nearly_free() {
        let ms = Duration::from_millis;
        let with = |points: &[(usize, Duration)], max_delay| {
            let limits =
                Limits { max_batch_rows: 1, max_delay, max_requests: 1000, max_bytes: 1 << 20 };
            let cost = CostModel::new();
            cost.seed(points, 4);
            QueueConfig {
                limits,
                batch: false,
                instances: 0,
                width: 1,
                weight: DEFAULT_WEIGHT,
                reserve: true,
                latency_target: None,
                standing: StandingDelay::Auto,
                cost: Arc::new(cost),
            }
        };
        let linear = with(&[(1, ms(6)), (2, ms(12)), (4, ms(24)), (8, ms(48))], Duration::ZERO);
        assert_eq!(linear.fair_share(64, 8, 2), 4);
        assert_eq!(linear.fair_share(64, 7, 2), 4);
        assert_eq!(linear.fair_share(64, 1, 2), 64, "one that waits is taken");
        assert_eq!(linear.fair_share(3, 8, 2), 3, "what is capped is no more than a share");
        assert_eq!(linear.fair_share(64, 8, 1), 64, "one executor has all of it for its share");
        let wide = QueueConfig { width: 2, ..linear.clone() };
        assert_eq!(wide.fair_share(64, 8, 2), 64, "one run holds both");
        assert_eq!((wide.fair_share(64, 8, 4), wide.runs(4), wide.runs(1)), (4, 2, 1));
        let flat = with(&[(1, ms(8)), (2, ms(8)), (4, ms(8)), (8, ms(9))], Duration::ZERO);
        assert_eq!(flat.fair_share(64, 8, 2), 64);
        let gathering = with(&[(1, ms(6)), (4, ms(24)), (8, ms(48))], ms(5));
        assert_eq!(gathering.fair_share(64, 8, 2), 64, "company was asked for");
        assert_eq!(with(&[], Duration::ZERO).fair_share(64, 8, 2), 64, "nothing is known yet");
    }
}
