//! Replay: what was logged, asked of a version once more, and its answers held beside those that were logged.

pub mod compare;
pub mod elements;
pub mod http;
pub mod inputs;
pub mod local;
pub mod page;
pub mod run;
pub mod server;

use onnxd::predlog::value::Value;
use serde_json::Value as Json;

/// An input as the target declares it; -1 where a dimension is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    pub name: String,
    pub datatype: String,
    pub dims: Vec<i64>,
}

/// One output of an answer: every element, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub dims: Vec<i64>,
    pub values: Vec<Value>,
}

/// What answers.
pub trait Target {
    fn inputs(&self) -> &[InputSpec];

    /// For the report: what it is, and where.
    fn describe(&self) -> Json;

    /// Asks it once; `body` is a request of the Open Inference Protocol as JSON.
    ///
    /// # Errors
    /// What it says against the request. A target that has gone says so for each.
    fn ask(&mut self, body: &Json) -> Result<Vec<Output>, String>;
}

/// An element of an answer in JSON, as its datatype has it.
pub fn element(datatype: &str, json: &Json) -> Value {
    let float = || match json {
        Json::String(text) if text == "NaN" => Some(f64::NAN),
        Json::String(text) if text == "Infinity" => Some(f64::INFINITY),
        Json::String(text) if text == "-Infinity" => Some(f64::NEG_INFINITY),
        other => other.as_f64(),
    };
    match datatype {
        "FP16" | "BF16" | "FP32" => float().map_or(Value::Null, |v| Value::Float(v as f32)),
        "FP64" => float().map_or(Value::Null, Value::Double),
        "BOOL" => json.as_bool().map_or(Value::Null, Value::Bool),
        "BYTES" => json.as_str().map_or(Value::Null, |v| Value::Text(v.to_owned())),
        "UINT64" => json.as_u64().map_or(Value::Null, |v| Value::Text(v.to_string())),
        _ => json.as_i64().map_or(Value::Null, Value::Int),
    }
}
