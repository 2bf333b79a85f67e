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

fn recorded(speed: Speed) -> Arrivals {
    let asked = [(0, 3), (40, 0), (40, 2), (90, 1), (200, 3)];
    let asked = asked.into_iter().map(|(at, request)| Recorded { at, request });
    Arrivals::Recorded { asked: asked.collect(), speed }
}

/// Each request at its own moment, however many threads share them.
#[test]
fn what_was_recorded_comes_as_it_was() {
    let whole = Until { duration: None, requests: None };
    for (speed, until, expected) in [
        (1.0, whole, &[(50, 3), (90, 0), (90, 2), (140, 1), (250, 3)][..]),
        (10.0, whole, &[(50, 3), (54, 0), (54, 2), (59, 1), (70, 3)]),
        (1.0, until_end(90), &[(50, 3), (90, 0), (90, 2)]),
        (1.0, until(2), &[(50, 3), (90, 0)]),
    ] {
        let plan = plan(recorded(Speed::Times(speed)), until, &[1.0, 1.0]);
        for threads in 1..4 {
            let share = |first| all(Arriving::new(&plan, 0, (first, threads), 50));
            let mut shots: Vec<_> =
                (0..threads).flat_map(share).map(|s| (s.due, s.request)).collect();
            shots.sort_unstable_by_key(|(due, request)| (*due, (*request == 2), *request));
            assert_eq!(shots, expected, "{speed}, {threads} threads");
        }
    }
}

fn until_end(nanos: u64) -> Until {
    Until { duration: Some(Duration::from_nanos(nanos)), requests: None }
}

/// Each once, as fast as they are answered: as many at a time as there are connections.
#[test]
fn at_full_speed_each_is_asked_once() {
    let whole = Until { duration: None, requests: None };
    let mut plan = plan(recorded(Speed::Max), whole, &[1.0, 1.0]);
    plan.connections = 2;
    let mut arriving = Arriving::new(&plan, 0, (0, 1), 100);
    let taken = |arriving: &mut Arriving<'_>, now| arriving.take(now).map(|s| (s.due, s.request));
    assert_eq!(taken(&mut arriving, 100), Some((100, 3)));
    assert_eq!(taken(&mut arriving, 100), Some((100, 0)));
    assert_eq!(taken(&mut arriving, 100), None);
    for (now, request) in [(101, 2), (102, 1), (103, 3)] {
        arriving.ended(now);
        assert_eq!(taken(&mut arriving, now), Some((now, request)));
    }
    arriving.ended(104);
    assert_eq!(arriving.next(), None);
}
