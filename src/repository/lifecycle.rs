//! What to do next about one model's versions: what is wanted, what is on disk and how each stands give the actions.

use std::collections::{BTreeMap, BTreeSet};

use super::options::Versions;

/// How a version stands. One that nothing was done about yet has no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Loading,
    Ready,
    /// Stays so until whoever keeps the standings forgets it (because its files changed): nothing is tried twice.
    Failed,
}

/// A step towards what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Load(u64),
    Unload(u64),
}

pub type Standings = BTreeMap<u64, Standing>;

/// What is wanted of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// By the model's options, or by calls.
    pub versions: Versions,
    /// The version that answers a request which names none, where that is decided; what else serves is for others.
    pub primary: Option<u64>,
    /// Versions that traffic is meant for, the primary among them.
    pub named: BTreeSet<u64>,
}

impl From<Versions> for Want {
    fn from(versions: Versions) -> Want {
        Want { versions, primary: None, named: BTreeSet::new() }
    }
}

/// The versions to have, of those on disk, newest first: what failed counts as not there, so that the version before
/// a broken one moves up. Where a primary is named that cannot serve, that is the one before it.
pub fn wanted(want: &Want, on_disk: &BTreeSet<u64>, actual: &Standings) -> Vec<u64> {
    let can = |number: &u64| actual.get(number) != Some(&Standing::Failed);
    let newest_first = || on_disk.iter().rev().copied().filter(can);
    let mut wanted: BTreeSet<u64> = match &want.versions {
        Versions::Latest(count) => newest_first().take(*count).collect(),
        Versions::All => newest_first().collect(),
        Versions::Only(listed) => newest_first().filter(|n| listed.contains(n)).collect(),
    };
    wanted.extend(newest_first().filter(|n| want.named.contains(n)));
    if let Some(primary) = want.primary {
        wanted.extend(newest_first().find(|n| *n <= primary));
    }
    wanted.into_iter().rev().collect()
}

/// The next actions. Applied until there are none, they lead to every wanted version being ready; a version that
/// serves goes only once its successors do.
pub fn next(want: &Want, on_disk: &BTreeSet<u64>, actual: &Standings) -> Vec<Action> {
    let wanted = wanted(want, on_disk, actual);
    let ready = |n: &u64| actual.get(n) == Some(&Standing::Ready);
    let mut actions: Vec<Action> =
        wanted.iter().filter(|n| !actual.contains_key(n)).map(|n| Action::Load(*n)).collect();
    // With nothing on disk the model was taken away, which is meant. With only broken versions there, what still
    // serves is all there is.
    let replaced = !wanted.is_empty() && wanted.iter().all(ready);
    if replaced || on_disk.is_empty() {
        let gone = actual.keys().filter(|n| ready(n) && !wanted.contains(n));
        actions.extend(gone.map(|n| Action::Unload(*n)));
    }
    actions
}

/// Whether everything that can be tried has been: nothing to do, nothing under way.
pub fn settled(want: &Want, on_disk: &BTreeSet<u64>, actual: &Standings) -> bool {
    !actual.values().any(|s| *s == Standing::Loading) && next(want, on_disk, actual).is_empty()
}

/// The version that answers a request which names none: the primary; where that does not serve, or none is named, the newest
/// that is ready, with the primary's predecessors before its successors.
pub fn current(want: &Want, actual: &Standings) -> Option<u64> {
    let ready =
        |(number, standing): (&u64, &Standing)| (*standing == Standing::Ready).then_some(*number);
    let before = |primary| actual.range(..=primary).rev().find_map(ready);
    want.primary.and_then(before).or_else(|| actual.iter().rev().find_map(ready))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn disk(numbers: &[u64]) -> BTreeSet<u64> {
        numbers.iter().copied().collect()
    }

    /// Applies actions until none are left; versions in `broken` fail. `pick` decides which of several loads under
    /// way ends first. Returns how often each version was tried.
    fn run(
        want: &Want,
        on_disk: &BTreeSet<u64>,
        broken: &BTreeSet<u64>,
        actual: &mut Standings,
        mut pick: u64,
    ) -> Result<BTreeMap<u64, u32>, TestCaseError> {
        let mut tries = BTreeMap::new();
        let serving = |a: &Standings| a.values().filter(|s| **s == Standing::Ready).count();
        let served_before = serving(actual) > 0;
        for _ in 0..1000 {
            for action in next(want, on_disk, actual) {
                match action {
                    Action::Load(n) => {
                        prop_assert!(on_disk.contains(&n));
                        *tries.entry(n).or_insert(0) += 1;
                        prop_assert!(actual.insert(n, Standing::Loading).is_none());
                    }
                    Action::Unload(n) => {
                        prop_assert_eq!(actual.remove(&n), Some(Standing::Ready));
                    }
                }
                prop_assert!(
                    !served_before || on_disk.is_empty() || serving(actual) > 0,
                    "the last version that served went"
                );
            }
            let loading: Vec<u64> =
                actual.iter().filter(|(_, s)| **s == Standing::Loading).map(|(n, _)| *n).collect();
            if loading.is_empty() {
                prop_assert!(settled(want, on_disk, actual));
                return Ok(tries);
            }
            prop_assert!(!settled(want, on_disk, actual));
            pick = pick.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let n = loading[(pick >> 33) as usize % loading.len()];
            let end = if broken.contains(&n) { Standing::Failed } else { Standing::Ready };
            actual.insert(n, end);
        }
        Err(TestCaseError::fail("it never settles"))
    }

    fn policies() -> impl Strategy<Value = Versions> {
        prop_oneof![
            (1usize..4).prop_map(Versions::Latest),
            Just(Versions::All),
            btree_set(1u64..9, 1..4).prop_map(|l| Versions::Only(l.into_iter().collect())),
        ]
    }

    proptest! {
        #[test]
        fn what_can_serve_comes_to_serve(
            policy in policies(),
            on_disk in btree_set(1u64..9, 0..7),
            broken in btree_set(1u64..9, 0..5),
            pick in any::<u64>(),
        ) {
            let mut actual = Standings::new();
            let tries = run(&policy.clone().into(), &on_disk, &broken, &mut actual, pick)?;
            prop_assert!(tries.values().all(|t| *t == 1), "tried twice: {tries:?}");
            // The oracle: the policy over what works.
            let good: Vec<u64> =
                on_disk.iter().rev().filter(|n| !broken.contains(n)).copied().collect();
            let expected: BTreeSet<u64> = match &policy {
                Versions::Latest(n) => good.into_iter().take(*n).collect(),
                Versions::All => good.into_iter().collect(),
                Versions::Only(l) => good.into_iter().filter(|n| l.contains(n)).collect(),
            };
            let ready: BTreeSet<u64> =
                actual.iter().filter(|(_, s)| **s == Standing::Ready).map(|(n, _)| *n).collect();
            prop_assert_eq!(&ready, &expected);
            prop_assert_eq!(current(&policy.into(), &actual), expected.last().copied());
        }

        #[test]
        fn a_change_never_takes_the_last_version_that_serves(
            first in policies(),
            then in policies(),
            before in btree_set(1u64..9, 1..7),
            after in btree_set(1u64..9, 0..7),
            broken in btree_set(1u64..9, 0..5),
            pick in any::<u64>(),
        ) {
            let mut actual = Standings::new();
            run(&first.into(), &before, &broken, &mut actual, pick)?;
            let wish = Want::from(then);
            let failed: BTreeSet<u64> =
                actual.iter().filter(|(_, s)| **s == Standing::Failed).map(|(n, _)| *n).collect();
            let tries = run(&wish, &after, &broken, &mut actual, pick)?;
            prop_assert!(tries.values().all(|t| *t == 1));
            prop_assert!(tries.keys().all(|n| !failed.contains(n)), "a failed version was tried again");
            if after.is_empty() {
                prop_assert_eq!(current(&wish, &actual), None);
            }
        }

        /// Whatever a rollout wants next: the model is never without a version, what is named comes to serve where it can, and the
        /// primary answers once it does.
        #[test]
        fn traffic_moves_between_versions_that_serve(
            policy in policies(),
            on_disk in btree_set(1u64..9, 1..7),
            broken in btree_set(1u64..9, 0..4),
            primaries in proptest::collection::vec((1u64..9, btree_set(1u64..9, 0..3)), 1..5),
            pick in any::<u64>(),
        ) {
            let mut actual = Standings::new();
            run(&policy.clone().into(), &on_disk, &broken, &mut actual, pick)?;
            for (primary, mut named) in primaries {
                named.insert(primary);
                let want = Want { versions: policy.clone(), primary: Some(primary), named };
                run(&want, &on_disk, &broken, &mut actual, pick)?;
                let good: Vec<u64> = on_disk.difference(&broken).copied().collect();
                for named in want.named.iter().filter(|n| good.contains(n)) {
                    prop_assert_eq!(actual.get(named), Some(&Standing::Ready));
                }
                let answers = current(&want, &actual);
                let before = good.iter().rev().find(|n| **n <= primary).copied();
                match before {
                    Some(version) => prop_assert_eq!(answers, Some(version)),
                    None => prop_assert!(answers.is_none_or(|n| good.contains(&n))),
                }
            }
        }
    }

    #[test]
    fn a_broken_newest_leaves_the_one_before_serving() {
        let (policy, on_disk) = (Want::from(Versions::Latest(1)), disk(&[1, 2, 3]));
        let mut actual = Standings::new();
        assert_eq!(next(&policy, &on_disk, &actual), [Action::Load(3)]);
        actual.insert(3, Standing::Loading);
        assert_eq!(next(&policy, &on_disk, &actual), []);
        actual.insert(3, Standing::Failed);
        assert_eq!(next(&policy, &on_disk, &actual), [Action::Load(2)]);
        actual.insert(2, Standing::Ready);
        assert!(settled(&policy, &on_disk, &actual));
        assert_eq!(current(&policy, &actual), Some(2));
    }

    #[test]
    fn a_successor_serves_before_its_predecessor_goes() {
        let policy = Want::from(Versions::Latest(1));
        let mut actual = Standings::from([(1, Standing::Ready)]);
        assert_eq!(next(&policy, &disk(&[1, 2]), &actual), [Action::Load(2)]);
        actual.insert(2, Standing::Loading);
        assert_eq!(next(&policy, &disk(&[1, 2]), &actual), []);
        actual.insert(2, Standing::Ready);
        assert_eq!(next(&policy, &disk(&[1, 2]), &actual), [Action::Unload(1)]);
        // Replaced on disk by a broken one: the old one serves on.
        let actual = Standings::from([(1, Standing::Ready), (2, Standing::Failed)]);
        assert_eq!(next(&policy, &disk(&[2]), &actual), []);
        // Taken away: omission means unload.
        assert_eq!(next(&policy, &disk(&[]), &actual), [Action::Unload(1)]);
    }
}
