//! What a run measured: mergeable without loss across threads, phases and machines.

use std::{collections::BTreeMap, fmt, str::FromStr};

use hdrhistogram::Histogram;

/// How a request ended. Written as text (`ok`, `http_429`, `grpc_8`), so that it can be a key in JSON.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub enum Code {
    Ok,
    /// The answer came, and was not the one expected.
    Wrong,
    /// HTTP status other than 200.
    Http(u16),
    /// gRPC status other than OK.
    Grpc(u32),
    /// Not answered within the plan's time.
    TimedOut,
    /// The connection failed before the answer was whole.
    Broken,
    /// Not sent: no connection could be made.
    Unconnected,
    /// What came was no answer of the protocol.
    Garbled,
}

impl Code {
    /// Whether the server shed the request on purpose: 429, or RESOURCE_EXHAUSTED.
    pub fn shed(&self) -> bool {
        matches!(self, Code::Http(429) | Code::Grpc(8))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Ok => f.write_str("ok"),
            Code::Wrong => f.write_str("wrong"),
            Code::Http(status) => write!(f, "http_{status}"),
            Code::Grpc(status) => write!(f, "grpc_{status}"),
            Code::TimedOut => f.write_str("timed_out"),
            Code::Broken => f.write_str("broken"),
            Code::Unconnected => f.write_str("unconnected"),
            Code::Garbled => f.write_str("garbled"),
        }
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Code, String> {
        let number = |prefix| text.strip_prefix(prefix);
        let unknown = || format!("'{text}' is no way for a request to end");
        Ok(match text {
            "ok" => Code::Ok,
            "wrong" => Code::Wrong,
            "timed_out" => Code::TimedOut,
            "broken" => Code::Broken,
            "unconnected" => Code::Unconnected,
            "garbled" => Code::Garbled,
            _ => match (number("http_"), number("grpc_")) {
                (Some(status), _) => Code::Http(status.parse().map_err(|_| unknown())?),
                (_, Some(status)) => Code::Grpc(status.parse().map_err(|_| unknown())?),
                _ => return Err(unknown()),
            },
        })
    }
}

impl From<Code> for String {
    fn from(code: Code) -> String {
        code.to_string()
    }
}

impl TryFrom<String> for Code {
    type Error = String;

    fn try_from(text: String) -> Result<Code, String> {
        text.parse()
    }
}

/// A histogram at rest: the values that occurred (each the lower end of its HDR bucket, three digits: within 0.1%) and how often, in order. Small where
/// a `Histogram` has room for everything; adding two loses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Times(Vec<(u64, u64)>);

/// From values and how often they occurred, in any order.
impl FromIterator<(u64, u64)> for Times {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(pairs: I) -> Times {
        let mut all: Vec<(u64, u64)> = pairs.into_iter().collect();
        all.sort_unstable_by_key(|(value, _)| *value);
        all.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        Times(all)
    }
}

impl Times {
    /// What a histogram holds.
    pub fn of(histogram: &Histogram<u64>) -> Times {
        Times(
            histogram
                .iter_recorded()
                .map(|v| (histogram.lowest_equivalent(v.value_iterated_to()), v.count_at_value()))
                .collect(),
        )
    }

    /// The histogram that holds this and nothing else.
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = histogram();
        for &(value, count) in &self.0 {
            histogram.saturating_record_n(value, count);
        }
        histogram
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    /// Values and how often they occurred, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The value that a share `quantile` (0 to 1) of all do not exceed; 0 where there are none.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (value, count) in self.iter() {
            seen += count;
            if seen >= rank {
                return value;
            }
        }
        self.0.last().map_or(0, |(value, _)| *value)
    }

    /// The mean; 0 where there is nothing.
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.iter().map(|(value, count)| value as f64 * count as f64).sum();
        sum / (self.count().max(1) as f64)
    }

    /// How many are no greater than `value` (to the width of a bucket, 0.1%).
    pub fn up_to(&self, value: u64) -> u64 {
        self.iter().take_while(|(v, _)| *v <= value).map(|(_, count)| count).sum()
    }

    /// Many put together at once: cheaper than merging them one after the other.
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Times>) -> Times {
        parts.into_iter().flat_map(Times::iter).collect()
    }

    pub fn merge(&mut self, other: &Times) {
        let mut merged = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(a), Some(b)) if a.0 == b.0 => (a.0, a.1 + b.1),
                (Some(a), Some(b)) => *(*a.min(b)),
                (Some(a), None) => **a,
                (None, Some(b)) => **b,
                (None, None) => break,
            };
            ours.next_if(|a| a.0 == next.0);
            theirs.next_if(|b| b.0 == next.0);
            merged.push(next);
        }
        self.0 = merged;
    }
}

/// One nanosecond to an hour, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are constants")
}

/// What was measured of one variant in one stretch of time. Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Cell {
    /// From the scheduled moment to the end of a good answer.
    pub latency: Times,
    /// From the moment it was sent to the end of a good answer.
    pub service: Times,
    /// From the scheduled moment to the moment the generator took the request up: what it was late by itself. That no connection
    /// was free from there on is the server's part.
    pub lag: Times,
    /// How requests ended.
    pub codes: BTreeMap<Code, u64>,
    /// Requests that were due: more than ended while some are in flight.
    pub due: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// Good answers by the version that they say they are from.
    pub versions: BTreeMap<String, u64>,
}

impl Cell {
    /// Many put together at once.
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Cell> + Clone) -> Cell {
        let times = |of: fn(&Cell) -> &Times| Times::sum(parts.clone().into_iter().map(of));
        let mut sum = Cell {
            latency: times(|c| &c.latency),
            service: times(|c| &c.service),
            lag: times(|c| &c.lag),
            ..Cell::default()
        };
        for part in parts {
            sum.count(part);
        }
        sum
    }

    /// Adds what another thread, stretch or machine measured of the same thing.
    pub fn merge(&mut self, other: &Cell) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.lag.merge(&other.lag);
        self.count(other);
    }

    /// Adds everything but the times.
    fn count(&mut self, other: &Cell) {
        for (code, n) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += n;
        }
        for (version, n) in &other.versions {
            *self.versions.entry(version.clone()).or_default() += n;
        }
        self.due += other.due;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
    }
}

/// What one thread measured of one stretch (a tenth of a second, counted from the phase's start; by the moment requests were *due*).
#[derive(Clone, Debug)]
pub struct Interval {
    pub phase: usize,
    /// Tenths of a second since the phase began.
    pub tenth: u64,
    /// By variant; those without a request are absent.
    pub cells: BTreeMap<usize, Cell>,
}

/// What a run's threads measured, put together. Each stretch apart, so that windows can be cut out of it afterwards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// By phase and tenth of a second of the due moment, then by variant.
    pub stretches: BTreeMap<(usize, u64), BTreeMap<usize, Cell>>,
    /// When each phase's clock began, in nanoseconds since `run` was called: what places a scrape or an event in a phase.
    pub began: Vec<u64>,
    /// How long each phase took, in nanoseconds, its last answers included.
    pub took: Vec<u64>,
    /// A run that was interrupted: what is here is all there was.
    pub interrupted: bool,
    /// The first wrong or failed answers, in words, a few of each kind.
    pub examples: Vec<String>,
}

/// Examples that are kept of a run, at most.
pub const EXAMPLES: usize = 20;

impl Measured {
    /// Adds what another generator measured of the same plan at the same time. Nothing is lost but examples beyond the first in alphabetical
    /// order, and the order of merging does not matter.
    pub fn merge(&mut self, other: &Measured) {
        for (key, cells) in &other.stretches {
            let ours = self.stretches.entry(*key).or_default();
            for (variant, cell) in cells {
                ours.entry(*variant).or_default().merge(cell);
            }
        }
        each(&mut self.began, &other.began, u64::min);
        each(&mut self.took, &other.took, u64::max);
        self.interrupted |= other.interrupted;
        self.examples.extend(other.examples.iter().cloned());
        self.examples.sort_unstable();
        self.examples.dedup();
        self.examples.truncate(EXAMPLES);
    }

    /// Adds a later run of the same phases: each of its stretches comes after what is here.
    pub fn append(&mut self, later: &Measured) {
        for (phase, took) in later.took.iter().enumerate() {
            let ours = self.stretches.range((phase, 0)..(phase + 1, 0)).next_back();
            let after = ours.map_or(0, |((_, tenth), _)| tenth + 1);
            for ((_, tenth), cells) in later.stretches.range((phase, 0)..(phase + 1, 0)) {
                self.stretches.insert((phase, after + tenth), cells.clone());
            }
            match self.took.get_mut(phase) {
                Some(ours) => *ours += took,
                None => self.took.push(*took),
            }
        }
        if self.began.is_empty() {
            self.began = later.began.clone();
        }
        self.interrupted |= later.interrupted;
        self.examples.extend(later.examples.iter().cloned());
        self.examples.truncate(EXAMPLES);
    }
}

/// Puts two lists together place by place; the longer one's rest is kept.
fn each(ours: &mut Vec<u64>, theirs: &[u64], of: fn(u64, u64) -> u64) {
    for (at, value) in theirs.iter().enumerate() {
        match ours.get_mut(at) {
            Some(our) => *our = of(*our, *value),
            None => ours.push(*value),
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
