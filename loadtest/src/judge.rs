//! Holds what was measured against objectives.
//!
//! The rule. Every figure has a 95% confidence interval. An objective is held where the whole interval keeps the limit, broken where
//! the whole interval breaks it, and undecided ("too little data to say") where the limit lies inside. For shares (of slow, failed,
//! shed or timely requests) the interval is the exact binomial one; requests that follow each other are slow together, so they are
//! counted as fewer by the design effect seen between some twenty stretches of the phase. A percentile is such a share: `p99 < 20ms`
//! says that less than 1% take longer, so it takes at least 368 requests, p99.9 takes 3,688. A limit of 0 is held where nothing of the
//! kind happened. For rates the interval is Student's t over the stretches.
//!
//! In a percentile a request that failed counts as slower than any limit; one that was shed counts as failed, unless the share of
//! shed ones has an objective of its own, which then is where they count. A percentile that is broken only by the generator's own lateness
//! (its schedule error is above a millisecond at p99, and with its p99.9 allowed for the limit is not broken) is undecided.

use std::time::Duration;

use crate::{
    interval,
    record::{Cell, Measured, Times},
    slo::{Finding, Goodput, Objective, Outcome, Slo, Verdict},
    summary::{Ends, Frame},
    trial::LATE_NS,
    units::{Rate, Share, Span},
};

/// A phase is cut into about so many blocks, to see how much its stretches differ.
const BLOCKS: usize = 20;

/// What was seen in a phase, in the form that objectives are held against.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Seconds, the last answers included.
    pub took: f64,
    /// Stretches of equal length that follow each other; several runs of the same load may stand one after the other.
    blocks: Vec<Block>,
    all: Block,
    lag: Times,
}

#[derive(Clone, Debug, Default)]
struct Block {
    latency: Times,
    ends: Ends,
    due: u64,
}

impl Block {
    fn of<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> Block {
        let cell = Cell::sum(cells.into_iter().collect::<Vec<_>>());
        Block { ends: Ends::of(&cell), due: cell.due, latency: cell.latency }
    }

    /// Requests that a percentile is taken of.
    fn judged(&self, shed_apart: bool) -> u64 {
        self.ends.all() - if shed_apart { self.ends.shed } else { 0 }
    }

    /// Those of them that took longer than `limit`, or failed.
    fn beyond(&self, limit: u64, shed_apart: bool) -> u64 {
        self.judged(shed_apart) - self.latency.up_to(limit)
    }
}

impl Evidence {
    /// What was seen in one phase of a run.
    pub fn of(measured: &Measured, phase: usize) -> Evidence {
        let stretches: Vec<_> = measured.stretches.range((phase, 0)..(phase + 1, 0)).collect();
        let last = stretches.last().map_or(0, |((_, tenth), _)| *tenth as usize + 1);
        let width = last.div_ceil(BLOCKS).max(1) as u64;
        let within = |at: u64| {
            let part = stretches.iter().filter(move |((_, tenth), _)| tenth / width == at);
            Block::of(part.flat_map(|(_, cells)| cells.values()))
        };
        let whole = last as u64 / width;
        let cells = || stretches.iter().flat_map(|(_, cells)| cells.values());
        Evidence {
            took: measured.took.get(phase).map_or(last as f64 / 10.0, |took| *took as f64 / 1e9),
            blocks: (0..whole).map(within).collect(),
            all: Block::of(cells()),
            lag: Times::sum(cells().map(|cell| &cell.lag)),
        }
    }

    /// Adds another run of the same load.
    pub fn add(&mut self, other: &Evidence) {
        self.took += other.took;
        self.blocks.extend(other.blocks.iter().cloned());
        self.all.latency.merge(&other.all.latency);
        let (ours, theirs) = (&mut self.all.ends, other.all.ends);
        ours.good += theirs.good;
        ours.wrong += theirs.wrong;
        ours.shed += theirs.shed;
        ours.failed += theirs.failed;
        self.all.due += other.all.due;
        self.lag.merge(&other.lag);
    }

    /// Answers that were not the ones expected.
    pub fn wrong(&self) -> u64 {
        self.all.ends.wrong
    }

    /// Good answers a second.
    pub fn throughput(&self) -> f64 {
        if self.took > 0.0 { self.all.ends.good as f64 / self.took } else { 0.0 }
    }

    /// The generator's schedule error at p99, nanoseconds.
    pub fn lag_p99(&self) -> u64 {
        self.lag.quantile(0.99)
    }

    /// What the generator's own lateness may have broken is not put down to the server: with it allowed for, the limit must be broken
    /// all the same.
    fn excused(&self, outcome: Outcome, allowing: impl Fn(u64) -> Outcome) -> Outcome {
        let late = outcome == Outcome::Broken && self.lag_p99() > LATE_NS;
        if late && allowing(self.lag.quantile(0.999)) != Outcome::Broken {
            return Outcome::TooLittle;
        }
        outcome
    }

    /// Bounds of the share that `part` is of `whole`, trials counted as fewer where they depend on each other.
    fn share(&self, part: impl Fn(&Block) -> u64, whole: impl Fn(&Block) -> u64) -> Bounded {
        let pair = |block: &Block| (part(block) as f64, whole(block) as f64);
        let effect = interval::design_effect(&self.blocks.iter().map(pair).collect::<Vec<_>>());
        let (hits, trials) = pair(&self.all);
        let (low, high) = interval::share(hits / effect, trials / effect);
        let measured = if trials > 0.0 { hits / trials } else { 0.0 };
        Bounded { measured: Some(measured), low: Some(low), high: Some(high) }
    }

    /// Bounds of how many of `part` there are a second.
    fn rate(&self, part: impl Fn(&Block) -> u64) -> Bounded {
        if self.took <= 0.0 {
            return Bounded::default();
        }
        let measured = part(&self.all) as f64 / self.took;
        let counts: Vec<f64> = self.blocks.iter().map(|block| part(block) as f64).collect();
        let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
        // The blocks say how much the rate varies; the whole says how high it is, the last answers' time included.
        let bounds = interval::mean(&counts).filter(|_| mean > 0.0);
        Bounded {
            measured: Some(measured),
            low: bounds.map(|(low, _)| (low / mean * measured).max(0.0)),
            high: bounds.map(|(_, high)| high / mean * measured),
        }
    }

    /// Bounds of the latency at a quantile, nanoseconds: where the share beyond it is neither surely too small nor surely too large.
    fn latency(&self, quantile: f64, shed_apart: bool) -> Bounded {
        let allowed = 1.0 - quantile;
        let values: Vec<u64> = self.all.latency.iter().map(|(value, _)| value).collect();
        let beyond =
            |at: usize| self.share(|b| b.beyond(values[at], shed_apart), |b| b.judged(shed_apart));
        let first = |keeps: &dyn Fn(Bounded) -> bool| {
            let at = partition(values.len(), |at| !keeps(beyond(at)));
            values.get(at).map(|value| *value as f64)
        };
        Bounded {
            measured: first(&|share| share.measured.is_some_and(|m| m <= allowed + 1e-12)),
            low: first(&|share| share.low.is_some_and(|low| low <= allowed)),
            high: first(&|share| share.high.is_some_and(|high| high <= allowed)),
        }
    }
}

/// How many of `0..count` come before the first for which `before` does not hold.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A figure and its bounds; what the data does not bound is absent.
#[derive(Clone, Copy, Debug, Default)]
struct Bounded {
    measured: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

impl Bounded {
    /// Against a limit that must not be exceeded.
    fn at_most(self, limit: f64) -> Outcome {
        match (self.low, self.high) {
            (_, Some(high)) if high <= limit => Outcome::Held,
            (Some(low), _) if low > limit => Outcome::Broken,
            _ => Outcome::TooLittle,
        }
    }

    /// Against a limit that must be reached.
    fn at_least(self, limit: f64) -> Outcome {
        match (self.low, self.high) {
            (Some(low), _) if low >= limit => Outcome::Held,
            (_, Some(high)) if high < limit => Outcome::Broken,
            _ => Outcome::TooLittle,
        }
    }
}

/// Holds what was seen in a phase against its objectives.
pub fn findings(phase: &str, slo: &Slo, evidence: &Evidence) -> Vec<Finding> {
    let finding = |objective| one(phase, slo, objective, evidence);
    slo.objectives().into_iter().map(finding).collect()
}

fn one(phase: &str, slo: &Slo, objective: Objective, evidence: &Evidence) -> Finding {
    let apart = slo.shed_rate.is_some();
    let within = slo.within().map_or(u64::MAX, |within| Span(within).nanos());
    let judged = evidence.all.judged(apart);
    let ended = evidence.all.ends.all();
    let in_time = |block: &Block| block.latency.up_to(within);
    let (bounded, limit, outcome, requests) = match objective {
        Objective::Latency { quantile, limit } => {
            let limit = Span(limit).nanos();
            let beyond = evidence.share(|b| b.beyond(limit, apart), |b| b.judged(apart));
            let outcome = evidence.excused(beyond.at_most(1.0 - quantile), |late| {
                evidence
                    .share(|b| b.beyond(limit.saturating_add(late), apart), |b| b.judged(apart))
                    .at_most(1.0 - quantile)
            });
            (evidence.latency(quantile, apart), limit as f64, outcome, judged)
        }
        Objective::ErrorRate(limit) => {
            let errors = |b: &Block| b.judged(apart) - b.ends.good;
            let share = evidence.share(errors, |b| b.judged(apart));
            (share, limit, none_or(limit, errors(&evidence.all), judged, share), judged)
        }
        Objective::ShedRate(limit) => {
            let share = evidence.share(|b| b.ends.shed, |b| b.ends.all());
            (share, limit, none_or(limit, evidence.all.ends.shed, ended, share), ended)
        }
        Objective::Throughput(limit) => {
            let rate = evidence.rate(|b| b.ends.good);
            (rate, limit, rate.at_least(limit), ended)
        }
        Objective::Goodput(Goodput::Rate(Rate(limit))) => {
            let rate = evidence.rate(in_time);
            (rate, limit, rate.at_least(limit), ended)
        }
        Objective::Goodput(Goodput::Share(Share(limit))) => {
            let share = evidence.share(in_time, |b| b.ends.all());
            (share, limit, share.at_least(limit), ended)
        }
    };
    Finding {
        phase: phase.to_owned(),
        objective: objective.to_string(),
        outcome,
        limit,
        at_least: matches!(objective, Objective::Throughput(_) | Objective::Goodput(_)),
        measured: bounded.measured,
        low: bounded.low,
        high: bounded.high,
        requests,
    }
}

/// No number of requests shows that something never happens: a limit of 0 asks whether it happened.
fn none_or(limit: f64, seen: u64, of: u64, share: Bounded) -> Outcome {
    match (limit == 0.0, seen, of) {
        (true, _, 0) => Outcome::TooLittle,
        (true, 0, _) => Outcome::Held,
        (true, ..) => Outcome::Broken,
        (false, ..) => share.at_most(limit),
    }
}

/// The verdict on a run: `slos` by phase; warm-ups are not judged.
pub fn judge(slos: &[Slo], measured: &Measured, frame: &Frame) -> Verdict {
    let mut verdict = Verdict {
        outcome: Outcome::Held,
        findings: Vec::new(),
        wrong: 0,
        interrupted: measured.interrupted,
        notes: Vec::new(),
    };
    for (at, phase) in frame.phases.iter().enumerate().filter(|(_, phase)| !phase.warm_up) {
        let evidence = Evidence::of(measured, at);
        verdict.wrong += evidence.wrong();
        if evidence.lag_p99() > LATE_NS {
            verdict.notes.push(late(&phase.name, evidence.lag_p99()));
        }
        if let Some(slo) = slos.get(at) {
            verdict.findings.extend(findings(&phase.name, slo, &evidence));
        }
    }
    if verdict.wrong > 0 {
        verdict.notes.push(format!("{} answers were not the ones expected", verdict.wrong));
    }
    let worst = verdict.findings.iter().map(|finding| finding.outcome).max();
    verdict.outcome = match (verdict.wrong, worst) {
        (1.., _) => Outcome::Broken,
        (0, Some(worst)) => worst,
        (0, None) => Outcome::Held,
    };
    verdict
}

fn late(phase: &str, lag: u64) -> String {
    // To three digits: more say nothing.
    let unit = 10u64.pow(lag.checked_ilog10().unwrap_or(0).saturating_sub(2));
    let lag = Span(Duration::from_nanos(lag / unit * unit));
    format!(
        "phase {phase}: the generator kept its schedule only to {lag} (p99); latencies count from the schedule and include that"
    )
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
