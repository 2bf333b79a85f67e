//! Which way a request of a model with traffic rules goes: by the version it names, the route it forces, its sticky key, or chance.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::{
    repository::routes::{Routes, Way},
    types::{
        buckets::BUCKETS,
        error::Error,
        request::{InferRequest, Parameter},
        traffic::ROUTE,
    },
};

/// The bucket of a key: the same on every replica, and after every restart. Each model deals its users out anew, so that not the same
/// few are always the first to meet what is new.
pub fn bucket(model: &str, key: &[u8]) -> usize {
    let mut hasher = SipHasher13::new_with_keys(0x6f6e_6e78_6420_7472, 0x6166_6669_6320_3031);
    hasher.write(model.as_bytes());
    hasher.write(&[0xff]);
    hasher.write(key);
    below(hasher.finish(), BUCKETS)
}

/// Evenly, for numbers whose every bit is as good as random.
pub fn below(random: u64, limit: usize) -> usize {
    ((u128::from(random) * limit as u128) >> 64) as usize
}

/// The way of a request that names no version. `random`: every bit as good as any.
///
/// # Errors
/// Of a forced route that is none, or does not serve; of a sticky parameter that is no text or number.
pub fn choose<'a>(
    model: &str,
    routes: &'a Routes,
    request: &InferRequest,
    random: u64,
) -> Result<&'a Way, Error> {
    let traffic = &routes.traffic;
    if traffic.force
        && let Some(name) = request.head(ROUTE)
    {
        return routes.named(name);
    }
    let Some(sticky) = &traffic.sticky else { return Ok(routes.of_bucket(below(random, BUCKETS))) };
    let by = match (&sticky.header, &sticky.parameter) {
        (Some(header), _) => request.head(header).map(|key| bucket(model, key.as_bytes())),
        (_, Some(parameter)) => of_parameter(model, parameter, request)?,
        _ => None,
    };
    // Whoever does not say who they are is nobody in particular.
    Ok(routes.of_bucket(by.unwrap_or_else(|| below(random, BUCKETS))))
}

fn of_parameter(model: &str, name: &str, request: &InferRequest) -> Result<Option<usize>, Error> {
    let given = request.parameters.iter().find(|(known, _)| **known == *name);
    let Some((_, value)) = given else { return Ok(None) };
    let key = match value {
        Parameter::String(text) => return Ok(Some(bucket(model, text.as_str().as_bytes()))),
        Parameter::Int64(number) => number.to_string(),
        Parameter::Uint64(number) => number.to_string(),
        Parameter::Bool(_) | Parameter::Double(_) => {
            return Err(Error::invalid(format!(
                "parameter '{name}' decides the request's route: expected a text or a whole number"
            )));
        }
    };
    Ok(Some(bucket(model, key.as_bytes())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::traffic::{Arm, Traffic};

    fn split(weights: &[(&str, u64, f64)]) -> Traffic {
        let arms = weights.iter().map(|(name, version, weight)| Arm {
            name: (*name).into(),
            version: *version,
            weight: *weight,
            buckets: Default::default(),
        });
        let traffic = Traffic { primary: Some(1), arms: arms.collect(), ..Traffic::default() };
        traffic.settled().unwrap()
    }

    /// The arm of every bucket, by name.
    fn lanes(traffic: &Traffic) -> Vec<&str> {
        let mut lanes = vec!["primary"; BUCKETS];
        for arm in &traffic.arms {
            arm.buckets.iter().for_each(|bucket| lanes[usize::from(bucket)] = &arm.name);
        }
        lanes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Users fall to an arm as often as its weight says, within five standard deviations of a binomial.
        #[test]
        fn weights_hold(weight in 0u32..=100, model in "[a-z]{1,8}", seed: u64) {
            let traffic = split(&[("canary", 2, f64::from(weight))]);
            let lanes = lanes(&traffic);
            let users = 20_000u64;
            let own = |user: u64| lanes[bucket(&model, &(seed ^ user).to_le_bytes())] == "canary";
            let count = (0..users).filter(|user| own(*user)).count() as f64;
            let p = f64::from(weight) / 100.0;
            let n = users as f64;
            let bound = 5.0 * (n * p * (1.0 - p)).sqrt() + 1.0;
            prop_assert!((count - n * p).abs() <= bound, "{count} of {n} at {p}");
            // And so does chance.
            let mut random = seed;
            let hits = (0..users).filter(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let mixed = (random ^ (random >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                lanes[below(mixed ^ (mixed >> 32), BUCKETS)] == "canary"
            });
            let hits = hits.count() as f64;
            prop_assert!((hits - n * p).abs() <= bound, "{hits} of {n} at {p}");
        }

        /// A change of one arm's weight moves users between it and the primary alone.
        #[test]
        fn sticky_users_stay(before in 0u32..50, after in 0u32..50, other in 0u32..50) {
            let other = f64::from(other);
            let first = split(&[("canary", 2, f64::from(before)), ("b", 3, other)]);
            let mut changed = first.clone();
            changed.arms[0].weight = f64::from(after);
            let then = changed.settled().unwrap();
            let moved = lanes(&first).iter().zip(lanes(&then)).filter(|(a, b)| **a != *b)
                .map(|(a, b)| {
                    assert!([*a, b].iter().all(|arm| *arm != "b"), "{a} to {b}");
                    assert!((after > before) == (b == "canary"), "{a} to {b}");
                })
                .count();
            prop_assert_eq!(moved as u32, before.abs_diff(after) * 100);
        }
    }

    #[test]
    fn each_model_deals_its_users_out_anew() {
        let same = (0..1000u32).filter(|user| {
            let key = user.to_le_bytes();
            bucket("a", &key) == bucket("b", &key)
        });
        assert!(same.count() < 10);
        // Part of the contract: the same after every restart, on every machine.
        assert_eq!(bucket("wine", b"user-1"), bucket("wine", b"user-1"));
        assert_eq!((below(0, BUCKETS), below(u64::MAX, BUCKETS)), (0, BUCKETS - 1));
    }
}
