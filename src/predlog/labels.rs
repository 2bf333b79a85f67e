//! Labels: what turned out to be true of a logged prediction. A table with revisions beside the log, joined by `label_key`.
//! Pure; `store` has the files and `parse` the forms in which labels come.

pub mod folder;
pub mod import;
pub mod intake;
pub mod merge;
pub mod parse;
pub mod staging;
pub mod store;

use std::{cmp::Ordering, collections::HashMap};

use super::value::Value;

/// One statement about one key. Of several, the one with the highest revision counts, then the latest.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// What the row of the log calls `label_key`.
    pub label_key: String,
    pub event_id: Option<String>,
    /// When it became known, microseconds since 1970.
    pub ts_label: i64,
    /// When what it is about happened.
    pub ts_event: Option<i64>,
    /// As text; where it is a number, as `label_value` too.
    pub label: Option<String>,
    pub label_value: Option<f64>,
    pub weight: Option<f64>,
    pub source: Option<String>,
    pub revision: i64,
    /// There is no label after all.
    pub deleted: bool,
}

impl Label {
    /// Whether it replaces `other`, which is about the same key. Equal ones don't: what is sent twice changes nothing.
    pub fn replaces(&self, other: &Label) -> bool {
        (self.revision, self.ts_label).cmp(&(other.revision, other.ts_label)) == Ordering::Greater
    }
}

/// What counts of each key.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    by_key: HashMap<String, Label>,
    /// Statements seen.
    pub seen: u64,
}

impl Resolved {
    pub fn add(&mut self, label: Label) {
        self.seen += 1;
        match self.by_key.get_mut(&label.label_key) {
            Some(known) if label.replaces(known) => *known = label,
            Some(_) => {}
            None => {
                self.by_key.insert(label.label_key.clone(), label);
            }
        }
    }

    /// The label of a row received at `ts`; none where it was taken back, or came more than `horizon` microseconds later.
    pub fn of(&self, key: &str, ts: i64, horizon: i64) -> Option<&Label> {
        self.by_key
            .get(key)
            .filter(|label| !label.deleted && label.ts_label <= ts.saturating_add(horizon))
    }

    /// Every key that has one, in no order.
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        self.by_key.values().filter(|label| !label.deleted)
    }

    pub fn len(&self) -> usize {
        self.labels().count()
    }

    pub fn is_empty(&self) -> bool {
        self.labels().next().is_none()
    }
}

/// What the fields of incoming labels are called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub key: String,
    pub label: String,
    /// When the label became known.
    pub time: String,
}

impl Default for Names {
    fn default() -> Names {
        Names { key: "label_key".into(), label: "label".into(), time: "ts_label".into() }
    }
}

/// Fields that are read by their own names.
const FIELDS: [&str; 7] =
    ["event_id", "ts_event", "label_value", "weight", "source", "revision", "deleted"];

/// A row as it came, made a label. `now` is when labels without a time became known.
///
/// # Errors
/// The field, what was expected and what came.
pub fn from_row(row: &[(String, Value)], names: &Names, now: i64) -> Result<Label, String> {
    let field =
        |name: &str| row.iter().find(|(n, _)| n == name).map(|(_, v)| v).filter(|v| !empty(v));
    let key = field(&names.key).ok_or_else(|| no_key(row, names))?;
    let label = field(&names.label).map(Value::text);
    let label_value = match field("label_value") {
        Some(value) => Some(number("label_value", value)?),
        None => field(&names.label).and_then(as_number),
    };
    let deleted = field("deleted").map(|v| truth("deleted", v)).transpose()?.unwrap_or(false);
    let label = label.or_else(|| field("label_value").map(Value::text));
    if label.is_none() && !deleted {
        return Err(format!(
            "{}: expected {} or label_value, or deleted: true; got none of them",
            key.text(),
            names.label
        ));
    }
    Ok(Label {
        label_key: key.text(),
        event_id: field("event_id").map(Value::text),
        ts_label: field(&names.time).map(|v| time(&names.time, v)).transpose()?.unwrap_or(now),
        ts_event: field("ts_event").map(|v| time("ts_event", v)).transpose()?,
        label,
        label_value,
        weight: field("weight").map(|v| number("weight", v)).transpose()?,
        source: field("source").map(Value::text),
        revision: field("revision").map(|v| whole("revision", v)).transpose()?.unwrap_or(0),
        deleted,
    })
}

fn no_key(row: &[(String, Value)], names: &Names) -> String {
    let key = &names.key;
    if row.iter().any(|(name, _)| name == key) {
        return format!("{key}: expected a key, got nothing");
    }
    let there: Vec<&str> = row.iter().map(|(name, _)| name.as_str()).take(20).collect();
    format!("{key}: expected a key, got only the fields {}", there.join(", "))
}

/// Whether a field of this name means something.
pub fn is_known(field: &str, names: &Names) -> bool {
    FIELDS.contains(&field) || [&names.key, &names.label, &names.time].iter().any(|n| *n == field)
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        _ => false,
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Text(text) => text.trim().parse().ok().filter(|v: &f64| v.is_finite()),
        other => other.number(),
    }
}

fn number(name: &str, value: &Value) -> Result<f64, String> {
    as_number(value).ok_or_else(|| format!("{name}: expected a number, got {}", value.json()))
}

fn whole(name: &str, value: &Value) -> Result<i64, String> {
    let read = match value {
        Value::Int(v) => Some(*v),
        Value::Text(text) => text.trim().parse().ok(),
        // What has nulls comes from pandas as floating-point numbers.
        other => other.number().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64),
    };
    read.ok_or_else(|| format!("{name}: expected a whole number, got {}", value.json()))
}

fn truth(name: &str, value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(v) => Ok(*v),
        Value::Int(v @ (0 | 1)) => Ok(*v == 1),
        Value::Text(text) if ["true", "1"].contains(&text.to_ascii_lowercase().as_str()) => {
            Ok(true)
        }
        Value::Text(text) if ["false", "0"].contains(&text.to_ascii_lowercase().as_str()) => {
            Ok(false)
        }
        other => Err(format!("{name}: expected true or false, got {}", other.json())),
    }
}

fn time(name: &str, value: &Value) -> Result<i64, String> {
    match value {
        Value::Time(us) => Ok(*us),
        Value::Text(text) => super::condition::time(text).map_err(|_| wrong_time(name, value)),
        other => Err(wrong_time(name, other)),
    }
}

fn wrong_time(name: &str, value: &Value) -> String {
    format!("{name}: expected a time as 2026-01-31T12:00:00Z, got {}", value.json())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(fields: &[(&str, Value)]) -> Vec<(String, Value)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn rows_become_labels() {
        let names = Names::default();
        let read = |fields: &[(&str, Value)]| from_row(&row(fields), &names, 7);
        let label = read(&[("label_key", text("k")), ("label", text("1"))]).expect("a label");
        assert_eq!((label.label.as_deref(), label.label_value), (Some("1"), Some(1.0)));
        assert_eq!((label.ts_label, label.revision, label.deleted), (7, 0, false));
        let label =
            read(&[("label_key", Value::Int(5)), ("label", Value::Bool(true))]).expect("a label");
        assert_eq!((label.label_key.as_str(), label.label_value), ("5", Some(1.0)));
        let label = read(&[("label_key", text("k")), ("label", text("churned"))]).expect("a label");
        assert_eq!(label.label_value, None);
        let gone = read(&[("label_key", text("k")), ("deleted", text("true"))]).expect("a label");
        assert!(gone.deleted);
        for (fields, complaint) in [
            (vec![("label", text("1"))], "label_key: expected a key"),
            (vec![("label_key", text("k"))], "k: expected label or label_value"),
            (
                vec![("label_key", text("k")), ("label", text("1")), ("revision", text("1.5"))],
                "revision: expected a whole number",
            ),
            (
                vec![("label_key", text("k")), ("label", text("1")), ("ts_label", Value::Int(5))],
                "ts_label: expected a time",
            ),
            (
                vec![("label_key", text("k")), ("label", text("1")), ("weight", text("much"))],
                "weight: expected a number",
            ),
        ] {
            let error = read(&fields).expect_err(complaint);
            assert!(error.starts_with(complaint), "{error}");
        }
    }

    fn label(revision: i64, ts_label: i64, deleted: bool) -> Label {
        let label = Some(format!("{revision}/{ts_label}"));
        Label {
            label_key: "k".into(),
            event_id: None,
            ts_label,
            ts_event: None,
            label,
            label_value: None,
            weight: None,
            source: None,
            revision,
            deleted,
        }
    }

    #[test]
    fn a_deleted_label_and_one_beyond_the_horizon_are_none() {
        let mut resolved = Resolved::default();
        resolved.add(label(0, 100, false));
        assert!(resolved.of("k", 50, 50).is_some());
        assert!(resolved.of("k", 50, 49).is_none());
        assert!(resolved.of("k", 500, 0).is_some(), "a label may be there before its row");
        resolved.add(label(1, 10, true));
        assert!(resolved.of("k", 50, 50).is_none());
        assert!(resolved.is_empty());
    }

    proptest! {
        #[test]
        fn what_counts_does_not_depend_on_the_order_or_on_repetition(
            mut said in prop::collection::vec((0i64..4, 0i64..50, any::<bool>()), 1..12),
        ) {
            let resolve = |said: &[(i64, i64, bool)]| {
                let mut resolved = Resolved::default();
                said.iter().for_each(|(r, t, d)| resolved.add(label(*r, *t, *d)));
                resolved.by_key["k"].label.clone()
            };
            let first = resolve(&said);
            said.reverse();
            let twice: Vec<_> = said.iter().chain(&said).copied().collect();
            prop_assert_eq!(resolve(&twice), first);
        }
    }
}
