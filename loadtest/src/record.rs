//! What a run measured: mergeable without loss across threads, phases and machines.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// How a request ended, under the names that onnxd's own metrics use where both have one.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
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

/// A histogram at rest: the values that occurred (each the lower end of its HDR bucket, three digits: within 0.1%) and how often, in order. Small where
/// a `Histogram` has room for everything; adding two loses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Times(Vec<(u64, u64)>);

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
    /// From the scheduled moment to the moment it was sent: what the generator itself was late by.
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
    /// Adds what another thread, stretch or machine measured of the same thing.
    pub fn merge(&mut self, other: &Cell) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.lag.merge(&other.lag);
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
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// By phase and tenth of a second of the due moment, then by variant.
    pub stretches: BTreeMap<(usize, u64), BTreeMap<usize, Cell>>,
    /// How long each phase took, in nanoseconds, its last answers included.
    pub took: Vec<u64>,
    /// A run that was interrupted: what is here is all there was.
    pub interrupted: bool,
    /// The first wrong or failed answers, in words, a few of each kind.
    pub examples: Vec<String>,
}
