//! Two servers, or two results, held against each other: ratios of their figures, each with the interval that resampling gives it.
//!
//! Rounds that were taken in turn in one sitting are pairs: what slows the machine down slows both, and a ratio within a round does not see it.
//! The interval is that of the geometric mean of the rounds' ratios. Two stored results are no pairs: each is resampled by blocks of its own
//! time, which tells how much a figure varies within its run, and nothing of what differed between the two sittings.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{self, Estimate},
    record::Times,
    slo::Outcome,
    summary::Figures,
};

/// The figures that are compared, by name. Latencies in nanoseconds, rates a second.
pub const METRICS: [&str; 11] = [
    "throughput",
    "goodput",
    "mean",
    "p50",
    "p90",
    "p95",
    "p99",
    "p99.9",
    "service_p50",
    "service_p99",
    "error_rate",
];

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    pub metric: String,
    /// Of all rounds together: the median of the rounds' figures, or of the whole result where there are no rounds.
    pub base: Option<f64>,
    pub test: Option<f64>,
    /// `test` as a multiple of `base`; none where one of them is 0 or too little was measured.
    pub ratio: Option<Estimate>,
}

/// What the comparison comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What is compared with.
    pub base: String,
    /// What is compared.
    pub test: String,
    /// Rounds in one sitting; none for stored results.
    pub rounds: Option<usize>,
    pub ratios: Vec<Ratio>,
    /// Limits on ratios, and whether they hold.
    pub limits: Vec<LimitFinding>,
    pub notes: Vec<String>,
}

/// A limit on a ratio, as in `p99<1.05`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub metric: String,
    /// Whether the ratio must reach it; otherwise it must not exceed it.
    pub at_least: bool,
    pub ratio: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitFinding {
    pub limit: Limit,
    pub outcome: Outcome,
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit, String> {
        let wrong = |why: String| {
            format!(
                "'{text}': {why}; expected a figure's name and a ratio, as in p99<1.05 or throughput>0.95"
            )
        };
        let at = text.find(['<', '>']).ok_or_else(|| wrong("no < or > in it".into()))?;
        let metric = text[..at].trim();
        if !METRICS.contains(&metric) {
            return Err(wrong(format!("'{metric}' is none of {}", METRICS.join(", "))));
        }
        let value = text[at + 1..].trim_start_matches('=').trim();
        let ratio = value.parse::<f64>().ok().filter(|ratio| *ratio > 0.0 && ratio.is_finite());
        let ratio = ratio.ok_or_else(|| wrong(format!("'{value}' is no ratio above 0")))?;
        let at_least = text[at..].starts_with('>');
        Ok(Limit { metric: metric.to_owned(), at_least, ratio })
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.at_least { ">=" } else { "<=" };
        write!(f, "{} {sign} {} of the base's", self.metric, self.ratio)
    }
}

impl Limit {
    fn judge(&self, ratios: &[Ratio]) -> LimitFinding {
        let ratio = ratios.iter().find(|r| r.metric == self.metric).and_then(|r| r.ratio);
        let outcome = match ratio {
            None => Outcome::TooLittle,
            Some(Estimate { low, high, .. }) => {
                let (keeps, breaks) = if self.at_least {
                    (low >= self.ratio, high < self.ratio)
                } else {
                    (high <= self.ratio, low > self.ratio)
                };
                match (keeps, breaks) {
                    (true, _) => Outcome::Held,
                    (_, true) => Outcome::Broken,
                    _ => Outcome::TooLittle,
                }
            }
        };
        LimitFinding { limit: self.clone(), outcome }
    }
}

impl Comparison {
    /// The worst of the limits' outcomes; held where there is none.
    pub fn outcome(&self) -> Outcome {
        self.limits.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::Held)
    }

    /// Adds the limits, and whether they hold.
    pub fn judge(mut self, limits: &[Limit]) -> Comparison {
        self.limits = limits.iter().map(|limit| limit.judge(&self.ratios)).collect();
        self
    }

    /// Of rounds in which both were measured, one after the other.
    pub fn of_rounds(
        base: &str,
        test: &str,
        rounds: &[(Figures, Figures)],
        seed: u64,
    ) -> Comparison {
        let ratio = |metric: &&str| {
            let pairs: Vec<_> = rounds
                .iter()
                .filter_map(|(a, b)| Some((figure(metric, a)?, figure(metric, b)?)))
                .collect();
            Ratio {
                metric: (*metric).to_owned(),
                base: median(pairs.iter().map(|pair| pair.0)),
                test: median(pairs.iter().map(|pair| pair.1)),
                ratio: bootstrap::ratios(&pairs, seed).filter(|_| pairs.len() == rounds.len()),
            }
        };
        Comparison {
            base: base.to_owned(),
            test: test.to_owned(),
            rounds: Some(rounds.len()),
            ratios: METRICS.iter().map(ratio).collect(),
            limits: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Of two results that were taken at different times.
    pub fn of_results(
        base: (&str, &Figures, &[Block]),
        test: (&str, &Figures, &[Block]),
        seed: u64,
    ) -> Comparison {
        let ratio = |metric: &&str| Ratio {
            metric: (*metric).to_owned(),
            base: figure(metric, base.1),
            test: figure(metric, test.1),
            ratio: resampled(metric, base.2, test.2, seed),
        };
        Comparison {
            base: base.0.to_owned(),
            test: test.0.to_owned(),
            rounds: None,
            ratios: METRICS.iter().map(ratio).collect(),
            limits: Vec::new(),
            notes: vec![
                "the intervals tell how much the figures vary within each run, not what differed between the two sittings; --against measures both in one"
                    .to_owned(),
            ],
        }
    }
}

/// The figure of a name; none where nothing was measured.
fn figure(metric: &str, figures: &Figures) -> Option<f64> {
    let latency = |value: u64| (figures.latency.count > 0).then_some(value as f64);
    match metric {
        "throughput" => Some(figures.throughput),
        "goodput" => figures.goodput,
        "mean" => (figures.latency.count > 0).then_some(figures.latency.mean),
        "p50" => latency(figures.latency.p50),
        "p90" => latency(figures.latency.p90),
        "p95" => latency(figures.latency.p95),
        "p99" => latency(figures.latency.p99),
        "p99.9" => latency(figures.latency.p99_9),
        "service_p50" => latency(figures.service.p50),
        "service_p99" => latency(figures.service.p99),
        "error_rate" => Some(figures.error_rate),
        _ => None,
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A stretch of a stored result that is resampled as a whole. Stretches of one result have the same length.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub latency: Times,
    pub service: Times,
    pub good: u64,
    /// Good answers in time.
    pub within: Option<u64>,
    /// What ended, and what of it ended badly.
    pub ended: u64,
    pub errors: u64,
    /// How long it is, seconds.
    pub seconds: f64,
}

/// The interval of a ratio of figures, both sides resampled by blocks.
fn resampled(metric: &str, base: &[Block], test: &[Block], seed: u64) -> Option<Estimate> {
    let mut base = Resampler::new(metric, base)?;
    let mut test = Resampler::new(metric, test)?;
    let groups = [base.blocks.len(), test.blocks.len()];
    bootstrap::interval(&groups, seed, |drawn| {
        let (a, b) = (base.figure(&drawn[0]), test.figure(&drawn[1]));
        (a > 0.0).then(|| b / a).filter(|ratio| *ratio > 0.0)
    })
}

/// Computes one figure of blocks that were drawn, fast: thousands of times for an interval.
struct Resampler {
    /// Of each block: weight in the numerator and the denominator, or positions in `values` and counts.
    blocks: Vec<Weights>,
    /// The distinct latencies of all blocks, where the figure is a percentile.
    values: Vec<u64>,
    quantile: Option<f64>,
    counts: Vec<u64>,
}

#[derive(Default)]
struct Weights {
    over: f64,
    under: f64,
    times: Vec<(u32, u64)>,
}

impl Resampler {
    fn new(metric: &str, blocks: &[Block]) -> Option<Resampler> {
        let quantile = |name: &str| match name {
            "p50" => Some(0.5),
            "p90" => Some(0.9),
            "p95" => Some(0.95),
            "p99" => Some(0.99),
            "p99.9" => Some(0.999),
            _ => None,
        };
        let service = metric.strip_prefix("service_");
        let times = |block: &Block| {
            if service.is_some() { block.service.clone() } else { block.latency.clone() }
        };
        let quantile = quantile(service.unwrap_or(metric));
        let Some(quantile) = quantile else {
            let blocks =
                blocks.iter().map(|block| weights(metric, block)).collect::<Option<_>>()?;
            return Some(Resampler {
                blocks,
                values: Vec::new(),
                quantile: None,
                counts: Vec::new(),
            });
        };
        let all: Vec<Times> = blocks.iter().map(times).collect();
        let values: Vec<u64> = Times::sum(&all).iter().map(|(value, _)| value).collect();
        let place = |value| values.partition_point(|v| *v < value) as u32;
        let blocks = all
            .iter()
            .map(|times| Weights {
                times: times.iter().map(|(value, count)| (place(value), count)).collect(),
                ..Weights::default()
            })
            .collect();
        Some(Resampler { blocks, counts: vec![0; values.len()], values, quantile: Some(quantile) })
    }

    fn figure(&mut self, drawn: &[usize]) -> f64 {
        let Some(quantile) = self.quantile else {
            let sum =
                |of: fn(&Weights) -> f64| drawn.iter().map(|at| of(&self.blocks[*at])).sum::<f64>();
            return sum(|w| w.over) / sum(|w| w.under).max(f64::MIN_POSITIVE);
        };
        self.counts.fill(0);
        let mut all = 0;
        for (place, count) in drawn.iter().flat_map(|at| &self.blocks[*at].times) {
            self.counts[*place as usize] += count;
            all += count;
        }
        let rank = ((all as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (count, value) in self.counts.iter().zip(&self.values) {
            seen += count;
            if seen >= rank {
                return *value as f64;
            }
        }
        0.0
    }
}

fn weights(metric: &str, block: &Block) -> Option<Weights> {
    let (over, under) = match metric {
        "throughput" => (block.good as f64, block.seconds),
        "goodput" => (block.within? as f64, block.seconds),
        "mean" => {
            (block.latency.mean() * block.latency.count() as f64, block.latency.count() as f64)
        }
        "error_rate" => (block.errors as f64, block.ended as f64),
        _ => return None,
    };
    Some(Weights { over, under, times: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        simulated::{self, mm1},
        summary::Summary,
    };

    fn rounds(slower: f64, count: u64) -> Vec<(Figures, Figures)> {
        let figures = |mean: f64, seed| {
            Summary::of(&mm1(mean).run(500.0, 3.0, seed), &simulated::frame(3.0)).total
        };
        (0..count).map(|n| (figures(1e6, n), figures(1e6 * slower, 100 + n))).collect()
    }

    fn ratio<'a>(comparison: &'a Comparison, metric: &str) -> &'a Ratio {
        comparison.ratios.iter().find(|ratio| ratio.metric == metric).unwrap()
    }

    #[test]
    fn rounds_show_what_differs_and_what_does_not() {
        // 500 a second: p50 is ln(2) / (1000 - 500) s and ln(2) / (1000 / 1.2 - 500) s.
        let comparison = Comparison::of_rounds("old", "new", &rounds(1.2, 12), 1);
        let p50 = ratio(&comparison, "p50").ratio.unwrap();
        assert!(!p50.excludes(1.5) && p50.excludes(1.0), "{p50:?}");
        assert!(!ratio(&comparison, "throughput").ratio.unwrap().excludes(1.0));
        assert_eq!(ratio(&comparison, "goodput").ratio, None, "no objective says what is in time");
        assert_eq!(ratio(&comparison, "error_rate").ratio, None, "0 of 0");
        let same = Comparison::of_rounds("old", "new", &rounds(1.0, 12), 1);
        assert!(!ratio(&same, "p50").ratio.unwrap().excludes(1.0));
    }

    #[test]
    fn one_round_says_nothing_of_chance() {
        let comparison = Comparison::of_rounds("a", "b", &rounds(1.2, 1), 1);
        assert!(ratio(&comparison, "p50").base.is_some());
        assert_eq!(ratio(&comparison, "p50").ratio, None);
        let judged = comparison.judge(&["p50<2".parse().unwrap()]);
        assert_eq!(judged.outcome(), Outcome::TooLittle);
    }

    #[test]
    fn limits_are_held_against_the_interval() {
        let comparison = Comparison::of_rounds("old", "new", &rounds(1.2, 12), 1);
        for (limit, outcome) in [
            ("p50<2", Outcome::Held),
            ("p50<1.1", Outcome::Broken),
            ("p50<=1.5", Outcome::TooLittle),
            ("throughput>0.9", Outcome::Held),
            ("throughput>1.1", Outcome::Broken),
        ] {
            let judged = comparison.clone().judge(&[limit.parse().unwrap()]);
            assert_eq!(judged.outcome(), outcome, "{limit}: {:?}", judged.ratios);
        }
        for wrong in ["p50", "p50<x", "p50<-1", "p51<1", "p50<0"] {
            let error = wrong.parse::<Limit>().unwrap_err();
            assert!(error.contains(wrong) && error.contains("expected"), "{error}");
        }
    }

    fn blocks(mean: f64, seed: u64) -> (Figures, Vec<Block>) {
        let measured = mm1(mean).run(500.0, 20.0, seed);
        let blocks = measured.stretches.values().map(|cells| {
            let cell = &cells[&0];
            Block {
                latency: cell.latency.clone(),
                service: cell.service.clone(),
                good: cell.latency.count(),
                within: None,
                ended: cell.due,
                errors: 0,
                seconds: 0.1,
            }
        });
        (Summary::of(&measured, &simulated::frame(20.0)).total, blocks.collect())
    }

    #[test]
    fn stored_results_are_resampled_by_blocks() {
        let ((a, blocks_a), (b, blocks_b)) = (blocks(1e6, 1), blocks(1.2e6, 2));
        let comparison = Comparison::of_results(("a", &a, &blocks_a), ("b", &b, &blocks_b), 1);
        let p50 = ratio(&comparison, "p50").ratio.unwrap();
        assert!(!p50.excludes(1.5) && p50.excludes(1.0), "{p50:?}");
        let throughput = ratio(&comparison, "throughput").ratio.unwrap();
        assert!(!throughput.excludes(1.0) && throughput.high - throughput.low < 0.2);
        // What is resampled is what is reported: the whole sample's figure.
        let whole = b.latency.p99 as f64 / a.latency.p99 as f64;
        assert!((ratio(&comparison, "p99").ratio.unwrap().value / whole - 1.0).abs() < 1e-9);
        assert!(comparison.notes[0].contains("--against"));
    }
}
