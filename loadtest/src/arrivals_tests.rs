//! Whether moments come as promised: Kolmogorov-Smirnov tests on the random ones, exact values on the others.

use proptest::prelude::*;

use super::*;

fn until(seconds: f64) -> Until {
    Until { duration: Some(Duration::from_secs_f64(seconds)), requests: None }
}

fn first(requests: u64) -> Until {
    Until { duration: None, requests: Some(requests) }
}

fn moments(arrivals: &Arrivals, until: Until, seed: u64) -> Vec<u64> {
    Schedule::new(arrivals, &until, seed).collect()
}

/// The greatest distance between the distribution of `values` and the one whose cumulative function is `cdf`, times the
/// square root of their number. Exceeds 1.358 once in 20 times, 1.949 once in 1,000, where the values are from it.
fn kolmogorov(mut values: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let distance = values.iter().enumerate().map(|(at, value)| {
        let expected = cdf(*value);
        (expected - at as f64 / n).max((at + 1) as f64 / n - expected)
    });
    distance.fold(0.0, f64::max) * n.sqrt()
}

/// Seeds whose moments fail the test at the 5% level; of `seeds`, about a twentieth should.
fn failing(seeds: u64, statistic: impl Fn(u64) -> f64) -> u64 {
    let failing = (0..seeds).filter(|seed| {
        let statistic = statistic(*seed);
        assert!(statistic < 2.4, "seed {seed}: {statistic}, which happens once in 50,000 times");
        statistic > 1.358
    });
    failing.count() as u64
}

fn gaps(moments: &[u64]) -> Vec<f64> {
    let mut last = 0;
    moments.iter().map(|at| (*at - std::mem::replace(&mut last, *at)) as f64 / 1e9).collect()
}

#[test]
fn poisson_gaps_are_exponential() {
    let rate = 730.0;
    let failing = failing(200, |seed| {
        let moments = moments(&Arrivals::Poisson { rate }, first(5000), seed);
        kolmogorov(gaps(&moments), |gap| 1.0 - (-rate * gap).exp())
    });
    // Binomial(200, 0.05): outside of this once in 1,000 times.
    assert!((2..=21).contains(&failing), "{failing} of 200");
}

#[test]
fn the_test_itself_can_fail() {
    let even = moments(&Arrivals::Constant { rate: 100.0 }, first(5000), 0);
    assert!(kolmogorov(gaps(&even), |gap| 1.0 - (-100.0 * gap).exp()) > 10.0);
    let slower = moments(&Arrivals::Poisson { rate: 90.0 }, first(5000), 0);
    assert!(kolmogorov(gaps(&slower), |gap| 1.0 - (-100.0 * gap).exp()) > 2.4);
}

#[test]
fn poisson_gaps_do_not_depend_on_each_other() {
    let moments = moments(&Arrivals::Poisson { rate: 50.0 }, first(100_000), 3);
    let gaps = gaps(&moments);
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let along = |lag: usize| {
        let pairs = gaps.iter().zip(&gaps[lag..]).map(|(a, b)| (a - mean) * (b - mean));
        pairs.sum::<f64>() / gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>()
    };
    for lag in 1..20 {
        // Standard deviation 1 / sqrt(100,000).
        assert!(along(lag).abs() < 4.0 / 316.0, "lag {lag}: {}", along(lag));
    }
}

/// Moments of a Poisson process, each mapped to how many were expected by then, are a process of rate 1.
fn stretched(arrivals: &Arrivals, seconds: f64, expected: impl Fn(f64) -> f64, seed: u64) -> f64 {
    let mut last = 0.0;
    let moments = moments(arrivals, until(seconds), seed);
    let gap = |at: &u64| {
        let mass = expected(*at as f64 / 1e9);
        mass - std::mem::replace(&mut last, mass)
    };
    kolmogorov(moments.iter().map(gap).collect(), |gap| 1.0 - (-gap).exp())
}

#[test]
fn a_ramp_is_poisson_at_each_moment_rate() {
    for (from, to) in [(100.0, 900.0), (900.0, 100.0), (0.0, 500.0), (500.0, 0.0), (400.0, 400.0)] {
        let ramp = Arrivals::Ramp { from, to, poisson: true };
        let expected = |t: f64| from * t + (to - from) * t * t / 20.0;
        let failing = failing(100, |seed| stretched(&ramp, 10.0, expected, seed));
        assert!(failing <= 13, "{from} to {to}: {failing} of 100");
    }
}

#[test]
fn a_ramp_is_not_a_steady_stream() {
    let ramp = Arrivals::Ramp { from: 100.0, to: 900.0, poisson: true };
    assert!(stretched(&ramp, 10.0, |t| 500.0 * t, 1) > 2.4);
}

#[test]
fn steps_are_poisson_at_each_rate() {
    let rates = vec![200.0, 0.0, 600.0];
    let steps = Arrivals::Steps { rates, hold: Duration::from_secs(3), poisson: true };
    let expected = |t: f64| match t {
        ..3.0 => 200.0 * t,
        3.0..6.0 => 600.0,
        _ => 600.0 + 600.0 * (t - 6.0),
    };
    let failing = failing(100, |seed| stretched(&steps, 9.0, expected, seed));
    assert!(failing <= 13, "{failing} of 100");
    for at in moments(&steps, until(9.0), 5) {
        assert!(!(3_000_000_000..6_000_000_000).contains(&at), "{at} is in the pause");
    }
}

#[test]
fn even_arrivals_are_where_they_must_be() {
    let constant = Arrivals::Constant { rate: 3.0 };
    assert_eq!(moments(&constant, until(1.1), 9), [0, 333_333_333, 666_666_667, 1_000_000_000]);
    let ramp = Arrivals::Ramp { from: 0.0, to: 10.0, poisson: false };
    // t² / 2 of them by t: the n-th at sqrt(2 n).
    assert_eq!(
        moments(&ramp, Until { requests: Some(4), ..until(10.0) }, 9),
        [0, 1_414_213_562, 2_000_000_000, 2_449_489_743]
    );
    let steps =
        Arrivals::Steps { rates: vec![2.0, 4.0], hold: Duration::from_secs(1), poisson: false };
    let half = 500_000_000;
    assert_eq!(
        moments(&steps, until(2.0), 9),
        [0, half, 2 * half, 1_250_000_000, 3 * half, 1_750_000_000]
    );
}

#[test]
fn bursts_traces_and_callers() {
    let bursts = Arrivals::Bursts { size: 3, every: Duration::from_millis(10) };
    assert_eq!(
        moments(&bursts, first(7), 0),
        [0, 0, 0, 10_000_000, 10_000_000, 10_000_000, 20_000_000]
    );
    let at: Vec<Duration> = [0, 5, 5, 40].into_iter().map(Duration::from_micros).collect();
    let trace = Arrivals::Trace { at: at.into() };
    let forever = Until { duration: None, requests: None };
    assert_eq!(moments(&trace, forever, 0), [0, 5000, 5000, 40_000]);
    assert_eq!(moments(&trace, until(0.000_04), 0), [0, 5000, 5000]);
    let closed = Arrivals::Closed { callers: 4, think: Duration::ZERO };
    assert_eq!(moments(&closed, until(1.0), 0), [0; 4]);
}

#[test]
fn a_day_at_full_rate_keeps_its_nanoseconds() {
    let mut schedule = Schedule::new(&Arrivals::Constant { rate: 1000.0 }, &until(86_400.0), 0);
    assert_eq!(schedule.by_ref().take(86_399_999).last(), Some(86_399_998_000_000));
    assert_eq!(schedule.collect::<Vec<_>>(), [86_399_999_000_000]);
}

fn any_arrivals() -> impl Strategy<Value = (Arrivals, f64)> {
    let rate = 0.5f64..2000.0;
    let seconds = 4.0;
    prop_oneof![
        rate.clone().prop_map(move |rate| (Arrivals::Poisson { rate }, rate * seconds)),
        rate.clone().prop_map(move |rate| (Arrivals::Constant { rate }, rate * seconds)),
        (0.0f64..2000.0, 0.5f64..2000.0, any::<bool>()).prop_map(move |(from, to, poisson)| {
            (Arrivals::Ramp { from, to, poisson }, (from + to) / 2.0 * seconds)
        }),
        (proptest::collection::vec(0.0f64..2000.0, 4), any::<bool>()).prop_map(
            |(rates, poisson)| {
                let expected = rates.iter().sum();
                (Arrivals::Steps { rates, hold: Duration::from_secs(1), poisson }, expected)
            }
        ),
    ]
}

proptest! {
    #[test]
    fn time_goes_on_and_the_count_is_the_rates((arrivals, expected) in any_arrivals(), seed: u64) {
        let moments = moments(&arrivals, until(4.0), seed);
        prop_assert!(moments.is_sorted());
        prop_assert!(moments.last().is_none_or(|at| *at < 4_000_000_000));
        let random = matches!(
            arrivals,
            Arrivals::Poisson { .. } | Arrivals::Ramp { poisson: true, .. } | Arrivals::Steps { poisson: true, .. }
        );
        // Six standard deviations, with room for the discreteness of small counts; even spacing has none.
        let room = if random { 6.0 * expected.sqrt() + 6.0 } else { 1.001 };
        prop_assert!((moments.len() as f64 - expected).abs() <= room, "{} for {expected}", moments.len());
    }

    #[test]
    fn the_same_seed_is_the_same_load((arrivals, _) in any_arrivals(), seed: u64, n in 0u64..50) {
        let limit = Until { requests: Some(n), ..until(4.0) };
        let once = moments(&arrivals, limit, seed);
        prop_assert!(once.len() as u64 <= n);
        prop_assert_eq!(&once, &moments(&arrivals, limit, seed));
        // A limit only cuts: what comes before it does not depend on it.
        prop_assert!(moments(&arrivals, until(4.0), seed).starts_with(&once));
    }
}
