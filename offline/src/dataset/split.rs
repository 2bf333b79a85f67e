//! Which rows train, which validate and which are withheld: by time alone, with a gap. Pure.

use serde::Serialize;

/// A part of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slice {
    Train,
    Valid,
    /// Withheld from whoever trains.
    Test,
}

impl Slice {
    pub const ALL: [Slice; 3] = [Slice::Train, Slice::Valid, Slice::Test];

    pub fn name(self) -> &'static str {
        match self {
            Slice::Train => "train",
            Slice::Valid => "valid",
            Slice::Test => "test",
        }
    }
}

/// When each part begins, microseconds since 1970, and how much time lies between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cuts {
    pub valid_from: i64,
    pub test_from: i64,
    pub gap: i64,
}

impl Cuts {
    /// Cuts so that about these shares of the rows, whose times these are, come last; a share of 0 makes that part empty.
    pub fn by_share(times: &mut [i64], valid: f64, test: f64, gap: i64) -> Cuts {
        times.sort_unstable();
        let at = |share: f64| {
            // Shares such as 0.15 + 0.15 have an error in their last digit: it must not move the cut by a row.
            let first = ((1.0 - share) * times.len() as f64 - 1e-9).ceil().max(0.0) as usize;
            times.get(first).copied().unwrap_or(i64::MAX)
        };
        let test_from = if test > 0.0 { at(test) } else { i64::MAX };
        let valid_from = if valid > 0.0 { at(valid + test) } else { test_from };
        Cuts { valid_from, test_from, gap }
    }

    /// The part of a row received at `ts`; none where it lies in a gap.
    pub fn of(&self, ts: i64) -> Option<Slice> {
        if ts >= self.test_from {
            Some(Slice::Test)
        } else if ts >= self.valid_from {
            (ts < self.test_from.saturating_sub(self.gap)).then_some(Slice::Valid)
        } else {
            (ts < self.valid_from.saturating_sub(self.gap)).then_some(Slice::Train)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_are_kept_where_there_is_no_gap() {
        let mut times: Vec<i64> = (0..100).rev().collect();
        let cuts = Cuts::by_share(&mut times, 0.15, 0.15, 0);
        let count = |slice| times.iter().filter(|ts| cuts.of(**ts) == Some(slice)).count();
        assert_eq!(Slice::ALL.map(count), [70, 15, 15]);
        let cuts = Cuts::by_share(&mut times, 0.0, 0.0, 5);
        assert_eq!(times.iter().filter(|ts| cuts.of(**ts) == Some(Slice::Train)).count(), 100);
    }

    proptest! {
        #[test]
        fn no_row_that_trains_is_within_the_gap_of_one_that_does_not(
            mut times in prop::collection::vec(0i64..10_000, 1..300),
            valid in 0.0f64..0.4, test in 0.0f64..0.4, gap in 0i64..2_000,
        ) {
            let cuts = Cuts::by_share(&mut times, valid, test, gap);
            let of = |slice| times.iter().copied().filter(move |ts| cuts.of(*ts) == Some(slice));
            let last = |slice| of(slice).max();
            let first = |slice| of(slice).min();
            for (before, after) in [(Slice::Train, Slice::Valid), (Slice::Valid, Slice::Test), (Slice::Train, Slice::Test)] {
                if let (Some(last), Some(first)) = (last(before), first(after)) {
                    prop_assert!(last + gap < first || (gap == 0 && last < first), "{last} {first}");
                }
            }
        }
    }
}
