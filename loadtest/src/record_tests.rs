//! Histograms at rest, codes as text, and merging.

use proptest::prelude::*;

use super::*;

fn times(values: &[u64]) -> Times {
    let mut histogram = histogram();
    for value in values {
        histogram.saturating_record(*value);
    }
    Times::of(&histogram)
}

#[test]
fn quantiles_are_ranks() {
    let hundred = times(&(1..=100).collect::<Vec<_>>());
    for (quantile, value) in [(0.0, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)] {
        assert_eq!(hundred.quantile(quantile), value, "{quantile}");
    }
    assert_eq!(hundred.mean(), 50.5);
    assert_eq!((hundred.up_to(0), hundred.up_to(7), hundred.up_to(1000)), (0, 7, 100));
    assert_eq!((Times::default().quantile(0.5), Times::default().mean()), (0, 0.0));
}

#[test]
fn a_sum_is_what_merging_gives() {
    let parts = [times(&[5, 5, 900_000]), times(&[]), times(&[7, 900_000, 12]), times(&[5])];
    let mut merged = Times::default();
    for part in &parts {
        merged.merge(part);
    }
    assert_eq!(Times::sum(&parts), merged);
    assert_eq!(merged.count(), 7);
}

#[test]
fn codes_are_keys_in_json() {
    let codes = [
        Code::Ok,
        Code::Wrong,
        Code::Http(429),
        Code::Grpc(8),
        Code::TimedOut,
        Code::Broken,
        Code::Unconnected,
        Code::Garbled,
    ];
    let cell = Cell { codes: codes.into_iter().zip(1..).collect(), ..Cell::default() };
    let text = serde_json::to_string(&cell).unwrap();
    assert!(text.contains("\"http_429\":3"), "{text}");
    assert_eq!(serde_json::from_str::<Cell>(&text).unwrap(), cell);
    for wrong in ["", "http_", "http_99999", "grpc_x", "Ok"] {
        assert!(wrong.parse::<Code>().is_err(), "{wrong}");
    }
}

fn any_cell() -> impl Strategy<Value = Cell> {
    let pairs = proptest::collection::vec((1u64..1_000_000, 1u64..5), 0..6);
    let times = pairs.prop_map(|pairs| pairs.into_iter().collect::<Times>());
    let codes = proptest::collection::btree_map(
        prop_oneof![Just(Code::Ok), Just(Code::Http(429)), Just(Code::TimedOut)],
        1u64..9,
        0..3,
    );
    let versions = proptest::collection::btree_map("[12]", 1u64..9, 0..2);
    (times.clone(), times, codes, versions, any::<u32>()).prop_map(
        |(latency, lag, codes, versions, n)| Cell {
            service: latency.clone(),
            latency,
            lag,
            codes,
            versions,
            due: n.into(),
            bytes_out: n.into(),
            bytes_in: 7,
        },
    )
}

fn any_measured() -> impl Strategy<Value = Measured> {
    let cells = proptest::collection::btree_map(0usize..2, any_cell(), 0..3);
    let stretches = proptest::collection::btree_map((0usize..2, 0u64..3), cells, 0..5);
    let list = || proptest::collection::vec(0u64..1000, 0..3);
    let examples = proptest::collection::vec("[a-d]{1,2}", 0..40);
    (stretches, list(), list(), any::<bool>(), examples).prop_map(
        |(stretches, began, took, interrupted, examples)| {
            let mut measured = Measured::default();
            // As a run leaves it: its examples in order.
            measured.merge(&Measured { stretches, began, took, interrupted, examples });
            measured
        },
    )
}

fn merged(a: &Measured, b: &Measured) -> Measured {
    let mut merged = a.clone();
    merged.merge(b);
    merged
}

proptest! {
    #[test]
    fn merging_knows_no_order(a in any_measured(), b in any_measured(), c in any_measured()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &Measured::default()), a);
    }

    #[test]
    fn merging_loses_nothing(a in any_measured(), b in any_measured()) {
        let total = |measured: &Measured| {
            let cells: Vec<Cell> = measured.stretches.values().flat_map(|c| c.values()).cloned().collect();
            Cell::sum(&cells)
        };
        let mut expected = total(&a);
        expected.merge(&total(&b));
        prop_assert_eq!(total(&merged(&a, &b)), expected);
    }
}

#[test]
fn a_later_run_comes_after() {
    let stretch = |phase, tenth, due| {
        ((phase, tenth), BTreeMap::from([(0, Cell { due, ..Cell::default() })]))
    };
    let run = |due| Measured {
        stretches: BTreeMap::from([stretch(0, 0, due), stretch(0, 2, due), stretch(1, 1, due)]),
        took: vec![300, 200],
        ..Measured::default()
    };
    let mut both = run(1);
    both.append(&run(10));
    let places: Vec<_> = both.stretches.iter().map(|(key, cells)| (*key, cells[&0].due)).collect();
    let expected =
        [((0, 0), 1), ((0, 2), 1), ((0, 3), 10), ((0, 5), 10), ((1, 1), 1), ((1, 3), 10)];
    assert_eq!(places, expected);
    assert_eq!(both.took, [600, 400]);
}
