//! Confidence intervals of shares and means: how far what was counted may be from what holds.

use statrs::{
    distribution::{ContinuousCDF, StudentsT},
    function::{beta::beta_reg, erf::erfc_inv},
};

/// Two-sided error of every interval here: 95% confidence.
pub const ERROR: f64 = 0.05;

/// Standard normal deviate that `ERROR / 2` lies beyond.
const DEVIATE: f64 = 1.959_963_984_540_054;

/// From this many on of each kind, the score interval is as good as the exact one (and the beta function's series is slow).
const MANY: f64 = 500.0;

/// Bounds of a share of which `hits` of `trials` were seen, both real numbers since trials that depend on each other count as fewer:
/// Clopper-Pearson (Korn-Graubard for such trials), or Wilson's score interval where there are many of both kinds.
pub fn share(hits: f64, trials: f64) -> (f64, f64) {
    if trials <= 0.0 {
        return (0.0, 1.0);
    }
    let misses = (trials - hits).max(0.0);
    if hits > MANY && misses > MANY {
        return score(hits, trials, ERROR / 2.0);
    }
    let low = if hits <= 0.0 { 0.0 } else { inverse(hits, misses + 1.0, ERROR / 2.0) };
    (low, upper(hits, trials, ERROR / 2.0))
}

/// What a share of which `hits` of `trials` were seen does not exceed, but with probability `error`.
pub fn upper(hits: f64, trials: f64, error: f64) -> f64 {
    let misses = (trials - hits).max(0.0);
    if hits > MANY && misses > MANY {
        score(hits, trials, error).1
    } else if misses <= 0.0 {
        1.0
    } else {
        inverse(hits + 1.0, misses, 1.0 - error)
    }
}

/// Wilson's, with `error` on each side.
fn score(hits: f64, trials: f64, error: f64) -> (f64, f64) {
    let share = hits / trials;
    let deviate = std::f64::consts::SQRT_2 * erfc_inv(2.0 * error);
    let squared = deviate * deviate;
    let centre = share + squared / (2.0 * trials);
    let half =
        deviate * (share * (1.0 - share) / trials + squared / (4.0 * trials * trials)).sqrt();
    let scale = 1.0 + squared / trials;
    ((centre - half) / scale, (centre + half) / scale)
}

/// Where the beta distribution of `a` and `b` reaches `mass`. By halving: the function is monotone, and needs no good first guess so.
fn inverse(a: f64, b: f64, mass: f64) -> f64 {
    let (mut low, mut high) = (0.0f64, 1.0f64);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if beta_reg(a, b, middle) < mass {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// By how much the variance of a share exceeds that of independent trials, from blocks of `(hits, trials)` that follow each other in
/// time; at least 1. Requests that wait in one queue are slow together: so many of them say less than so many independent ones.
pub fn design_effect(blocks: &[(f64, f64)]) -> f64 {
    let filled: Vec<_> = blocks.iter().filter(|(_, trials)| *trials > 0.0).collect();
    let hits: f64 = filled.iter().map(|(hits, _)| hits).sum();
    let trials: f64 = filled.iter().map(|(_, trials)| trials).sum();
    let share = hits / trials;
    if filled.len() < 2 || !(share > 0.0 && share < 1.0) {
        return 1.0;
    }
    let blocks = filled.len() as f64;
    let spread: f64 = filled.iter().map(|(hits, trials)| (hits - share * trials).powi(2)).sum();
    let variance = blocks / (blocks - 1.0) * spread / (trials * trials);
    let effect = variance / (share * (1.0 - share) / trials);
    // Few blocks tell little of their variance, which Korn and Graubard allow for by Student's t.
    (effect * (student(blocks - 1.0) / DEVIATE).powi(2)).max(1.0)
}

/// The deviate of Student's t that `ERROR / 2` lies beyond.
fn student(freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom)
        .map_or(f64::INFINITY, |student| student.inverse_cdf(1.0 - ERROR / 2.0))
}

/// Bounds of the mean of what `values` are a sample of (Student's t); none where one value says nothing of their spread.
pub fn mean(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let half = student(count - 1.0) * (variance / count).sqrt();
    Some((mean - half, mean + half))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(got: (f64, f64), expected: (f64, f64), within: f64) -> bool {
        (got.0 - expected.0).abs() < within && (got.1 - expected.1).abs() < within
    }

    #[test]
    fn known_intervals() {
        // Clopper-Pearson, as in any table: 0 of 10, 1 of 10, 5 of 20, 10 of 10.
        for (hits, trials, expected) in [
            (0.0, 10.0, (0.0, 0.3085)),
            (1.0, 10.0, (0.0025, 0.4450)),
            (5.0, 20.0, (0.0866, 0.4910)),
            (10.0, 10.0, (0.6915, 1.0)),
        ] {
            assert!(close(share(hits, trials), expected, 1e-4), "{:?}", share(hits, trials));
        }
        assert_eq!(share(0.0, 0.0), (0.0, 1.0));
        // 0 of 368 is the first that bounds a share under 1%; 0 of 3687 under 0.1%.
        assert!(share(0.0, 368.0).1 < 0.01 && share(0.0, 366.0).1 > 0.01);
        assert!(share(0.0, 3688.0).1 < 0.001 && share(0.0, 3686.0).1 > 0.001);
    }

    #[test]
    fn exact_and_score_intervals_meet() {
        for trials in [2000.0, 50_000.0, 1e6, 1e8] {
            let (exact, score) = (share(500.0, trials), share(500.001, trials));
            assert!(close(exact, score, 0.005 * 500.0 / trials), "{exact:?} {score:?}");
        }
    }

    #[test]
    fn known_means() {
        let (low, high) = mean(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!(close((low, high), (1.0368, 4.9632), 1e-4), "{low} {high}");
        assert_eq!(mean(&[7.0]), None);
        assert_eq!(mean(&[7.0; 9]), Some((7.0, 7.0)));
    }

    #[test]
    fn what_comes_in_lumps_counts_as_less() {
        let spread: Vec<_> = (0..30).map(|at| (f64::from(at % 3), 100.0)).collect();
        assert_eq!(design_effect(&spread), 1.0);
        let mut lump = vec![(0.0, 100.0); 30];
        lump[7] = (30.0, 100.0);
        // All thirty in one of thirty blocks: nearly as if there were one, and the blocks are few.
        assert!((30.0..34.0).contains(&design_effect(&lump)), "{}", design_effect(&lump));
        assert_eq!(design_effect(&[]), 1.0);
        assert_eq!(design_effect(&[(0.0, 50.0), (0.0, 50.0)]), 1.0);
    }

    proptest! {
        #[test]
        fn bounds_hold_the_share_and_tighten(hits in 0u32..2000, misses in 0u32..200_000) {
            let (hits, trials) = (f64::from(hits), f64::from(hits) + f64::from(misses));
            prop_assume!(trials > 0.0);
            let (low, high) = share(hits, trials);
            prop_assert!(0.0 <= low && low <= hits / trials && hits / trials <= high && high <= 1.0);
            let (lower, higher) = share(hits * 10.0, trials * 10.0);
            prop_assert!(higher - lower <= high - low);
        }
    }
}
