//! Answers held beside those that were logged: how many are the same, how far the others are apart. Pure.

use std::collections::BTreeMap;

use onnxd::{
    predlog::{
        footer::{LogSchema, Part, Role},
        value::Value,
    },
    types::datatype::Datatype,
};
use serde::Serialize;
use serde_json::Value as Json;

use super::Output;

/// How far apart two numbers are the same: `|a - b| <= absolute + relative * |logged|`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

/// The rows that differ most, which the report names.
const WORST: usize = 20;

/// A logged column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub column: String,
    tensor: String,
    index: Option<u32>,
    /// Its cells refer to blobs, of elements of this datatype.
    pub blob: Option<Datatype>,
}

/// The columns of a file that can be compared.
pub fn logged(schema: &LogSchema) -> Vec<Logged> {
    let of = schema.of(Role::Prediction).filter(|column| column.redaction.is_none());
    of.filter_map(|column| {
        let blob = match column.part? {
            Part::Value => None,
            Part::Ref => Some(Datatype::parse(column.datatype.as_deref()?)?),
            Part::Shape | Part::Sha256 => return None,
        };
        let (name, tensor) = (column.name.clone(), column.tensor.clone()?);
        Some(Logged { column: name, tensor, index: column.index, blob })
    })
    .collect()
}

/// What one column's numbers came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    pub compared: u64,
    pub exact: u64,
    pub within_tolerance: u64,
    pub beyond: u64,
    /// Of numbers: the largest, and the sum of all, of |now - logged|.
    pub max_abs: f64,
    pub sum_abs: f64,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    pub request_id: String,
    pub row: i64,
    pub column: String,
    pub logged: Json,
    pub now: Json,
    /// How far apart, where they are numbers.
    pub distance: Option<f64>,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    pub rows: u64,
    /// Rows of which every element is the very same, or within the tolerance, or not.
    pub exact: u64,
    pub within_tolerance: u64,
    pub beyond: u64,
    /// Rows whose decision is another: the largest element of an output is a different one, or a label differs.
    pub flips: u64,
    pub columns: BTreeMap<String, Difference>,
    pub worst: Vec<Example>,
}

/// How one row is called.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub request_id: &'a str,
    pub row: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Exact,
    Within,
    Beyond,
}

impl Findings {
    /// A row's cells beside what the outputs say of it. `at` is its place of `of` rows in the request.
    pub fn add(
        &mut self,
        row: Row<'_>,
        cells: &[(&Logged, Value)],
        outputs: &[Output],
        ((at, of), tolerance): ((usize, usize), Tolerance),
    ) {
        self.rows += 1;
        let mut verdict = Verdict::Exact;
        let mut flipped = false;
        let mut decisions: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        for (logged, cell) in cells {
            let output = outputs.iter().find(|output| output.name == logged.tensor);
            let now = output.map(|output| part(&output.values, at, of)).unwrap_or_default();
            let (then, now): (Vec<&Value>, Vec<&Value>) = match (cell, logged.index) {
                (Value::Null, _) => continue,
                (Value::List(items), None) => (items.iter().collect(), now.iter().collect()),
                (one, None) => (vec![one], now.iter().collect()),
                (one, Some(index)) => (vec![one], now.get(index as usize).into_iter().collect()),
            };
            let column = self.columns.entry(logged.column.clone()).or_default();
            let (own, distance) = column.add(&then, &now, tolerance);
            verdict = verdict.max(own);
            if own != Verdict::Exact {
                let example = example(row, logged, (&then, &now), distance);
                note(&mut self.worst, example);
            }
            let numbers =
                |values: &[&Value]| values.iter().filter_map(|v| v.number()).collect::<Vec<f64>>();
            let is_label = then.len() == 1
                && logged.index.is_none()
                && !matches!(then[0], Value::Float(_) | Value::Double(_));
            flipped |= is_label && own != Verdict::Exact;
            let (a, b) = decisions.entry(&logged.tensor).or_default();
            a.extend(numbers(&then));
            b.extend(numbers(&now));
        }
        flipped |=
            decisions.values().any(|(then, now)| then.len() > 1 && largest(then) != largest(now));
        self.flips += u64::from(flipped);
        match verdict {
            Verdict::Exact => self.exact += 1,
            Verdict::Within => self.within_tolerance += 1,
            Verdict::Beyond => self.beyond += 1,
        }
    }

    pub fn flip_rate(&self) -> f64 {
        self.flips as f64 / self.rows.max(1) as f64
    }
}

/// The elements of an output that belong to one of `of` rows.
fn part(values: &[Value], at: usize, of: usize) -> &[Value] {
    let each = values.len() / of.max(1);
    values.get(at * each..(at + 1) * each).unwrap_or_default()
}

fn largest(values: &[f64]) -> Option<usize> {
    let finite = values.iter().enumerate().filter(|(_, v)| !v.is_nan());
    // Of equal ones the first.
    finite.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(at, _)| at)
}

impl Difference {
    fn add(
        &mut self,
        then: &[&Value],
        now: &[&Value],
        tolerance: Tolerance,
    ) -> (Verdict, Option<f64>) {
        self.compared += 1;
        let mut verdict = if then.len() == now.len() { Verdict::Exact } else { Verdict::Beyond };
        let mut largest: Option<f64> = None;
        for (then, now) in then.iter().zip(now) {
            let (own, distance) = compared(then, now, tolerance);
            verdict = verdict.max(own);
            if let Some(distance) = distance {
                largest = Some(largest.map_or(distance, |l| l.max(distance)));
                self.max_abs = self.max_abs.max(distance);
                self.sum_abs += distance;
            }
        }
        match verdict {
            Verdict::Exact => self.exact += 1,
            Verdict::Within => self.within_tolerance += 1,
            Verdict::Beyond => self.beyond += 1,
        }
        (verdict, largest)
    }
}

fn compared(then: &Value, now: &Value, tolerance: Tolerance) -> (Verdict, Option<f64>) {
    match (then.number(), now.number()) {
        (Some(a), Some(b)) if a.is_nan() && b.is_nan() => (Verdict::Exact, None),
        (Some(a), Some(b)) if a == b => (Verdict::Exact, Some(0.0)),
        (Some(a), Some(b)) => {
            let distance = (a - b).abs();
            let finite = distance.is_finite().then_some(distance);
            // NaN, and one of two infinities, are within no tolerance.
            let near =
                finite.is_some_and(|d| d <= tolerance.absolute + tolerance.relative * a.abs());
            (if near { Verdict::Within } else { Verdict::Beyond }, finite)
        }
        _ if then.text() == now.text() => (Verdict::Exact, None),
        _ => (Verdict::Beyond, None),
    }
}

fn example(
    row: Row<'_>,
    logged: &Logged,
    (then, now): (&[&Value], &[&Value]),
    distance: Option<f64>,
) -> Example {
    let json = |values: &[&Value]| match values {
        [one] => one.json(),
        many => many.iter().map(|value| value.json()).collect(),
    };
    Example {
        request_id: row.request_id.to_owned(),
        row: row.row,
        column: logged.column.clone(),
        logged: json(then),
        now: json(now),
        distance,
    }
}

/// Keeps the examples that are furthest apart; what has no distance is further than any.
fn note(worst: &mut Vec<Example>, example: Example) {
    let rank = |e: &Example| e.distance.unwrap_or(f64::INFINITY);
    let at = worst.partition_point(|known| rank(known) >= rank(&example));
    if at < WORST {
        worst.insert(at, example);
        worst.truncate(WORST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-5 };

    fn column(index: Option<u32>) -> Logged {
        Logged { column: "out_p".into(), tensor: "p".into(), index, blob: None }
    }

    fn floats(values: &[f32]) -> Vec<Value> {
        values.iter().map(|v| Value::Float(*v)).collect()
    }

    fn found(then: Value, now: Vec<Value>) -> Findings {
        let mut findings = Findings::default();
        let outputs = [Output { name: "p".into(), dims: vec![], values: now }];
        let row = Row { request_id: "r", row: 0 };
        findings.add(row, &[(&column(None), then)], &outputs, ((0, 1), TOLERANCE));
        findings
    }

    fn counts(findings: &Findings) -> [u64; 4] {
        [findings.exact, findings.within_tolerance, findings.beyond, findings.flips]
    }

    #[test]
    fn rows_are_exact_near_or_apart() {
        let list = |values: &[f32]| Value::List(floats(values));
        assert_eq!(counts(&found(list(&[0.25, 0.75]), floats(&[0.25, 0.75]))), [1, 0, 0, 0]);
        assert_eq!(counts(&found(list(&[0.25, 0.75]), floats(&[0.25, 0.750_001]))), [0, 1, 0, 0]);
        assert_eq!(counts(&found(list(&[0.25, 0.75]), floats(&[0.3, 0.7]))), [0, 0, 1, 0]);
        assert_eq!(counts(&found(list(&[0.25, 0.75]), floats(&[0.6, 0.4]))), [0, 0, 1, 1]);
        assert_eq!(counts(&found(list(&[f32::NAN, 0.5]), floats(&[f32::NAN, 0.5]))), [1, 0, 0, 0]);
        assert_eq!(counts(&found(list(&[0.5]), floats(&[f32::NAN]))), [0, 0, 1, 0]);
        assert_eq!(counts(&found(list(&[0.5, 0.5]), floats(&[0.5]))), [0, 0, 1, 0]);
        assert_eq!(counts(&found(Value::Int(1), vec![Value::Int(2)])), [0, 0, 1, 1]);
        let label = found(Value::Text("cat".into()), vec![Value::Text("dog".into())]);
        assert_eq!(counts(&label), [0, 0, 1, 1]);
        assert_eq!(label.worst[0].now, serde_json::json!("dog"));
    }

    #[test]
    fn a_batch_is_cut_into_its_rows() {
        let mut findings = Findings::default();
        let outputs =
            [Output { name: "p".into(), dims: vec![2, 2], values: floats(&[0.0, 1.0, 2.0, 3.0]) }];
        for (at, cells) in [(0, [0.0, 1.0]), (1, [2.0, 3.5])] {
            let columns = [column(Some(0)), column(Some(1))];
            let cells: Vec<(&Logged, Value)> =
                columns.iter().zip(cells).map(|(c, v)| (c, Value::Double(v))).collect();
            let row = Row { request_id: "r", row: at };
            findings.add(row, &cells, &outputs, ((at as usize, 2), TOLERANCE));
        }
        assert_eq!(counts(&findings), [1, 0, 1, 0]);
        assert_eq!(findings.columns["out_p"].max_abs, 0.5);
    }

    #[test]
    fn the_worst_are_kept_in_order() {
        let mut worst = Vec::new();
        for n in 0..100 {
            let row = Row { request_id: "r", row: n };
            let value = Value::Int(n);
            note(
                &mut worst,
                example(row, &column(None), (&[&value], &[&value]), Some(((n * 37) % 100) as f64)),
            );
        }
        let distances: Vec<f64> = worst.iter().filter_map(|e| e.distance).collect();
        assert_eq!(distances, (80..100).rev().map(f64::from).collect::<Vec<_>>());
    }
}
