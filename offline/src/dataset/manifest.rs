//! What is in a data set: its files with their digests, where they come from, what was left out; and its id.

use std::collections::BTreeMap;

use onnxd::predlog::digest;
use serde::Serialize;

use super::{blobs::Blobs, guards::Leak, split::Cuts};

/// One file of the data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Written {
    /// Below the data set's directory, or below that of what is withheld.
    pub path: String,
    pub slice: &'static str,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
    /// Of its rows, RFC 3339; none of no rows.
    pub first: Option<String>,
    pub last: Option<String>,
    /// Rows by label.
    pub labels: BTreeMap<String, u64>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    pub path: String,
    pub sha256: String,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Query {
    pub model: String,
    pub version: Option<String>,
    pub from: Option<i64>,
    pub to: Option<i64>,
    pub conditions: Vec<String>,
    pub routes: Vec<String>,
    pub features: Vec<String>,
    pub group: Option<String>,
    pub horizon_us: i64,
    pub maturity_us: i64,
    pub as_of: i64,
    pub cuts: Cuts,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Manifest {
    /// Of this file: 1.
    pub format: u32,
    /// The data set's id: of what was asked for and of the files' content, so that the same log gives the same one, wherever
    /// and whenever it is built, and however its files were put together meanwhile.
    pub id: String,
    pub query: Query,
    pub files: Vec<Written>,
    pub rows_seen: u64,
    /// Rows that were left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Columns that give the label away and were let through.
    pub suspect_columns: Vec<Leak>,
    /// Versions of the model whose signatures the rows have.
    pub signature_digests: Vec<String>,
    pub log_files: Vec<Source>,
    pub label_files: Vec<Source>,
    /// Of the program that built it.
    pub code: String,
    /// Large tensors that rows refer to.
    pub blobs: Blobs,
}

/// The id of a data set.
pub fn id(query: &Query, files: &[Written]) -> String {
    let content: Vec<(&str, u64, &str)> =
        files.iter().map(|file| (file.slice, file.rows, file.sha256.as_str())).collect();
    let text = serde_json::to_vec(&(query, content)).unwrap_or_default();
    digest::bytes(&text)
}
