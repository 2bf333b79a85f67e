//! Objectives, and whether what was measured holds them, breaks them, or is too little to say.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::units::{Rate, Share, Span};

/// What is asked of a server while a phase runs. All of it is optional; what is not stated is not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slo {
    /// Half of the requests take less than this, counted from the moment they were due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<Span>,
    #[serde(rename = "p99.9", skip_serializing_if = "Option::is_none")]
    pub p99_9: Option<Span>,
    /// Share of requests that fail, at most. Shed ones are among them unless `shed_rate` is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<Share>,
    /// Share of requests that the server refuses because of load (429, RESOURCE_EXHAUSTED), at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_rate: Option<Share>,
    /// Good answers a second, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput: Option<Rate>,
    /// Good answers within `within`, at least: so many a second, or such a share of what was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput: Option<Goodput>,
    /// What counts as in time for goodput. Default: the limit of the highest percentile that is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// How much goodput is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Goodput {
    /// Of what was due.
    Share(Share),
    /// A second.
    Rate(Rate),
}

/// One objective of an SLO.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// A share `quantile` of requests takes less than `limit`.
    Latency { quantile: f64, limit: Duration },
    /// At most.
    ErrorRate(f64),
    /// At most.
    ShedRate(f64),
    /// At least, a second.
    Throughput(f64),
    /// At least, in time.
    Goodput(Goodput),
}

impl Slo {
    /// Its objectives, one by one.
    pub fn objectives(&self) -> Vec<Objective> {
        let latency = self.latencies().into_iter().filter_map(|(quantile, limit)| {
            limit.map(|Span(limit)| Objective::Latency { quantile, limit })
        });
        let others = [
            self.error_rate.map(|Share(share)| Objective::ErrorRate(share)),
            self.shed_rate.map(|Share(share)| Objective::ShedRate(share)),
            self.throughput.map(|Rate(rate)| Objective::Throughput(rate)),
            self.goodput.map(Objective::Goodput),
        ];
        latency.chain(others.into_iter().flatten()).collect()
    }

    fn latencies(&self) -> [(f64, Option<Span>); 5] {
        [(0.5, self.p50), (0.9, self.p90), (0.95, self.p95), (0.99, self.p99), (0.999, self.p99_9)]
    }

    /// Answers within this count as goodput.
    pub fn within(&self) -> Option<Duration> {
        let highest = self.latencies().into_iter().rev().find_map(|(_, limit)| limit);
        self.within.or(highest).map(|Span(limit)| limit)
    }

    pub fn is_empty(&self) -> bool {
        self.objectives().is_empty()
    }
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Held,
    /// The interval of what was measured has the limit inside it.
    TooLittle,
    Broken,
}

/// One objective held against what was measured. Latencies in nanoseconds, rates a second, shares 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub phase: String,
    /// As a person reads it: `p99 < 20ms`.
    pub objective: String,
    pub outcome: Outcome,
    pub limit: f64,
    pub measured: f64,
    /// 95% confidence interval of `measured`; an end that the data does not bound is absent.
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// How many requests it was measured on.
    pub requests: u64,
}

/// Whether a run held its objectives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The worst of the findings; broken where an answer was wrong.
    pub outcome: Outcome,
    pub findings: Vec<Finding>,
    /// Answers that were not the ones expected: any breaks the run, whatever its speed.
    pub wrong: u64,
    /// The run was ended before its plan was.
    pub interrupted: bool,
    /// What else a reader must know, such as that the generator was late.
    pub notes: Vec<String>,
}

impl Verdict {
    /// 0 held, 3 broken, 4 too little data to say.
    pub fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Held => 0,
            Outcome::Broken => 3,
            Outcome::TooLittle => 4,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Held => "held",
            Outcome::TooLittle => "too little data to say",
            Outcome::Broken => "broken",
        })
    }
}
