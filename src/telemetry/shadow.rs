//! What came of requests that were copied to a shadow.

use std::time::Duration;

use super::lanes::{Lanes, Number};

/// How copies ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Both answered, and were compared.
    Compared,
    /// There was no room in the queue of copies.
    Dropped,
    /// The shadow had an error, or an answer of another shape.
    Failed,
}

impl Copied {
    pub const ALL: [Copied; 3] = [Copied::Compared, Copied::Dropped, Copied::Failed];

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Copied::Compared => "compared",
            Copied::Dropped => "dropped",
            Copied::Failed => "failed",
        }
    }
}

/// What two answers to the same request say of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Rows that were compared, and those of which the best class differs.
    pub rows: u64,
    pub flips: u64,
    /// The largest difference of two numbers, and the mean of all.
    pub max: f64,
    pub mean: f64,
}

/// Of one shadow.
#[derive(Debug, Default)]
pub struct ShadowCounts(Lanes<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By `Copied as usize`.
    outcomes: [Number; Copied::ALL.len()],
    rows: Number,
    flips: Number,
    /// Nanoseconds: the shadow's runs, and the primary's of the same requests.
    shadow: Number,
    primary: Number,
    /// Of compared answers: the largest difference so far, and the sum of the mean ones, as bits and in billionths.
    max: Number,
    sum: Number,
}

/// Billionths: differences smaller than that are none.
const FINE: f64 = 1e9;

/// `ShadowCounts` at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShadowReading {
    pub outcomes: [u64; Copied::ALL.len()],
    pub rows: u64,
    pub flips: u64,
    pub shadow: Duration,
    pub primary: Duration,
    pub max: f64,
    pub sum: f64,
}

impl ShadowCounts {
    pub fn ended(&self, outcome: Copied) {
        let (lane, writer) = self.0.mine();
        lane.outcomes[outcome as usize].add(1, writer);
    }

    /// Both answered; so long each took to run.
    pub fn compared(&self, difference: Difference, shadow: Duration, primary: Duration) {
        self.ended(Copied::Compared);
        let (lane, writer) = self.0.mine();
        lane.rows.add(difference.rows, writer);
        lane.flips.add(difference.flips, writer);
        lane.shadow.add(shadow.as_nanos() as u64, writer);
        lane.primary.add(primary.as_nanos() as u64, writer);
        // Bits of numbers that are not negative are in the numbers' order.
        lane.max.raise(difference.max.max(0.0).to_bits());
        lane.sum.add((difference.mean * FINE).min(u64::MAX as f64 / 2.0) as u64, writer);
    }

    pub fn read(&self) -> ShadowReading {
        let nanos = |pick: fn(&Counts) -> &Number| Duration::from_nanos(self.0.sum(pick));
        let max = self.0.iter().map(|lane| lane.max.get()).max().unwrap_or_default();
        ShadowReading {
            outcomes: Copied::ALL.map(|copied| self.0.sum(|lane| &lane.outcomes[copied as usize])),
            rows: self.0.sum(|lane| &lane.rows),
            flips: self.0.sum(|lane| &lane.flips),
            shadow: nanos(|lane| &lane.shadow),
            primary: nanos(|lane| &lane.primary),
            max: f64::from_bits(max),
            sum: self.0.sum(|lane| &lane.sum) as f64 / FINE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_add_up() {
        let counts = ShadowCounts::default();
        let ms = Duration::from_millis;
        let difference = Difference { rows: 4, flips: 1, max: 0.5, mean: 0.25 };
        counts.compared(difference, ms(3), ms(2));
        counts.compared(Difference { rows: 1, ..Difference::default() }, ms(1), ms(2));
        counts.ended(Copied::Dropped);
        let read = counts.read();
        assert_eq!(read.outcomes, [2, 1, 0]);
        assert_eq!((read.rows, read.flips, read.max, read.sum), (5, 1, 0.5, 0.25));
        assert_eq!((read.shadow, read.primary), (ms(4), ms(4)));
    }
}
