//! Intervals by resampling: how far a statistic of what was measured may be from what holds, without a formula for its distribution.

use rand_pcg::{
    Pcg64Mcg,
    rand_core::{Rng, SeedableRng},
};
use serde::{Deserialize, Serialize};
use statrs::function::erf::{erfc, erfc_inv};

use crate::interval::ERROR;

/// Resamples of each interval; more change the bounds by less than their own width is uncertain.
const RESAMPLES: usize = 4000;

/// An estimate and its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// Whether the interval leaves out `value`: the data speak against it.
    pub fn excludes(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }
}

/// The interval of `statistic` over groups of samples that were drawn independently, by bias-corrected and accelerated bootstrap (Efron's
/// BCa). `statistic` sees indices into each group. None where a group has fewer than two samples, or the statistic is not a number for some
/// of the resamples.
pub fn interval(
    groups: &[usize],
    seed: u64,
    mut statistic: impl FnMut(&[Vec<usize>]) -> Option<f64>,
) -> Option<Estimate> {
    if groups.iter().any(|samples| *samples < 2) {
        return None;
    }
    let mut drawn: Vec<Vec<usize>> = groups.iter().map(|n| (0..*n).collect()).collect();
    let value = statistic(&drawn).filter(|value| value.is_finite())?;
    let acceleration = acceleration(&mut drawn, &mut statistic)?;
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut values = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for group in &mut drawn {
            let samples = group.len();
            group.fill_with(|| below(samples, &mut rng));
        }
        values.push(statistic(&drawn).filter(|value| value.is_finite())?);
    }
    values.sort_unstable_by(f64::total_cmp);
    let bias = bias(&values, value);
    let at = |mass: f64| {
        let deviate = deviate(mass);
        let shifted = bias + (bias + deviate) / (1.0 - acceleration * (bias + deviate));
        let rank = (cumulative(shifted) * (RESAMPLES as f64 - 1.0)).round();
        values[(rank.max(0.0) as usize).min(RESAMPLES - 1)]
    };
    Some(Estimate { value, low: at(ERROR / 2.0), high: at(1.0 - ERROR / 2.0) })
}

/// The interval of the geometric mean of ratios, each of one round in which both were measured.
pub fn ratios(pairs: &[(f64, f64)], seed: u64) -> Option<Estimate> {
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (b / a).ln()).collect();
    if logs.iter().any(|log| !log.is_finite()) {
        return None;
    }
    interval(&[logs.len()], seed, |drawn| {
        let sum: f64 = drawn[0].iter().map(|at| logs[*at]).sum();
        Some((sum / logs.len() as f64).exp())
    })
}

/// A number from 0 to `bound`, excluded; without bias (Lemire).
fn below(bound: usize, rng: &mut Pcg64Mcg) -> usize {
    let bound = bound as u64;
    let floor = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(bound);
        if product as u64 >= floor {
            return (product >> 64) as usize;
        }
    }
}

/// How far the middle of the resamples lies from the estimate, as a normal deviate.
fn bias(sorted: &[f64], value: f64) -> f64 {
    let less = sorted.partition_point(|v| *v < value);
    let equal = sorted[less..].iter().take_while(|v| **v == value).count();
    let share = (less as f64 + equal as f64 / 2.0) / sorted.len() as f64;
    // All on one side would be an infinite correction.
    let least = 0.5 / sorted.len() as f64;
    deviate(share.clamp(least, 1.0 - least))
}

/// How the statistic's spread changes with its value, from leaving out one sample at a time. Leaves `all` as it was.
fn acceleration(
    all: &mut [Vec<usize>],
    statistic: &mut impl FnMut(&[Vec<usize>]) -> Option<f64>,
) -> Option<f64> {
    let (mut squares, mut cubes) = (0.0, 0.0);
    for group in 0..all.len() {
        let samples = all[group].len();
        let mut without = Vec::with_capacity(samples);
        for at in 0..samples {
            all[group].remove(at);
            without.push(statistic(all)?);
            all[group].insert(at, at);
        }
        let count = samples as f64;
        let mean = without.iter().sum::<f64>() / count;
        squares += without.iter().map(|v| (mean - v).powi(2)).sum::<f64>() / count.powi(2);
        cubes += without.iter().map(|v| (mean - v).powi(3)).sum::<f64>() / count.powi(3);
    }
    let spread = squares.powf(1.5);
    Some(if spread > 0.0 { cubes / (6.0 * spread) } else { 0.0 })
}

/// The share of a standard normal distribution below `deviate`.
fn cumulative(deviate: f64) -> f64 {
    0.5 * erfc(-deviate / std::f64::consts::SQRT_2)
}

/// The inverse of `cumulative`.
fn deviate(mass: f64) -> f64 {
    -std::f64::consts::SQRT_2 * erfc_inv(2.0 * mass)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::uniform;

    /// Sum of twelve uniforms less six: near enough to normal.
    fn normal(rng: &mut Pcg64Mcg) -> f64 {
        (0..12).map(|_| uniform(rng)).sum::<f64>() - 6.0
    }

    #[test]
    fn normal_deviates() {
        for (mass, expected) in [(0.5, 0.0), (0.975, 1.959_964), (0.025, -1.959_964)] {
            assert!((deviate(mass) - expected).abs() < 1e-5);
            assert!((cumulative(expected) - mass).abs() < 1e-6);
        }
    }

    /// How many of 100 intervals have the true ratio in them, where both share a drift that the ratio cancels.
    fn covered(rounds: usize, skew: bool) -> usize {
        let truth = 1.2;
        let inside = (0..100).filter(|seed| {
            let mut rng = Pcg64Mcg::seed_from_u64(*seed);
            let pairs: Vec<(f64, f64)> = (0..rounds)
                .map(|round| {
                    let drift = 100.0 * (1.0 + round as f64);
                    let noise = if skew {
                        // Mean 0, with a long tail upwards.
                        -(1.0 - uniform(&mut rng)).ln() - 1.0
                    } else {
                        normal(&mut rng)
                    };
                    (drift, drift * truth * (0.05 * noise).exp())
                })
                .collect();
            let estimate = ratios(&pairs, *seed).unwrap();
            assert!(estimate.low <= estimate.value && estimate.value <= estimate.high);
            !estimate.excludes(truth)
        });
        inside.count()
    }

    #[test]
    fn intervals_have_the_truth_in_them_as_often_as_they_say() {
        for (rounds, skew) in [(20, false), (20, true)] {
            let covered = covered(rounds, skew);
            assert!((86..=100).contains(&covered), "{rounds} {skew}: {covered} of 100");
        }
    }

    #[test]
    fn two_groups_vary_by_themselves() {
        let inside = (0..100).filter(|seed| {
            let mut rng = Pcg64Mcg::seed_from_u64(1000 + *seed);
            let mut group = |mean: f64, count: usize| -> Vec<f64> {
                (0..count).map(|_| mean + normal(&mut rng)).collect()
            };
            let (a, b) = (group(20.0, 15), group(30.0, 40));
            let mean = |values: &[f64], drawn: &[usize]| {
                drawn.iter().map(|at| values[*at]).sum::<f64>() / drawn.len() as f64
            };
            let ratio = |drawn: &[Vec<usize>]| Some(mean(&b, &drawn[1]) / mean(&a, &drawn[0]));
            let estimate = interval(&[15, 40], *seed, ratio).unwrap();
            assert!(estimate.high - estimate.low < 0.2, "{estimate:?}");
            !estimate.excludes(1.5)
        });
        let inside = inside.count();
        assert!((87..=100).contains(&inside), "{inside} of 100");
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        assert_eq!(ratios(&[], 1), None);
        assert_eq!(ratios(&[(1.0, 2.0)], 1), None);
        assert_eq!(ratios(&[(1.0, 2.0), (0.0, 2.0)], 1), None);
        assert_eq!(ratios(&[(1.0, 2.0), (1.0, 0.0)], 1), None);
        let same = ratios(&[(3.0, 6.0); 5], 1).unwrap();
        assert!((same.value - 2.0).abs() < 1e-12 && !same.excludes(same.value));
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let pairs = [(10.0, 11.0), (12.0, 11.5), (9.0, 10.4), (10.5, 12.0)];
        assert_eq!(ratios(&pairs, 7), ratios(&pairs, 7));
    }

    #[test]
    fn draws_are_even() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[below(7, &mut rng)] += 1;
        }
        assert!(counts.iter().all(|n| (9600..10_400).contains(n)), "{counts:?}");
    }
}
