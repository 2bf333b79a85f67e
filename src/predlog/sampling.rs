//! Which requests are logged, and how likely that was: decided, purely, by a hash of the request's id.

use std::time::Duration;

use super::options::Sampling;

/// What is known of a request once it has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub failed: bool,
    pub took: Duration,
    /// The largest share of those of its classes that have one.
    pub class_share: Option<f64>,
    /// The least sure of its rows.
    pub least_score: Option<f64>,
}

/// A number from 0 to below 1 that only the id decides: FNV-1a, mixed. Equal ids are logged together, on every server and by
/// every version.
pub fn place(request_id: &str) -> f64 {
    let hash = request_id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed ^ (mixed >> 33)) >> 11) as f64 / (1u64 << 53) as f64
}

/// How likely it is that a request like this one is logged.
pub fn probability(sampling: &Sampling, seen: Seen) -> f64 {
    let slow = sampling.slow_ms > 0 && seen.took >= Duration::from_millis(sampling.slow_ms);
    let unsure = seen.least_score.is_some_and(|score| score < sampling.unsure_below);
    if (sampling.errors && seen.failed) || slow || unsure {
        return 1.0;
    }
    seen.class_share.unwrap_or(sampling.rate)
}

/// The largest probability that any request has: above it, nothing need be kept of it at all.
pub fn most(sampling: &Sampling) -> f64 {
    if sampling.errors || sampling.slow_ms > 0 || sampling.unsure_below > 0.0 {
        return 1.0;
    }
    sampling.per_class.values().fold(sampling.rate, |most, share| most.max(*share))
}

/// Whether the answer decides with the rate.
pub fn looks_at_answers(sampling: &Sampling) -> bool {
    !sampling.per_class.is_empty() || sampling.unsure_below > 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_spread_evenly_and_stay_where_they_are() {
        let ids = (0..100_000).map(|n| format!("request-{n}"));
        let below = ids.filter(|id| place(id) < 0.1).count();
        // Five standard deviations of what chance would do.
        assert!((9500..10_500).contains(&below), "{below}");
        assert_eq!(place("a"), place("a"));
        assert_ne!(place("a"), place("b"));
    }

    #[test]
    fn head_and_tail_are_certain() {
        let per_class = [("rare".to_owned(), 0.5)].into();
        let sampling =
            Sampling { rate: 0.01, per_class, errors: true, slow_ms: 10, unsure_below: 0.6 };
        let p = |seen| probability(&sampling, seen);
        assert_eq!(p(Seen::default()), 0.01);
        assert_eq!(p(Seen { class_share: Some(0.5), ..Seen::default() }), 0.5);
        assert_eq!(p(Seen { failed: true, ..Seen::default() }), 1.0);
        assert_eq!(p(Seen { took: Duration::from_millis(10), ..Seen::default() }), 1.0);
        assert_eq!(p(Seen { least_score: Some(0.59), ..Seen::default() }), 1.0);
        assert_eq!(p(Seen { least_score: Some(0.6), ..Seen::default() }), 0.01);
    }

    proptest! {
        #[test]
        fn nobody_is_likelier_than_the_most(
            rate in 0.0f64..=1.0, share in 0.0f64..=1.0, errors: bool, slow in 0u64..3, took in 0u64..5, failed: bool,
        ) {
            let per_class = [("c".to_owned(), share)].into();
            let sampling = Sampling { rate, per_class, errors, slow_ms: slow, unsure_below: 0.0 };
            let seen = Seen { failed, took: Duration::from_millis(took), class_share: Some(share), least_score: None };
            prop_assert!(probability(&sampling, seen) <= most(&sampling));
        }
    }
}
