//! What a run costs by its number of rows: learned online, seeded by the probe, read and written without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Points by powers of two: 1, 2..3, 4..7, ...; the last holds everything from 65,536 rows.
const POINTS: usize = 17;
/// Weight of a new observation in the mean, and in the deviation (TCP's round-trip estimator uses the same).
const GAIN: f64 = 1.0 / 8.0;
const DEVIATION_GAIN: f64 = 1.0 / 4.0;
/// Deviations above the mean that `expect` reckons with.
const CAUTION: f64 = 2.0;
/// An observation counts as at most this many times the mean plus a millisecond: a run that the system put aside says
/// little about the model, while a real change still arrives within a few runs.
const OUTLIER: f64 = 8.0;
const OUTLIER_NS: f64 = 1e6;

/// Widths of a row by powers of two of its bytes: 0 and 1, 2..3, 4..7, ...; the last holds all wider ones.
const WIDTHS: usize = 32;

/// Learned run time by rows. Writers race benignly: an update may be lost, never torn.
#[derive(Debug, Default)]
pub struct CostModel {
    points: [Point; POINTS],
    /// Time a row by the bytes of one, as bits of `f64`: what one more element of a dynamic axis costs shows here only.
    widths: [AtomicU64; WIDTHS],
}

/// Means over what was observed between two powers of two, as bits of `f64`; zero: nothing yet.
#[derive(Debug, Default)]
struct Point {
    rows: AtomicU64,
    ns: AtomicU64,
    deviation: AtomicU64,
}

impl CostModel {
    pub fn new() -> CostModel {
        CostModel::default()
    }

    /// Starts from what the probe measured: (rows, time of a run), with so many bytes a row.
    pub fn seed(&self, probed: &[(usize, Duration)], row_bytes: usize) {
        for &(rows, took) in probed {
            self.points[index(rows)].set(rows.max(1) as f64, nanos(took), nanos(took) / 8.0);
            self.observe_width(rows, rows.saturating_mul(row_bytes), nanos(took));
        }
    }

    /// Learns from one run over inputs of so many bytes.
    pub fn observe(&self, rows: usize, bytes: usize, took: Duration) {
        let (at, took) = (index(rows), nanos(took));
        self.observe_width(rows, bytes, took);
        self.points[at].observe(rows.max(1) as f64, took);
        // Fewer rows do not cost more: where the model says so, it is out of date below.
        for point in &self.points[..at] {
            if let Some((rows, mean)) = point.get(0.0)
                && mean > took
            {
                point.observe(rows, took);
            }
        }
    }

    /// Whether rows as wide as these have been seen to take no longer than `limit` each: what `expect` says then holds for
    /// them. Never of wider ones than any that ran, since rows of another length cost what nobody knows.
    pub fn covers(&self, rows: usize, bytes: usize, limit: Duration) -> bool {
        // A row costs no more than a wider one.
        let wider = self.widths[width(rows, bytes)..].iter();
        let known = wider.map(|w| f64::from_bits(w.load(Relaxed))).find(|ns| *ns > 0.0);
        known.is_some_and(|ns| ns <= nanos(limit))
    }

    /// The most bytes a row may have to be covered.
    pub fn widest_within(&self, limit: Duration) -> usize {
        let known = self.widths.iter().map(|w| f64::from_bits(w.load(Relaxed))).enumerate();
        let short = known.filter(|(_, ns)| *ns > 0.0).take_while(|(_, ns)| *ns <= nanos(limit));
        short.last().map_or(0, |(at, _)| (2 << at) - 1)
    }

    fn observe_width(&self, rows: usize, bytes: usize, took: f64) {
        let (place, row) = (&self.widths[width(rows, bytes)], took / rows.max(1) as f64);
        let mean = f64::from_bits(place.load(Relaxed));
        let next = match mean > 0.0 {
            true => mean + (row.min(mean * OUTLIER + OUTLIER_NS) - mean) * GAIN,
            false => row,
        };
        place.store(next.to_bits(), Relaxed);
    }

    /// What a run of `rows` rows takes at most, as a rule: mean and two deviations. `None`: nothing is known yet.
    /// Never falls with `rows`.
    pub fn expect(&self, rows: usize) -> Option<Duration> {
        self.at(rows, CAUTION).map(duration)
    }

    /// What a run of `rows` rows takes on average.
    pub fn mean(&self, rows: usize) -> Option<Duration> {
        self.at(rows, 0.0).map(duration)
    }

    /// The most rows, up to `max_rows`, whose run is expected to end within `target`; 0 where not even one row's is,
    /// `max_rows` where nothing is known.
    pub fn largest_within(&self, target: Duration, max_rows: usize) -> usize {
        let fits = |rows| self.expect(rows).is_none_or(|cost| cost <= target);
        if fits(max_rows) {
            return max_rows;
        }
        // Invariant: `low` fits (0 does), `high` does not.
        let (mut low, mut high) = (0, max_rows);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low
    }

    /// Linear between the points, flat below the first, proportional above the last; a point never counts for less
    /// than one of fewer rows.
    fn at(&self, rows: usize, caution: f64) -> Option<f64> {
        let rows = rows.max(1) as f64;
        let mut below: Option<(f64, f64)> = None;
        for point in &self.points {
            let Some((r, ns)) = point.get(caution) else { continue };
            match below {
                _ if r <= rows => below = Some((r, below.map_or(ns, |(_, b)| ns.max(b)))),
                None => return Some(ns),
                Some((r0, ns0)) => {
                    return Some(ns0 + (ns.max(ns0) - ns0) * (rows - r0) / (r - r0));
                }
            }
        }
        below.map(|(r, ns)| ns * rows / r)
    }
}

impl Point {
    fn set(&self, rows: f64, ns: f64, deviation: f64) {
        self.rows.store(rows.to_bits(), Relaxed);
        self.deviation.store(deviation.to_bits(), Relaxed);
        self.ns.store(ns.to_bits(), Relaxed);
    }

    fn get(&self, caution: f64) -> Option<(f64, f64)> {
        let rows = f64::from_bits(self.rows.load(Relaxed));
        let ns = f64::from_bits(self.ns.load(Relaxed));
        let deviation = f64::from_bits(self.deviation.load(Relaxed));
        (rows > 0.0 && ns > 0.0).then_some((rows, ns + caution * deviation))
    }

    fn observe(&self, rows: f64, ns: f64) {
        let Some((mean_rows, mean)) = self.get(0.0) else { return self.set(rows, ns, ns / 2.0) };
        let ns = ns.min(mean * OUTLIER + OUTLIER_NS);
        let deviation = f64::from_bits(self.deviation.load(Relaxed));
        self.set(
            mean_rows + (rows - mean_rows) * GAIN,
            mean + (ns - mean) * GAIN,
            deviation + ((ns - mean).abs() - deviation) * DEVIATION_GAIN,
        );
    }
}

fn index(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(POINTS - 1)
}

fn width(rows: usize, bytes: usize) -> usize {
    let row = if rows > 1 { bytes / rows } else { bytes };
    (row.max(1).ilog2() as usize).min(WIDTHS - 1)
}

/// At least one, since zero means unknown.
fn nanos(took: Duration) -> f64 {
    (took.as_nanos() as f64).max(1.0)
}

fn duration(ns: f64) -> Duration {
    Duration::from_nanos(ns as u64) // a float cast saturates
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn knows_nothing_before_the_first_run() {
        let model = CostModel::new();
        assert_eq!(model.expect(1), None);
        assert_eq!(model.mean(8), None);
        assert_eq!(model.largest_within(us(1), 64), 64);
    }

    #[test]
    fn interpolates_between_what_the_probe_saw() {
        let model = CostModel::new();
        model.seed(&[(1, us(100)), (2, us(120)), (8, us(240))], 4);
        assert_eq!(model.mean(1), Some(us(100)));
        assert_eq!(model.mean(5), Some(us(180)));
        assert_eq!(model.mean(16), Some(us(480)), "proportional past the last point");
        assert!(model.expect(8) > model.mean(8));
        // After a seed, 1.25 times the mean is expected: 225 µs for five rows.
        assert_eq!(model.largest_within(us(226), 64), 5);
        assert_eq!(model.largest_within(us(50), 64), 0);
    }

    #[test]
    fn follows_a_change_and_shrugs_off_an_outlier() {
        let model = CostModel::new();
        model.seed(&[(1, us(1000)), (4, us(2000))], 4);
        model.observe(1, 4, Duration::from_secs(5));
        assert!(model.mean(1).unwrap() < us(2500), "{:?}", model.mean(1));
        for _ in 0..100 {
            model.observe(4, 16, us(500));
        }
        assert!(model.mean(4).unwrap() < us(520));
        assert!(model.mean(1).unwrap() < us(520), "one row costs no more than four");
    }

    #[test]
    fn a_wider_row_than_any_that_ran_is_not_covered() {
        let model = CostModel::new();
        assert!(!model.covers(1, 64, us(5000)), "nothing has run");
        model.seed(&[(1, us(100)), (8, us(400))], 64);
        assert!(
            model.covers(1, 64, us(100))
                && model.covers(8, 512, us(100))
                && model.covers(1, 4, us(100))
        );
        assert!(!model.covers(1, 64, us(10)), "it takes longer than that");
        assert!(!model.covers(1, 6400, us(5000)) && !model.covers(8, 51_200, us(5000)));
        model.observe(1, 6400, us(200_000));
        assert!(!model.covers(1, 6400, us(5000)) && !model.covers(1, 3000, us(5000)));
        assert!(model.covers(1, 64, us(5000)), "what is narrow is still short");
        model.observe(1, 640, us(900));
        assert!(model.covers(1, 640, us(5000)) && model.covers(1, 500, us(5000)));
    }

    proptest! {
        /// Whatever ran before: with a cost that grows with the row, what is covered takes no longer than the limit, but
        /// for the part of a power of two.
        #[test]
        fn what_is_covered_is_short(
            runs in prop::collection::vec((1usize..20_000, 1usize..9), 1..80),
            asked in prop::collection::vec(1usize..20_000, 1..40),
            limit in 1u64..5000,
        ) {
            let cost = |bytes: usize| us(bytes as u64);
            let model = CostModel::new();
            model.seed(&[(1, cost(16))], 16);
            for (bytes, rows) in runs {
                model.observe(rows, rows * bytes, cost(bytes) * rows as u32);
            }
            for bytes in asked {
                let covered = model.covers(1, bytes, us(limit));
                prop_assert!(covered || bytes > model.widest_within(us(limit)));
                prop_assert!(!covered || cost(bytes) <= us(limit) * 2, "{bytes} within {limit}");
            }
        }

        #[test]
        fn never_falls_with_rows_and_stays_within_what_was_seen(
            runs in prop::collection::vec((1usize..3000, 1u64..1_000_000), 1..60)
        ) {
            let model = CostModel::new();
            for &(rows, ns) in &runs {
                model.observe(rows, rows * 4, Duration::from_nanos(ns));
            }
            let mut last = (Duration::ZERO, Duration::ZERO);
            for rows in (1..5000).step_by(7) {
                let now = (model.mean(rows).unwrap(), model.expect(rows).unwrap());
                prop_assert!(now.0 >= last.0 && now.1 >= last.1, "{rows}: {now:?} after {last:?}");
                prop_assert!(now.0 <= now.1);
                last = now;
            }
            let slowest = runs.iter().map(|r| r.1).max().unwrap();
            prop_assert!(model.mean(1).unwrap() <= Duration::from_nanos(slowest));
        }

        #[test]
        fn largest_within_is_the_largest(
            runs in prop::collection::vec((1usize..200, 1u64..1_000_000), 1..40),
            target in 1u64..2_000_000,
            max in 1usize..128,
        ) {
            let model = CostModel::new();
            for (rows, ns) in runs {
                model.observe(rows, rows * 4, Duration::from_nanos(ns));
            }
            let target = Duration::from_nanos(target);
            let rows = model.largest_within(target, max);
            prop_assert!(rows <= max);
            prop_assert!(rows == 0 || model.expect(rows).unwrap() <= target);
            prop_assert!(rows == max || model.expect(rows + 1).unwrap() > target);
        }
    }
}
