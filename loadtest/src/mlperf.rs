//! Runs in the manner of MLPerf's LoadGen: its four scenarios, with its percentiles, least numbers of queries and least durations. MLPerf-style and no
//! more: no result of this is an MLPerf result.
//!
//! A percentile is reported as MLPerf's early stopping does it: as the value that the true one does not exceed with 99% confidence, from as many
//! queries as were run. Of n queries, t may be over it where a binomial of n and 1 - percentile is t or less with probability 1% at most; the
//! value is then the t-th highest.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    interval,
    plan::{Arrivals, Phase, Until},
    record::{Cell, Measured, Times},
    slo::Outcome,
    summary::Ends,
    units::Span,
};

/// How queries arrive, and what is asked of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Scenario {
    /// One query after the other; the 90th percentile of latency is the result.
    #[value(name = "SingleStream", alias = "single-stream")]
    SingleStream,
    /// One query of 8 samples after the other; the 99th percentile of latency is the result.
    #[value(name = "MultiStream", alias = "multi-stream")]
    MultiStream,
    /// Poisson arrivals; the rate is the result, if the 99th percentile keeps its limit.
    #[value(name = "Server", alias = "server")]
    Server,
    /// Everything at once; samples a second are the result.
    #[value(name = "Offline", alias = "offline")]
    Offline,
}

/// What the rules ask of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    pub percentile: Option<f64>,
    /// Samples (instances) in a query.
    pub samples_per_query: u64,
    pub min_queries: u64,
    pub min_samples: u64,
    #[serde(with = "span")]
    pub min_duration: Duration,
}

mod span {
    use super::{Duration, Span};

    pub(super) fn serialize<S: serde::Serializer>(
        value: &Duration,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        serde::Serialize::serialize(&Span(*value), s)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Duration, D::Error> {
        <Span as serde::Deserialize>::deserialize(d).map(|Span(value)| value)
    }
}

/// Ten minutes, for every scenario.
const MIN_DURATION: Duration = Duration::from_secs(600);

impl Scenario {
    /// The rules, as MLPerf Inference (datacenter and edge, with early stopping) has them.
    pub fn rules(self) -> Rules {
        let latency = |percentile, samples_per_query, min_queries| Rules {
            percentile: Some(percentile),
            samples_per_query,
            min_queries,
            min_samples: 0,
            min_duration: MIN_DURATION,
        };
        match self {
            Scenario::SingleStream => latency(0.9, 1, 64),
            Scenario::MultiStream => latency(0.99, 8, 662),
            Scenario::Server => latency(0.99, 1, 662),
            Scenario::Offline => Rules {
                percentile: None,
                samples_per_query: 1,
                min_queries: 1,
                min_samples: 24_576,
                min_duration: MIN_DURATION,
            },
        }
    }

    /// The load of one stretch of the run: until `seconds` are over, or so many queries more were sent.
    pub fn phase(self, rate: f64, callers: usize, until: Until) -> Phase {
        let closed = |callers| Arrivals::Closed { callers, think: Duration::ZERO };
        let arrivals = match self {
            Scenario::SingleStream | Scenario::MultiStream => closed(1),
            Scenario::Server => Arrivals::Poisson { rate },
            Scenario::Offline => closed(callers),
        };
        Phase { name: format!("{self:?}"), arrivals, until, warm_up: false }
    }
}

/// The result of such a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub scenario: Scenario,
    /// What was asked of this run; `rules` with a shorter duration where one was given.
    pub asked: Rules,
    /// Whether that was less than the rules ask.
    pub relaxed: bool,
    pub queries: u64,
    pub samples: u64,
    pub seconds: f64,
    /// What the scenario measures: `p90 latency`, `queries a second`, `samples a second`.
    pub metric: String,
    /// Its value: nanoseconds, or a second. None where too few queries were run to say.
    pub value: Option<f64>,
    /// The percentile as it was measured, nanoseconds, where there is one.
    pub measured_percentile: Option<f64>,
    /// What is allowed of the percentile, nanoseconds (Server).
    pub limit: Option<f64>,
    pub outcome: Outcome,
    /// Why it is not valid.
    pub reasons: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub scenario: Scenario,
    pub rules: Rules,
    /// Of the Server scenario.
    pub limit: Option<Duration>,
}

impl Asked {
    /// How much longer to run: none once both duration and number are reached.
    pub fn missing(&self, measured: &Measured, samples_per_request: u64) -> Option<Until> {
        let cell = whole(measured);
        let ended = Ends::of(&cell).all();
        let took = Duration::from_nanos(measured.took.first().copied().unwrap_or(0));
        let least =
            self.rules.min_queries.max(self.rules.min_samples.div_ceil(samples_per_request));
        if took < self.rules.min_duration && ended == 0 {
            Some(Until { duration: Some(self.rules.min_duration), requests: None })
        } else if took < self.rules.min_duration {
            Some(Until { duration: Some(self.rules.min_duration - took), requests: None })
        } else if ended < least {
            Some(Until { duration: None, requests: Some(least - ended) })
        } else {
            None
        }
    }

    /// What the run comes to.
    pub fn report(&self, measured: &Measured, samples_per_request: u64) -> Report {
        let cell = whole(measured);
        let ends = Ends::of(&cell);
        let seconds = measured.took.first().copied().unwrap_or(0) as f64 / 1e9;
        let samples = ends.good * samples_per_request;
        let stopped = self.rules.percentile.and_then(|p| early_stopping(&cell.latency, ends, p));
        let limit = self.limit.map(|limit| Span(limit).nanos() as f64);
        let mut reasons = self.shortfalls(measured, ends, samples);
        let too_slow = match (self.scenario, limit) {
            (Scenario::Server, Some(limit)) => stopped.is_some_and(|value| value > limit),
            _ => false,
        };
        if too_slow {
            reasons
                .push("more queries were over the latency limit than 99% confidence allows".into());
        }
        let bad = ends.wrong + ends.failed + ends.shed;
        let outcome = match (too_slow || bad > 0, reasons.is_empty()) {
            (true, _) => Outcome::Broken,
            (false, true) => Outcome::Held,
            (false, false) => Outcome::TooLittle,
        };
        let rate = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
        let (metric, value) = match self.scenario {
            Scenario::SingleStream => ("p90 latency", stopped),
            Scenario::MultiStream => ("p99 latency", stopped),
            Scenario::Server => ("queries a second", rate(ends.good)),
            Scenario::Offline => ("samples a second", rate(samples)),
        };
        Report {
            scenario: self.scenario,
            asked: self.rules,
            relaxed: self.rules.min_duration < self.scenario.rules().min_duration,
            queries: ends.all(),
            samples,
            seconds,
            metric: metric.to_owned(),
            value,
            measured_percentile: self.rules.percentile.map(|p| cell.latency.quantile(p) as f64),
            limit,
            outcome,
            reasons,
        }
    }

    fn shortfalls(&self, measured: &Measured, ends: Ends, samples: u64) -> Vec<String> {
        let mut reasons = Vec::new();
        let took = Duration::from_nanos(measured.took.first().copied().unwrap_or(0));
        let Rules { min_queries, min_samples, min_duration, .. } = self.rules;
        if took < min_duration {
            reasons.push(format!(
                "it took {}, expected at least {}",
                Span(took),
                Span(min_duration)
            ));
        }
        if ends.all() < min_queries {
            reasons.push(format!("{} queries, expected at least {min_queries}", ends.all()));
        }
        if samples < min_samples {
            reasons.push(format!("{samples} samples, expected at least {min_samples}"));
        }
        let bad = ends.wrong + ends.failed + ends.shed;
        if bad > 0 {
            reasons.push(format!("{bad} queries had no good answer; every query must have one"));
        }
        reasons
    }
}

fn whole(measured: &Measured) -> Cell {
    let cells = measured.stretches.values().flat_map(|cells| cells.values());
    Cell::sum(cells.collect::<Vec<_>>())
}

/// The value that the true percentile does not exceed with 99% confidence; none where there are too few queries, or it lies among those that failed.
fn early_stopping(latency: &Times, ends: Ends, percentile: f64) -> Option<f64> {
    let queries = ends.all();
    let over = allowed(queries, percentile);
    // Those without a good answer are the slowest.
    let failed = queries - latency.count();
    let over = over.checked_sub(failed).filter(|over| *over > 0)?;
    let below = latency.count() - over;
    Some(latency.quantile((below + 1) as f64 / latency.count() as f64 - 1e-12) as f64)
}

/// How many of so many queries may be over a percentile, with 99% confidence.
fn allowed(queries: u64, percentile: f64) -> u64 {
    let (mut low, mut high) = (0, queries);
    // Searches for the first number that is too many.
    while low < high {
        let middle = low + (high - low) / 2;
        let bound = interval::upper(middle as f64, queries as f64, 0.01);
        if bound <= 1.0 - percentile {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::mm1;

    #[test]
    fn least_numbers_are_those_that_early_stopping_needs() {
        // From there on one query may be over: what LoadGen documents as the least for 90% and 99%.
        for (queries, percentile, expected) in
            [(63, 0.9, 0), (64, 0.9, 1), (661, 0.99, 0), (662, 0.99, 1), (6_600, 0.999, 0)]
        {
            assert_eq!(allowed(queries, percentile), expected, "{queries} {percentile}");
        }
        // In the long run, 1% less what chance may do to it.
        let over = allowed(270_336, 0.99);
        assert!((2570..2600).contains(&over), "{over}");
    }

    fn asked(scenario: Scenario, seconds: u64) -> Asked {
        let min_duration = Duration::from_secs(seconds);
        Asked { scenario, rules: Rules { min_duration, ..scenario.rules() }, limit: None }
    }

    #[test]
    fn a_run_goes_on_until_both_are_reached() {
        let asked = asked(Scenario::MultiStream, 2);
        let begin = asked.missing(&Measured::default(), 8).unwrap();
        assert_eq!(begin, Until { duration: Some(Duration::from_secs(2)), requests: None });
        let mut measured = mm1(1e3).run(100.0, 3.0, 1);
        measured.took = vec![3_000_000_000];
        let due = whole(&measured).due;
        let more = asked.missing(&measured, 8).unwrap();
        assert_eq!(more, Until { duration: None, requests: Some(662 - due) });
        measured.append(&mm1(1e3).run(400.0, 3.0, 2));
        assert_eq!(asked.missing(&measured, 8), None);
        let report = asked.report(&measured, 8);
        assert_eq!((report.outcome, report.relaxed), (Outcome::Held, true), "{report:?}");
        assert_eq!(report.samples, report.queries * 8);
        assert!(report.value.unwrap() >= report.measured_percentile.unwrap(), "{report:?}");
    }

    #[test]
    fn too_little_and_too_slow_are_told_apart() {
        let measured = mm1(1e6).run(700.0, 30.0, 1);
        // The p99 is 15.4 ms.
        for (limit_ms, outcome) in [(30, Outcome::Held), (10, Outcome::Broken)] {
            let limit = Some(Duration::from_millis(limit_ms));
            let report = Asked { limit, ..asked(Scenario::Server, 10) }.report(&measured, 1);
            assert_eq!(report.outcome, outcome, "{report:?}");
            assert!((650.0..750.0).contains(&report.value.unwrap()), "{report:?}");
        }
        let report = asked(Scenario::Server, 600).report(&measured, 1);
        assert_eq!((report.outcome, report.relaxed), (Outcome::TooLittle, false));
        assert!(report.reasons[0].starts_with("it took 30"), "{report:?}");
        let none = asked(Scenario::SingleStream, 1).report(&Measured::default(), 1);
        assert_eq!((none.value, none.outcome), (None, Outcome::TooLittle));
    }

    #[test]
    fn failures_are_the_slowest_and_make_it_invalid() {
        let mut measured = mm1(1e3).run(1000.0, 3.0, 1);
        for cell in measured.stretches.values_mut().flat_map(|cells| cells.values_mut()) {
            *cell.codes.entry(crate::record::Code::TimedOut).or_default() += 20;
        }
        let report = asked(Scenario::SingleStream, 1).report(&measured, 1);
        assert_eq!((report.value, report.outcome), (None, Outcome::Broken), "{report:?}");
    }
}
