//! Histograms with fixed buckets: recording is two additions, and the bounds never move.

use std::time::Duration;

use super::lanes::{Number, Writer};

/// Upper bounds of the time buckets, in nanoseconds: 1, 2.5 and 5 of each decade from 1 µs to 10 s, then 30 s and 60 s.
/// Narrow enough to see a tiny model's run (tens of µs) and wide enough for a large one's (seconds).
pub const TIME_BOUNDS: [u64; 24] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Upper bounds of the batch size buckets, in rows.
pub const ROW_BOUNDS: [u64; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 512];

/// How often which time was seen, and the sum of all times.
#[derive(Debug)]
pub struct Times {
    /// The last one is above every bound.
    buckets: [Number; TIME_BOUNDS.len() + 1],
    sum: Number,
}

impl Default for Times {
    fn default() -> Self {
        Times { buckets: std::array::from_fn(|_| Number::default()), sum: Number::default() }
    }
}

impl Times {
    pub fn record(&self, time: Duration, writer: Writer) {
        let nanos = nanos(time);
        self.buckets[bucket(&TIME_BOUNDS, nanos)].add(1, writer);
        self.sum.add(nanos, writer);
    }

    /// Adds what was recorded here to `total`.
    pub fn add_to(&self, total: &mut Buckets) {
        for (sum, bucket) in total.counts.iter_mut().zip(&self.buckets) {
            *sum += bucket.get();
        }
        total.sum = total.sum.wrapping_add(self.sum.get());
    }
}

/// A histogram as read: counts by bucket (not cumulative; the last one above every bound), and the sum of all values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    pub bounds: &'static [u64],
    pub counts: Vec<u64>,
    pub sum: u64,
}

impl Buckets {
    pub fn new(bounds: &'static [u64]) -> Buckets {
        Buckets { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Adds `count` values that sum to `value * count`.
    pub fn add(&mut self, value: u64, count: u64) {
        self.counts[bucket(self.bounds, value)] += count;
        self.sum = self.sum.wrapping_add(value.wrapping_mul(count));
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Nanoseconds of a duration, as far as 64 bits go (584 years).
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The first bucket whose bound is not below `value`.
fn bucket(bounds: &[u64], value: u64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        assert_eq!(bucket(&TIME_BOUNDS, 0), 0);
        for (at, bound) in TIME_BOUNDS.into_iter().enumerate() {
            assert_eq!(bucket(&TIME_BOUNDS, bound), at);
            assert_eq!(bucket(&TIME_BOUNDS, bound + 1), at + 1);
        }
        assert!(TIME_BOUNDS.is_sorted() && ROW_BOUNDS.is_sorted());
    }

    #[test]
    fn what_is_recorded_is_read() {
        let times = Times::default();
        for micros in [1, 30, 30, 90_000_000] {
            times.record(Duration::from_micros(micros), Writer::Own);
        }
        let mut read = Buckets::new(&TIME_BOUNDS);
        times.add_to(&mut read);
        assert_eq!(read.count(), 4);
        assert_eq!(read.counts[0], 1);
        assert_eq!(read.counts[bucket(&TIME_BOUNDS, 30_000)], 2);
        assert_eq!(read.counts[TIME_BOUNDS.len()], 1);
        assert_eq!(read.sum, 90_000_061_000);
    }
}
