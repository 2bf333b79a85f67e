//! Columns that say too much: a feature that alone gives the label away was, most likely, written after it was known. Pure.

use std::collections::{BTreeMap, HashMap};

use onnxd::predlog::value::Value;
use serde::Serialize;

/// Rows that are looked at, at most: the first ones that train.
pub const ROWS: usize = 20_000;
/// Fewer say nothing.
const FEWEST: usize = 50;
/// A rank statistic, or a correlation, from which on a column is suspect.
const SUSPECT: f64 = 0.999;
/// Different labels up to which they are classes.
const CLASSES: usize = 64;

/// Why a column is suspect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leak {
    pub column: String,
    pub why: String,
}

/// Features and labels of some rows.
#[derive(Debug, Default)]
pub struct Guard {
    columns: BTreeMap<String, Vec<Value>>,
    labels: Vec<(String, Option<f64>)>,
}

impl Guard {
    /// Whether more rows would be looked at.
    pub fn wants_more(&self) -> bool {
        self.labels.len() < ROWS
    }

    /// A row; every row has the same columns.
    pub fn add(
        &mut self,
        features: impl Iterator<Item = (String, Value)>,
        label: (String, Option<f64>),
    ) {
        for (name, value) in features {
            self.columns.entry(name).or_default().push(value);
        }
        self.labels.push(label);
    }

    /// The columns that give the label away.
    pub fn leaks(&self) -> Vec<Leak> {
        if self.labels.len() < FEWEST {
            return Vec::new();
        }
        self.columns.iter().filter_map(|(name, values)| self.leak(name, values)).collect()
    }

    fn leak(&self, name: &str, values: &[Value]) -> Option<Leak> {
        let found = |why: String| Some(Leak { column: name.to_owned(), why });
        if values.len() != self.labels.len() {
            return None;
        }
        if let Some(r) = self.correlation(values).filter(|r| r.abs() >= SUSPECT) {
            return found(format!("its correlation with the label is {r:.4}"));
        }
        if let Some(auc) = self.rank(values).filter(|auc| auc.max(1.0 - auc) >= SUSPECT) {
            return found(format!("alone it ranks the two labels with an AUC of {auc:.4}"));
        }
        self.names_classes(values)
            .then(|| found("each of its values goes with one label".to_owned()))?
    }

    /// Pearson's, where both are numbers of many values.
    fn correlation(&self, values: &[Value]) -> Option<f64> {
        let pairs: Vec<(f64, f64)> = values
            .iter()
            .zip(&self.labels)
            .filter_map(|(value, (_, label))| Some((value.number()?, (*label)?)))
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .collect();
        if pairs.len() < FEWEST {
            return None;
        }
        let n = pairs.len() as f64;
        let (mx, my) = pairs.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
        let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
        for (x, y) in pairs {
            xx += (x - mx) * (x - mx);
            yy += (y - my) * (y - my);
            xy += (x - mx) * (y - my);
        }
        (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
    }

    /// The area under the ROC curve of a number against two labels: ties count half.
    fn rank(&self, values: &[Value]) -> Option<f64> {
        let positive = &self.labels[0].0;
        let mut pairs: Vec<(f64, bool)> = values
            .iter()
            .zip(&self.labels)
            .filter_map(|(value, (label, _))| Some((value.number()?, label == positive)))
            .filter(|(x, _)| x.is_finite())
            .collect();
        let mut classes: Vec<&String> = self.labels.iter().map(|(label, _)| label).collect();
        classes.sort_unstable();
        classes.dedup();
        let positives = pairs.iter().filter(|(_, is)| *is).count();
        let negatives = pairs.len() - positives;
        if classes.len() != 2 || positives.min(negatives) < FEWEST / 5 {
            return None;
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut below, mut area) = (0.0, 0.0);
        for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
            let ups = tied.iter().filter(|(_, is)| *is).count() as f64;
            let downs = tied.len() as f64 - ups;
            area += ups * (below + downs / 2.0);
            below += downs;
        }
        Some(area / (positives as f64 * negatives as f64))
    }

    /// Whether a category of few values names the label, one for one.
    fn names_classes(&self, values: &[Value]) -> bool {
        let (mut to, mut from): (HashMap<String, &String>, HashMap<&String, String>) =
            Default::default();
        for (value, (label, _)) in values.iter().zip(&self.labels) {
            let text = value.text();
            if *to.entry(text.clone()).or_insert(label) != label {
                return false;
            }
            if *from.entry(label).or_insert_with(|| text.clone()) != text || from.len() > CLASSES {
                return false;
            }
        }
        from.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(
        feature: impl Fn(usize) -> Value,
        label: impl Fn(usize) -> (String, Option<f64>),
    ) -> Vec<Leak> {
        let mut guard = Guard::default();
        for n in 0..400 {
            guard.add([("x".to_owned(), feature(n))].into_iter(), label(n));
        }
        guard.leaks()
    }

    fn binary(n: usize) -> (String, Option<f64>) {
        let is = n.is_multiple_of(3);
        (is.to_string(), Some(f64::from(u8::from(is))))
    }

    fn noise(n: usize) -> f64 {
        ((n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64
    }

    #[test]
    fn what_gives_the_label_away_is_found() {
        let copies = guard(|n| Value::Double(binary(n).1.unwrap_or(0.0) * 2.0 - 5.0), binary);
        assert!(copies[0].why.contains("correlation"), "{copies:?}");
        let ranks = guard(
            |n| Value::Float(noise(n) as f32 + if n.is_multiple_of(3) { 1e9 } else { 0.0 }),
            |n| (binary(n).0, None),
        );
        assert!(ranks[0].why.contains("AUC"), "{ranks:?}");
        let names = guard(
            |n| Value::Text(format!("code {}", n % 5)),
            |n| (format!("class {}", n % 5), None),
        );
        assert!(names[0].why.contains("each of its values"), "{names:?}");
        let linear = guard(|n| Value::Int(n as i64), |n| (n.to_string(), Some(3.0 * n as f64)));
        assert_eq!(linear.len(), 1);
    }

    #[test]
    fn what_only_helps_is_not() {
        assert_eq!(guard(|n| Value::Double(noise(n)), binary), []);
        let good = |n: usize| Value::Double(noise(n) / 1e7 + binary(n).1.unwrap_or(0.0));
        assert_eq!(guard(good, binary), []);
        assert_eq!(guard(|_| Value::Double(1.0), binary), []);
        assert_eq!(guard(|_| Value::Null, binary), []);
        assert_eq!(guard(|n| Value::Text(n.to_string()), binary), [], "an id names no class");
    }
}
