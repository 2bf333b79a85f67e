//! Shares add up to the whole, mixes have their weights, callers come back.

use super::*;
use crate::plan::{Address, Phase, Protocol, Shard, Target, Until, Variant};

fn plan(arrivals: Arrivals, until: Until, weights: &[f64]) -> Plan {
    let variant = |(at, weight): (usize, &f64)| Variant {
        name: format!("v{at}"),
        model: "m".to_owned(),
        version: None,
        weight: *weight,
        rows: 1,
        requests: vec![2 * at, 2 * at + 1],
    };
    Plan {
        target: Target {
            protocol: Protocol::Json,
            address: Address::Tcp { host: "localhost".to_owned(), port: 1 },
            tls: None,
            authority: "localhost".to_owned(),
        },
        phases: vec![Phase { name: "only".to_owned(), arrivals, until, warm_up: false }],
        variants: weights.iter().enumerate().map(variant).collect(),
        requests: Vec::new(),
        seed: 7,
        connections: 1,
        streams: 1,
        threads: 1,
        shard: Shard::WHOLE,
        timeout: Duration::from_secs(1),
    }
}

fn until(requests: u64) -> Until {
    Until { duration: None, requests: Some(requests) }
}

fn all(mut arriving: Arriving<'_>) -> Vec<Shot> {
    std::iter::from_fn(|| arriving.take(u64::MAX)).collect()
}

#[test]
fn shares_are_the_whole() {
    let plan = plan(Arrivals::Poisson { rate: 100.0 }, until(1000), &[3.0, 1.0]);
    let whole = all(Arriving::new(&plan, 0, (0, 1), 50));
    let mut shared: Vec<Shot> =
        (0..3).flat_map(|first| all(Arriving::new(&plan, 0, (first, 3), 50))).collect();
    shared.sort_by_key(|shot| shot.due);
    let due = |shots: &[Shot]| shots.iter().map(|s| s.due).collect::<Vec<_>>();
    let kinds = |shots: &[Shot]| shots.iter().map(|s| s.request / 2).collect::<Vec<_>>();
    assert_eq!((due(&whole), kinds(&whole)), (due(&shared), kinds(&shared)));
    assert!(whole[0].due > 50);
    let first = kinds(&whole).iter().filter(|kind| **kind == 0).count();
    assert!((690..810).contains(&first), "{first}");
    // Both of a variant's requests, in turn.
    let even = whole.iter().filter(|shot| shot.request == 0).count();
    assert!(first.abs_diff(2 * even) <= 1);
}

#[test]
fn callers_come_back_when_they_have_thought() {
    let think = Duration::from_nanos(10);
    let plan = plan(Arrivals::Closed { callers: 3, think }, until(5), &[1.0]);
    let mut arriving = Arriving::new(&plan, 0, (0, 2), 100);
    // Two of the three callers are this thread's, and three of the five requests.
    assert_eq!(arriving.take(99), None);
    let shots = [arriving.take(100), arriving.take(100), arriving.take(100)];
    assert_eq!(shots.map(|shot| shot.map(|s| s.due)), [Some(100), Some(100), None]);
    arriving.ended(200);
    assert_eq!(arriving.next(), Some(210));
    assert_eq!(arriving.take(300).unwrap().due, 210);
    arriving.ended(400);
    assert_eq!(arriving.next(), None, "five are asked");
}

#[test]
fn nobody_asks_after_the_end() {
    let end = Until { duration: Some(Duration::from_nanos(50)), requests: None };
    let plan = plan(Arrivals::Closed { callers: 1, think: Duration::ZERO }, end, &[1.0]);
    let mut arriving = Arriving::new(&plan, 0, (0, 1), 100);
    assert!(arriving.take(120).is_some());
    arriving.ended(149);
    assert!(arriving.take(149).is_some());
    arriving.ended(150);
    assert_eq!(arriving.take(1000), None);
}
