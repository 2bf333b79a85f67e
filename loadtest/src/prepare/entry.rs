//! One entry of a mix, as a scenario or the flags state it: which model is asked, with what, and how often.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{moment::Moment, units::Span};

/// One kind of request among those of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What its figures stand under. Default: model, version and what tells it from the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub model: String,
    /// The version that is asked for; without one the server chooses.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "version")]
    pub version: Option<String>,
    /// Its share of the requests, relative to the others'. Default: 1.
    #[serde(default = "one")]
    pub weight: f64,
    /// Instances in a request: the length of the first axis. Default: 1.
    #[serde(default = "one_row")]
    pub rows: u64,
    /// Shapes of inputs whose axes the model leaves open, without the first axis where the model can batch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// Least and greatest value of generated inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranges: BTreeMap<String, [f64; 2]>,
    /// Requests from a file: `.jsonl`, `.npy`, `.npz` or `.parquet`. Without one they are generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<PathBuf>,
    /// Requests from a prediction log of onnxd, each with the inputs that it had. Without one they are generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogSource>,
    /// Recorded answers that the server's are held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<PathBuf>,
    /// How far a floating-point number may be from the recorded one, relative to 1 plus its size. Default: 0.0001.
    #[serde(default = "tolerance")]
    pub tolerance: f64,
    /// Different requests that are generated, and taken in turn. Default: 64.
    #[serde(default = "distinct")]
    pub distinct: u64,
    /// Headers (gRPC metadata) of each request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The protocol's `priority` parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u64>,
    /// What the server is told of how long the caller waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

/// Which rows of which log. What `onnxd loadtest` takes is the files: rows that are still in the write-ahead log are not among them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSource {
    /// The log's folder, a folder in it, or its files.
    pub paths: Vec<PathBuf>,
    /// Whose rows. Default: those of the model that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Rows that this version answered. Default: every version's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "version")]
    pub version: Option<String>,
    /// Received then or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Moment>,
    /// Received before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
}

fn one() -> f64 {
    1.0
}

fn one_row() -> u64 {
    1
}

fn tolerance() -> f64 {
    1e-4
}

fn distinct() -> u64 {
    64
}

impl Entry {
    /// One request of one instance at a time to a model, everything else by default.
    pub fn of(model: &str) -> Entry {
        Entry {
            name: None,
            model: model.to_owned(),
            version: None,
            weight: one(),
            rows: one_row(),
            shapes: BTreeMap::new(),
            ranges: BTreeMap::new(),
            input: None,
            log: None,
            golden: None,
            tolerance: tolerance(),
            distinct: distinct(),
            headers: BTreeMap::new(),
            priority: None,
            deadline: None,
        }
    }
}

/// `version: 2` and `version: "2"` are the same.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Either;
    impl de::Visitor<'_> for Either {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a version, as in 2")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }
    }
    deserializer.deserialize_any(Either)
}
