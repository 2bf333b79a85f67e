//! Tests of the planner: examples, and properties over stores that change as they like.

use proptest::{collection::btree_map, prelude::*};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn object(key: &str, tag: u64) -> Object {
    let (key, tag) = (key.to_owned(), tag.to_string());
    Object { key, bytes: Some(10), etag: Some(tag.clone()), tag, sha256: None }
}

/// A store's content: the tag of each key.
type Store = BTreeMap<String, u64>;

fn store(keys: &[(&str, u64)]) -> Store {
    keys.iter().map(|(key, tag)| (key.to_string(), *tag)).collect()
}

fn listed(store: &Store) -> Listed {
    Listed::of(store.iter().map(|(key, tag)| object(key, *tag)).collect(), "m").unwrap()
}

/// Does what a plan says, as a mirror does.
fn apply(plan: &Plan, mirror: &mut Mirrored) {
    for job in &plan.jobs {
        let model = mirror.entry(job.model().to_owned()).or_default();
        let mut take = |version: &Version| {
            let mark = Mark { print: version.print.clone(), bytes: bytes(&version.objects) };
            let before = model.versions.insert(version.number, mark);
            assert_eq!(before.is_some(), version.replaces);
        };
        match job {
            Job::Model { files, versions, .. } => {
                versions.iter().for_each(take);
                model.files = files.iter().map(|(p, o)| (p.clone(), o.tag.clone())).collect();
            }
            Job::Version { version, .. } => take(version),
            Job::File { path, object, .. } => {
                drop(model.files.insert(path.clone(), object.tag.clone()));
            }
        }
    }
    for surplus in &plan.surplus {
        match surplus {
            Surplus::Model(name) => assert!(mirror.remove(name).is_some()),
            Surplus::Version(name, number) => {
                assert!(mirror.get_mut(name).unwrap().versions.remove(number).is_some());
            }
            Surplus::File(name, path) => {
                assert!(mirror.get_mut(name).unwrap().files.remove(path).is_some());
            }
        }
    }
}

fn numbers(mirror: &Mirrored, model: &str) -> Vec<u64> {
    mirror.get(model).map(|m| m.versions.keys().copied().collect()).unwrap_or_default()
}

#[test]
fn what_is_there_at_the_start_is_complete_and_what_comes_later_settles() {
    let (mut planner, mut mirror) = (Planner::new(SECOND * 2, u64::MAX, 0), Mirrored::new());
    let mut now = store(&[("a/1/model.onnx", 1), ("a/model.yaml", 1)]);
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, false);
    assert!(matches!(&plan.jobs[..], [Job::Model { .. }]), "{plan:?}");
    apply(&plan, &mut mirror);
    now.insert("a/2/model.onnx".into(), 1);
    assert_eq!(planner.plan(&listed(&now), &mirror, SECOND, false), Plan::default());
    assert_eq!(planner.next(), Some(SECOND * 3));
    // Still on its way.
    now.insert("a/2/weights.bin".into(), 1);
    assert_eq!(planner.plan(&listed(&now), &mirror, SECOND * 3, false), Plan::default());
    let plan = planner.plan(&listed(&now), &mirror, SECOND * 5, false);
    apply(&plan, &mut mirror);
    assert_eq!((numbers(&mirror, "a"), planner.next()), (vec![1, 2], None));
    // A manifest says so at once, and so does somebody who asks.
    now.extend(store(&[("a/3/model.onnx", 1), ("a/3/SHA256SUMS", 1)]));
    apply(&planner.plan(&listed(&now), &mirror, SECOND * 5, false), &mut mirror);
    assert_eq!(numbers(&mirror, "a"), [1, 2, 3]);
    now.insert("a/4/model.onnx".into(), 1);
    apply(&planner.plan(&listed(&now), &mirror, SECOND * 5, true), &mut mirror);
    assert_eq!(numbers(&mirror, "a"), [1, 2, 3, 4]);
}

#[test]
fn what_is_gone_from_the_store_goes_and_options_are_taken_up() {
    let (mut planner, mut mirror) = (Planner::new(SECOND, u64::MAX, 0), Mirrored::new());
    let keys = [("a/1/model.onnx", 1), ("a/2/model.onnx", 1), ("a/model.yaml", 1), ("b/1/x", 1)];
    let mut now = store(&keys);
    apply(&planner.plan(&listed(&now), &mirror, Duration::ZERO, false), &mut mirror);
    now.remove("a/1/model.onnx");
    now.remove("b/1/x");
    now.insert("a/model.yaml".into(), 2);
    now.insert("a/samples/x.json".into(), 1);
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, false);
    let paths: Vec<&str> = plan
        .jobs
        .iter()
        .map(|job| if let Job::File { path, .. } = job { path } else { "" })
        .collect();
    assert_eq!(paths, ["model.yaml", "samples/x.json"]);
    assert_eq!(plan.surplus, [Surplus::Version("a".into(), 1), Surplus::Model("b".into())]);
    apply(&plan, &mut mirror);
    now.remove("a/samples/x.json");
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, false);
    assert_eq!(plan.surplus, [Surplus::File("a".into(), "samples/x.json".into())]);
    apply(&plan, &mut mirror);
    // Its options alone are no model.
    now.remove("a/2/model.onnx");
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, false);
    assert_eq!(plan.surplus, [Surplus::Model("a".into())]);
}

#[test]
fn wrong_content_is_not_read_again_until_it_changes() {
    let (mut planner, mut mirror) = (Planner::new(SECOND, u64::MAX, 0), Mirrored::new());
    let mut now = store(&[("a/1/model.onnx", 1)]);
    apply(&planner.plan(&listed(&now), &mirror, Duration::ZERO, false), &mut mirror);
    now.insert("a/1/model.onnx".into(), 2);
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, true);
    let [Job::Version { version, .. }] = &plan.jobs[..] else { panic!("{plan:?}") };
    planner.wrong("a", 1, &version.print, "it is not whole");
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, true);
    assert_eq!(plan.refused, [("a".into(), 1, "it is not whole".into())]);
    assert!(plan.jobs.is_empty() && plan.surplus.is_empty(), "{plan:?}");
    now.insert("a/1/model.onnx".into(), 3);
    assert_eq!(planner.plan(&listed(&now), &mirror, Duration::ZERO, true).jobs.len(), 1);
}

#[test]
fn the_newest_have_the_room() {
    let keys: Vec<String> =
        (1..=3).flat_map(|n| ["a", "b"].map(|m| format!("{m}/{n}/model.onnx"))).collect();
    let now: Store = keys.into_iter().map(|key| (key, 1)).collect();
    let mut mirror = Mirrored::new();
    let mut planner = Planner::new(SECOND, 35, 2);
    let plan = planner.plan(&listed(&now), &mirror, Duration::ZERO, false);
    assert_eq!(plan.refused.len(), 1);
    assert_eq!((&*plan.refused[0].0, plan.refused[0].1), ("b", 2), "{plan:?}");
    apply(&plan, &mut mirror);
    assert_eq!((numbers(&mirror, "a"), numbers(&mirror, "b")), (vec![2, 3], vec![3]));
    // A larger replacement that has no room leaves what is there.
    let mut large = listed(&now);
    let model = large.models.get_mut("b").unwrap();
    let object = model.versions.get_mut(&3).unwrap().get_mut("model.onnx").unwrap();
    (object.bytes, object.tag) = (Some(50), "2".into());
    let plan = planner.plan(&large, &mirror, Duration::ZERO, true);
    assert!(plan.jobs.is_empty() && plan.surplus.is_empty(), "{plan:?}");
    assert_eq!(plan.refused.iter().filter(|(m, n, _)| (&**m, *n) == ("b", 3)).count(), 1);
}

fn any_store() -> impl Strategy<Value = Store> {
    btree_map(
        "[ab]/([1-3]/(model\\.onnx|weights|SHA256SUMS)|model\\.yaml|samples/s)",
        0u64..3,
        0..12,
    )
}

proptest! {
    /// Whatever a store held and holds: once it stays as it is, the mirror has its versions and nothing else, and then there
    /// is nothing to do; what is read is what differs, and nothing that is listed is taken away.
    #[test]
    fn the_mirror_becomes_what_the_store_is(stores in prop::collection::vec(any_store(), 1..6)) {
        let (mut planner, mut mirror) = (Planner::new(SECOND, u64::MAX, 0), Mirrored::new());
        let last = stores.last().cloned().unwrap();
        let steady = [&last, &last, &last];
        for (at, now) in stores.iter().chain(steady).enumerate() {
            let listed = listed(now);
            let plan = planner.plan(&listed, &mirror, SECOND * at as u32, false);
            for surplus in &plan.surplus {
                let model = listed.models.get(surplus.model());
                let gone = match surplus {
                    Surplus::Model(_) => model.is_none_or(|m| m.versions.is_empty()),
                    Surplus::Version(_, n) => model.is_some_and(|m| !m.versions.contains_key(n)),
                    Surplus::File(_, path) => model.is_some_and(|m| !m.files.contains_key(path)),
                };
                prop_assert!(gone);
            }
            for job in &plan.jobs {
                if let Job::Version { model, version } = job {
                    let mark = mirror[model].versions.get(&version.number);
                    prop_assert!(mark.is_none_or(|mark| mark.print != version.print));
                }
            }
            apply(&plan, &mut mirror);
        }
        let wanted: Mirrored = listed(&last).models.into_iter()
            .filter(|(_, model)| !model.versions.is_empty())
            .map(|(name, model)| {
                let mark = |o: &BTreeMap<String, Object>| Mark { print: print(o), bytes: bytes(o) };
                let versions = model.versions.iter().map(|(n, o)| (*n, mark(o))).collect();
                let files = model.files.iter().map(|(p, o)| (p.clone(), o.tag.clone())).collect();
                (name, MirroredModel { versions, files })
            })
            .collect();
        prop_assert_eq!(&mirror, &wanted);
        let plan = planner.plan(&listed(&last), &mirror, SECOND * 100, false);
        prop_assert_eq!(plan, Plan::default());
    }

    /// A version without a manifest is read only as it has been listed for the settle time.
    #[test]
    fn what_is_read_has_settled(steps in prop::collection::vec((0u64..4, 0u64..3), 1..30)) {
        let (mut planner, mut mirror) = (Planner::new(SECOND * 2, u64::MAX, 0), Mirrored::new());
        planner.plan(&Listed::default(), &mirror, Duration::ZERO, false);
        let (mut now, mut history) = (0u64, Vec::<(u64, u64)>::new());
        for (tag, later) in steps {
            now += later;
            history.push((now, tag));
            let store = if tag == 0 { Store::new() } else { store(&[("a/1/model.onnx", tag)]) };
            let plan = planner.plan(&listed(&store), &mirror, SECOND * now as u32, false);
            if !plan.jobs.is_empty() {
                let same = history.iter().rev().take_while(|(_, other)| *other == tag);
                let since = same.last().map_or(now, |(at, _)| *at);
                prop_assert!(now - since >= 2, "read at {now}, the same since {since}");
            }
            apply(&plan, &mut mirror);
        }
    }

    /// The mirror never has more than it may, and never more versions of a model than asked for.
    #[test]
    fn bounds_hold(stores in prop::collection::vec(any_store(), 1..5), most in 0u64..80, newest in 1usize..3) {
        let (mut planner, mut mirror) = (Planner::new(Duration::ZERO, most, newest), Mirrored::new());
        for (at, now) in stores.iter().enumerate() {
            let plan = planner.plan(&listed(now), &mirror, SECOND * at as u32, false);
            apply(&plan, &mut mirror);
            let versions = || mirror.values().flat_map(|model| model.versions.values());
            prop_assert!(versions().map(|mark| mark.bytes).sum::<u64>() <= most);
            prop_assert!(mirror.values().all(|model| model.versions.len() <= newest));
        }
    }
}

#[test]
fn where_only_rules_are_followed_nothing_else_comes_or_goes() {
    let mut planner = Planner::new(Duration::ZERO, u64::MAX, 0);
    let mut mirror = Mirrored::new();
    let first = store(&[("a/1/model.onnx", 1), ("a/traffic.yaml", 1), ("b/1/model.onnx", 1)]);
    apply(&planner.plan(&listed(&first), &mirror, Duration::ZERO, true), &mut mirror);
    let next = store(&[
        ("a/1/model.onnx", 2),
        ("a/2/model.onnx", 1),
        ("a/model.yaml", 1),
        ("a/traffic.yaml", 2),
        ("c/1/model.onnx", 1),
        ("c/traffic.yaml", 1),
    ]);
    let mut plan = planner.plan(&listed(&next), &mirror, SECOND, true);
    plan.keep_rules();
    assert!(plan.surplus.is_empty(), "{plan:?}");
    let [Job::File { model, path, object }] = &plan.jobs[..] else { panic!("{plan:?}") };
    assert_eq!((&**model, &**path, &*object.tag), ("a", "traffic.yaml", "2"));
    apply(&plan, &mut mirror);
    let mut plan = planner.plan(&listed(&store(&[("a/1/model.onnx", 1)])), &mirror, SECOND, true);
    plan.keep_rules();
    assert_eq!(plan.surplus, [Surplus::File("a".into(), "traffic.yaml".into())]);
}
