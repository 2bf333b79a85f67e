//! One cell of the log as a value: from Arrow's arrays, to JSON and CSV. Pure.

use std::cmp::Ordering;

use arrow_array::{
    Array, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
    LargeStringArray, ListArray, MapArray, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::DataType;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value as Json;

/// A cell. The variants are the types that the log's files have.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Kept apart from `Double`, so that 0.1 is written as 0.1.
    Float(f32),
    Double(f64),
    Text(String),
    Binary(Vec<u8>),
    /// Microseconds since 1970, UTC.
    Time(i64),
    List(Vec<Value>),
    Map(Vec<(String, String)>),
}

/// The cell of a column. A type that the log does not have is an error that names it.
pub fn at(array: &dyn Array, row: usize) -> Result<Value, String> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let any = array.as_any();
    macro_rules! read {
        ($kind:ty, $make:expr) => {
            if let Some(array) = any.downcast_ref::<$kind>() {
                return Ok($make(array.value(row)));
            }
        };
    }
    read!(StringArray, |v: &str| Value::Text(v.to_owned()));
    read!(Float32Array, Value::Float);
    read!(Float64Array, Value::Double);
    read!(Int64Array, Value::Int);
    read!(Int32Array, |v: i32| Value::Int(i64::from(v)));
    read!(BooleanArray, Value::Bool);
    read!(TimestampMicrosecondArray, Value::Time);
    read!(BinaryArray, |v: &[u8]| Value::Binary(v.to_vec()));
    read!(LargeStringArray, |v: &str| Value::Text(v.to_owned()));
    if let Some(array) = any.downcast_ref::<ListArray>() {
        let items = array.value(row);
        return (0..items.len())
            .map(|n| at(items.as_ref(), n))
            .collect::<Result<_, _>>()
            .map(Value::List);
    }
    if let Some(array) = any.downcast_ref::<MapArray>() {
        return map(array, row);
    }
    Err(format!("the type {} is none that the log has", array.data_type()))
}

fn map(array: &MapArray, row: usize) -> Result<Value, String> {
    let entries = array.value(row);
    let (keys, values) = (entries.column(0), entries.column(1));
    let text = |value: Value| match value {
        Value::Text(text) => text,
        other => other.text(),
    };
    (0..entries.len())
        .map(|n| Ok((text(at(keys.as_ref(), n)?), text(at(values.as_ref(), n)?))))
        .collect::<Result<_, String>>()
        .map(Value::Map)
}

/// Whether the log's files have columns of this type.
pub fn is_of_the_log(kind: &DataType) -> bool {
    match kind {
        DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Float32 => true,
        DataType::Float64 | DataType::Utf8 | DataType::Binary => true,
        DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some(zone)) => {
            ["UTC", "+00:00"].contains(&zone.as_ref())
        }
        DataType::List(item) => is_of_the_log(item.data_type()),
        DataType::Map(entries, _) => matches!(entries.data_type(), DataType::Struct(fields)
            if fields.len() == 2 && fields.iter().all(|f| f.data_type() == &DataType::Utf8)),
        _ => false,
    }
}

/// A time as the log writes it in text: RFC 3339, microseconds, UTC.
pub fn time_text(us: i64) -> String {
    match DateTime::from_timestamp_micros(us) {
        Some(at) => at.to_rfc3339_opts(SecondsFormat::Micros, true),
        None => us.to_string(),
    }
}

/// What JSON has no number for is text, as in the Protocol Buffers JSON mapping.
fn number(value: f64, finite: impl Fn() -> Json) -> Json {
    match value {
        v if v.is_finite() => finite(),
        v if v.is_nan() => Json::from("NaN"),
        v if v > 0.0 => Json::from("Infinity"),
        _ => Json::from("-Infinity"),
    }
}

impl Value {
    pub fn json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bool(v) => Json::from(*v),
            Value::Int(v) => Json::from(*v),
            // By its shortest text, so that the number is not made longer than it was.
            Value::Float(v) => number(f64::from(*v), || {
                v.to_string().parse::<f64>().map(Json::from).unwrap_or(Json::Null)
            }),
            Value::Double(v) => number(*v, || Json::from(*v)),
            Value::Text(v) => Json::from(v.as_str()),
            Value::Binary(v) => Json::from(BASE64_STANDARD.encode(v)),
            Value::Time(us) => Json::from(time_text(*us)),
            Value::List(items) => items.iter().map(Value::json).collect(),
            Value::Map(items) => Json::Object(
                items.iter().map(|(k, v)| (k.clone(), Json::from(v.as_str()))).collect(),
            ),
        }
    }

    /// For a CSV cell or a person; nothing for null.
    pub fn text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Text(v) => v.clone(),
            other => match other.json() {
                Json::String(text) => text,
                json => json.to_string(),
            },
        }
    }

    /// As a number, where it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Bool(v) => Some(f64::from(u8::from(*v))),
            Value::Int(v) | Value::Time(v) => Some(*v as f64),
            Value::Float(v) => Some(f64::from(*v)),
            Value::Double(v) => Some(*v),
            _ => None,
        }
    }

    /// Compares with a value written as text; `None` where the two have no order, as with null or NaN.
    pub fn compare(&self, text: &str) -> Option<Ordering> {
        match self {
            Value::Null => None,
            Value::Text(own) => Some(own.as_str().cmp(text)),
            Value::Bool(own) => text.parse().ok().map(|v| own.cmp(&v)),
            Value::Int(own) => match text.parse::<i64>() {
                Ok(v) => Some(own.cmp(&v)),
                Err(_) => (*own as f64).partial_cmp(&text.parse().ok()?),
            },
            Value::Float(own) => own.partial_cmp(&text.parse().ok()?),
            Value::Double(own) => own.partial_cmp(&text.parse().ok()?),
            Value::Time(own) => Some(own.cmp(&super::condition::time(text).ok()?)),
            Value::Binary(_) | Value::List(_) | Value::Map(_) => {
                Some(self.text().as_str().cmp(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_written_as_they_were() {
        assert_eq!(Value::Float(0.1).json(), json!(0.1));
        assert_eq!(Value::Double(0.1).json(), json!(0.1));
        assert_eq!(Value::Float(f32::NAN).json(), json!("NaN"));
        assert_eq!(Value::Double(f64::NEG_INFINITY).json(), json!("-Infinity"));
        assert_eq!(Value::Int(i64::MIN).json(), json!(i64::MIN));
        assert_eq!(Value::Float(f32::MAX).json().as_f64(), Some(3.4028235e38));
    }

    #[test]
    fn comparisons_know_their_types() {
        assert_eq!(Value::Int(9).compare("10"), Some(Ordering::Less));
        assert_eq!(Value::Int(9).compare("8.5"), Some(Ordering::Greater));
        assert_eq!(Value::Text("9".into()).compare("10"), Some(Ordering::Greater));
        assert_eq!(Value::Float(0.1).compare("0.1"), Some(Ordering::Equal));
        assert_eq!(Value::Double(f64::NAN).compare("0"), None);
        assert_eq!(Value::Null.compare(""), None);
        assert_eq!(Value::Time(1_000_000).compare("1970-01-01T00:00:01Z"), Some(Ordering::Equal));
    }
}
