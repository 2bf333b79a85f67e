//! Objectives, and whether what was measured holds them, breaks them, or is too little to say.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::{self, Rate, Share, Span};

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

/// How much goodput is asked for: `95%` of what was due, or `900` a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goodput {
    /// Of what was due.
    Share(Share),
    /// A second.
    Rate(Rate),
}

impl FromStr for Goodput {
    type Err = String;

    fn from_str(text: &str) -> Result<Goodput, String> {
        if text.trim_end().ends_with('%') {
            text.parse().map(Goodput::Share)
        } else {
            text.parse().map(Goodput::Rate)
        }
    }
}

impl Serialize for Goodput {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Goodput::Share(share) => share.serialize(serializer),
            Goodput::Rate(rate) => rate.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Goodput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Goodput, D::Error> {
        units::number_or_text(deserializer, "95% of what is due, or 900 (a second)")
    }
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

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objective::Latency { quantile, limit } => {
                // 0.999 * 100 has digits in binary that nobody wrote.
                let percentile = (quantile * 1e6).round() / 1e4;
                write!(f, "p{percentile} < {}", Span(*limit))
            }
            Objective::ErrorRate(limit) => write!(f, "error_rate <= {}", Share(*limit)),
            Objective::ShedRate(limit) => write!(f, "shed_rate <= {}", Share(*limit)),
            Objective::Throughput(limit) => write!(f, "throughput >= {}", Rate(*limit)),
            Objective::Goodput(Goodput::Rate(limit)) => write!(f, "goodput >= {limit}"),
            Objective::Goodput(Goodput::Share(limit)) => write!(f, "goodput >= {limit}"),
        }
    }
}

impl Slo {
    /// Adds an objective as flags state it: `p99<20ms`, `error_rate<0.1%`, `throughput>900`, `goodput>95%`, `within=20ms`.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let wrong = |why: &str| {
            format!(
                "'{text}': {why}; expected an objective such as p99<20ms, error_rate<0.1%, shed_rate<1%, throughput>900, goodput>95% or within=20ms"
            )
        };
        let at = text.find(['<', '>', '=']).ok_or_else(|| wrong("no <, > or = in it"))?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let sign = &rest[..1];
        let value = rest[1..].strip_prefix('=').unwrap_or(&rest[1..]).trim();
        let needs = match name {
            "throughput" | "goodput" => ">",
            "within" => "=",
            _ => "<",
        };
        let is_known = self.set(name, value).map_err(|why| format!("{text}: {why}"))?;
        match (is_known, sign == needs) {
            (false, _) => Err(wrong(&format!("'{name}' is no objective"))),
            (true, false) => Err(wrong(&format!("{name} goes with {needs}"))),
            (true, true) => Ok(()),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "p50" => self.p50 = Some(value.parse()?),
            "p90" => self.p90 = Some(value.parse()?),
            "p95" => self.p95 = Some(value.parse()?),
            "p99" => self.p99 = Some(value.parse()?),
            "p99.9" => self.p99_9 = Some(value.parse()?),
            "error_rate" => self.error_rate = Some(value.parse()?),
            "shed_rate" => self.shed_rate = Some(value.parse()?),
            "throughput" => self.throughput = Some(value.parse()?),
            "goodput" => self.goodput = Some(value.parse()?),
            "within" => self.within = Some(value.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// These objectives, where they are stated, in place of `base`'s.
    pub fn over(self, base: &Slo) -> Slo {
        Slo {
            p50: self.p50.or(base.p50),
            p90: self.p90.or(base.p90),
            p95: self.p95.or(base.p95),
            p99: self.p99.or(base.p99),
            p99_9: self.p99_9.or(base.p99_9),
            error_rate: self.error_rate.or(base.error_rate),
            shed_rate: self.shed_rate.or(base.shed_rate),
            throughput: self.throughput.or(base.throughput),
            goodput: self.goodput.or(base.goodput),
            within: self.within.or(base.within),
        }
    }

    /// What is wrong with these objectives together, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.goodput.is_some() && self.within().is_none() {
            return Err("goodput: expected a latency objective or `within` beside it, to say what is in time".into());
        }
        Ok(())
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

impl Finding {
    /// What was measured, for a person: `p99 12.3ms, 95% between 11.9ms and 12.8ms`.
    pub fn words(&self) -> String {
        let figure = |value: Option<f64>| match value {
            None => "no bound".to_owned(),
            Some(value) if self.objective.starts_with('p') => {
                units::short(Span(Duration::from_nanos(value as u64)))
            }
            Some(value) if self.objective.ends_with("/s") => format!("{value:.1}/s"),
            Some(value) => format!("{:.3}%", value * 100.0),
        };
        let name = self.objective.split(' ').next().unwrap_or("");
        let measured = match self.measured {
            None => "among the failed".to_owned(),
            measured => figure(measured),
        };
        match (self.low, self.high) {
            (None, None) => format!("{name} {measured}"),
            (low, high) => {
                format!("{name} {measured}, 95% between {} and {}", figure(low), figure(high))
            }
        }
    }
}

/// One objective held against what was measured. Latencies in nanoseconds, rates a second, shares 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub phase: String,
    /// As a person reads it: `p99 < 20ms`.
    pub objective: String,
    pub outcome: Outcome,
    pub limit: f64,
    /// Whether the limit must be reached; otherwise it must not be exceeded.
    pub at_least: bool,
    /// Absent where the percentile lies among requests that failed.
    pub measured: Option<f64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_files_say_the_same() {
        let mut flags = Slo::default();
        for flag in
            ["p99<20ms", "p99.9 <= 50ms", "error_rate<0.1%", "throughput>900", "goodput>=95%"]
        {
            flags.add(flag).unwrap();
        }
        let file = "p99: 20ms\np99.9: 50ms\nerror_rate: 0.001\nthroughput: 0.9k\ngoodput: 95%\n";
        let file: Slo = serde_saphyr::from_str(file).unwrap();
        assert_eq!(flags, file);
        assert_eq!(flags.within(), Some(Duration::from_millis(50)));
        let words: Vec<String> = flags.objectives().iter().map(|o| o.to_string()).collect();
        let expected = [
            "p99 < 20ms",
            "p99.9 < 50ms",
            "error_rate <= 0.1%",
            "throughput >= 900/s",
            "goodput >= 95%",
        ];
        assert_eq!(words, expected);
        let again: Slo = serde_json::from_str(&serde_json::to_string(&flags).unwrap()).unwrap();
        assert_eq!(again, flags);
    }

    #[test]
    fn what_is_no_objective_is_named() {
        for (flag, why) in [
            ("p99", "no <, > or ="),
            ("p99>20ms", "p99 goes with <"),
            ("throughput<5", "throughput goes with >"),
            ("p98<20ms", "'p98' is no objective"),
            ("p99<20", "no duration"),
            ("error_rate<7", "no share"),
            ("goodput>fast", "no rate"),
        ] {
            let error = Slo::default().add(flag).unwrap_err();
            assert!(error.contains(why) && error.contains(flag), "{flag}: {error}");
        }
        let mut slo = Slo::default();
        slo.add("goodput>95%").unwrap();
        assert!(slo.check().unwrap_err().starts_with("goodput: expected a latency objective"));
        slo.add("within=5ms").unwrap();
        slo.check().unwrap();
    }
}
