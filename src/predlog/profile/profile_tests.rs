//! Tests of profiles: those of parts make that of the whole, exactly where they count and within bounds where they guess.

use arrow_array::{
    ArrayRef, Float64Array, Int32Array, ListArray, RecordBatch, StringArray, types::Float32Type,
};
use proptest::prelude::*;

use super::{build::Builder, *};
use crate::predlog::footer::{ColumnRole, LogSchema, Part};

fn schema() -> LogSchema {
    let column = |name: &str, role, kind: &str| ColumnRole {
        name: name.into(),
        role,
        kind: kind.into(),
        tensor: None,
        index: None,
        datatype: None,
        part: (role != Role::Meta).then_some(Part::Value),
        redaction: None,
    };
    LogSchema {
        format: 1,
        model: "m".into(),
        version: "1".into(),
        model_digest: String::new(),
        signature_digest: String::new(),
        schema_id: String::new(),
        redaction_rev: 0,
        layout: "table".into(),
        columns: vec![
            column("event_id", Role::Meta, "string"),
            column("in_x", Role::Feature, "double"),
            column("in_list", Role::Feature, "list<float>"),
            column("pred_label", Role::Prediction, "string"),
            column("status", Role::Meta, "int32"),
        ],
    }
}

/// Rows with these values, numbered from `first`.
fn batch(first: usize, values: &[Option<f64>]) -> RecordBatch {
    let numbers = || first..first + values.len();
    let ids: StringArray = numbers().map(|n| Some(format!("id {n}"))).collect();
    let labels: StringArray =
        numbers().map(|n| (n % 5 != 4).then(|| format!("class {}", n % 7))).collect();
    let lists = numbers()
        .map(|n| (n % 3 != 2).then(|| (0..n % 4).map(|m| Some(m as f32)).collect::<Vec<_>>()));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("event_id", Arc::new(ids)),
        ("in_x", Arc::new(values.iter().copied().collect::<Float64Array>())),
        ("in_list", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))),
        ("pred_label", Arc::new(labels)),
        (
            "status",
            Arc::new(
                numbers()
                    .map(|n| Some(if n % 10 == 9 { 429 } else { 200 }))
                    .collect::<Int32Array>(),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .expect("a batch")
}

fn profile(first: usize, values: &[Option<f64>], sample: usize) -> Profile {
    let mut builder = Builder::new(&schema(), sample);
    // As it is done: a batch after the other.
    for (at, chunk) in values.chunks(37).enumerate() {
        builder.add(&batch(first + at * 37, chunk));
    }
    builder.finish()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

fn any_value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        8 => (-1e6f64..1e6).prop_map(Some),
        2 => (0i32..5).prop_map(|v| Some(f64::from(v))),
        1 => Just(None),
        1 => prop::sample::select(vec![Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parts_make_the_whole(values in prop::collection::vec(any_value(), 0..400), cut in any::<prop::sample::Index>(), most in 0usize..60) {
        let cut = cut.index(values.len() + 1);
        let whole = profile(0, &values, most);
        let mut merged = profile(0, &values[..cut], most);
        merged.merge(&profile(cut, &values[cut..], most));
        prop_assert_eq!(merged.rows, values.len() as u64);
        prop_assert_eq!(&merged.sample, &whole.sample);
        prop_assert_eq!(merged.sample.keys.len(), most.min(values.len()));
        prop_assert_eq!(merged.columns.keys().collect::<Vec<_>>(), whole.columns.keys().collect::<Vec<_>>());
        for (name, column) in &whole.columns {
            let own = &merged.columns[name];
            prop_assert_eq!((own.count, own.nulls, own.nan, own.infinite), (column.count, column.nulls, column.nan, column.infinite));
            prop_assert_eq!(own.categories.all(), column.categories.all(), "{}", name);
            if column.categories.counts.len() < CATEGORIES && column.categories.other == 0 {
                prop_assert_eq!(&own.categories, &column.categories, "{}", name);
            }
            // As text: NaN is not equal to itself.
            prop_assert_eq!(format!("{:?}", own.sample), format!("{:?}", column.sample), "{}", name);
            let (a, b) = (own.moments, column.moments);
            prop_assert_eq!((a.count, a.min, a.max), (b.count, b.min, b.max));
            prop_assert!(near(a.mean, b.mean) && near(a.m2, b.m2), "{} {:?} {:?}", name, a, b);
        }
        let nulls = values.iter().filter(|value| value.is_none()).count() as u64;
        if let Some(x) = merged.columns.get("in_x") {
            prop_assert_eq!(x.nulls, nulls);
            prop_assert_eq!(x.count, x.nulls + x.nan + x.infinite + x.moments.count);
        }
    }

    #[test]
    fn sketches_are_near(seed in any::<u64>(), parts in 1usize..6) {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let values: Vec<f64> = (0..3000).map(|_| (next() * 10_000.0).floor().powi(2)).collect();
        let mut all = Profile::empty(10);
        for (n, part) in values.chunks(values.len().div_ceil(parts)).enumerate() {
            let part: Vec<Option<f64>> = part.iter().copied().map(Some).collect();
            all.merge(&profile(n * 10_000, &part, 10));
        }
        let x = &all.columns["in_x"];
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        for rank in [0.01, 0.1, 0.5, 0.9, 0.99] {
            let guess = x.sketches.quantiles(&[rank]).expect("numbers")[0];
            let exact = sorted.partition_point(|value| *value <= guess) as f64 / sorted.len() as f64;
            prop_assert!((exact - rank).abs() < 0.02, "{} is at {}", rank, exact);
        }
        sorted.dedup();
        let distinct = x.sketches.distinct();
        let exact = sorted.len() as f64;
        // Four times the standard error of 2.3 %.
        prop_assert!((distinct - exact).abs() < 0.1 * exact, "{} {}", distinct, exact);
        prop_assert!(x.categories.counts.is_empty() && x.categories.other == 3000);
    }

    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(any_value(), 0..100)) {
        let mut builder = Builder::new(&schema(), 20);
        builder.against(&profile(5000, &[Some(-5.0), Some(0.5), Some(3.0)], 0));
        builder.add(&batch(0, &values));
        let written = builder.finish();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("_part.profile");
        written.write(std::fs::File::create(&path).expect("a file")).expect("written");
        let read = Profile::read(&path).expect("read");
        prop_assert_eq!((read.rows, &read.sample), (written.rows, &written.sample));
        prop_assert_eq!(read.columns.len(), written.columns.len());
        for (name, own) in &read.columns {
            let other = &written.columns[name];
            prop_assert_eq!((own.role, &own.kind, own.count, own.nulls), (other.role, &other.kind, other.count, other.nulls));
            prop_assert_eq!((own.nan, own.infinite, own.moments), (other.nan, other.infinite, other.moments));
            prop_assert_eq!((&own.categories, &own.bins), (&other.categories, &other.bins));
            let empty = |cells: &[Cell]| cells.iter().all(|cell| *cell == Cell::Null);
            // As text: NaN is not equal to itself.
            let same = format!("{:?}", own.sample) == format!("{:?}", other.sample);
            prop_assert!(same || empty(&other.sample), "{}", name);
            prop_assert_eq!(own.sketches.quantiles(&file::RANKS), other.sketches.quantiles(&file::RANKS));
            prop_assert_eq!(own.sketches.distinct(), other.sketches.distinct());
        }
    }
}

#[test]
fn the_sample_is_the_same_however_rows_come() {
    let values: Vec<Option<f64>> = (0..300).map(|n| Some(f64::from(n))).collect();
    let mut together = Builder::new(&schema(), 7);
    together.add(&batch(0, &values));
    // Lists are short or not there in most of these: their elements are no column of such a batch.
    let mut one_by_one = Builder::new(&schema(), 7);
    for (n, value) in values.iter().enumerate() {
        one_by_one.add(&batch(n, &[*value]));
    }
    let (together, one_by_one) = (together.finish(), one_by_one.finish());
    assert_eq!(together.sample, one_by_one.sample);
    for (name, column) in &together.columns {
        assert_eq!(column.sample, one_by_one.columns[name].sample, "{name}");
    }
}

#[test]
fn extremes_break_no_sketch() {
    let values = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, -0.0, 0.0, 1e308, -1e308].map(Some);
    let mut all = profile(0, &values, 5);
    all.merge(&profile(100, &values, 5));
    let x = &all.columns["in_x"];
    assert_eq!((x.moments.min, x.moments.max, x.moments.count), (f64::MIN, f64::MAX, 14));
    assert!(x.sketches.quantiles(&[0.0, 0.5, 1.0]).expect("numbers").iter().all(|q| !q.is_nan()));
    assert_eq!(x.categories.counts.get("0"), Some(&4), "both zeros are one");
    let mut bytes = Vec::new();
    all.write(&mut bytes).expect("written");
}

#[test]
fn values_are_counted_in_the_bins_of_the_reference() {
    let reference: Vec<Option<f64>> = (0..1000).map(|n| Some(f64::from(n))).collect();
    let reference = profile(0, &reference, 0);
    let make = |values: &[Option<f64>]| {
        let mut builder = Builder::new(&schema(), 0);
        builder.against(&reference);
        builder.add(&batch(0, values));
        builder.finish()
    };
    let mut own = make(&[Some(-1.0), Some(0.0), Some(150.0), Some(2000.0), None, Some(f64::NAN)]);
    own.merge(&make(&[Some(150.0)]));
    let bins = own.columns["in_x"].bins.clone().expect("bins");
    assert_eq!(
        (bins.counts.iter().sum::<u64>(), bins.counts[0], bins.under, bins.over),
        (5, 2, 1, 1)
    );
    assert_eq!((bins.counts[1], bins.counts[9]), (2, 1));
    // Another reference: no sum would mean anything.
    own.merge(&profile(0, &[Some(1.0)], 0));
    assert_eq!(own.columns["in_x"].bins, None);
}
