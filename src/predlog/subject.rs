//! What is the same in all rows of a version: its names, its columns, and what becomes of their values.

use std::{collections::BTreeMap, sync::Arc};

use arrow_schema::SchemaRef;

use super::{
    columns::{self, Columns, Labelled},
    footer::LogSchema,
    options::LogOptions,
    redact::{Key, Redaction},
    schema::{self, Identity},
};
use crate::types::model::{Dim, Signature, TensorSpec};

/// A version as its rows have it.
pub struct Subject {
    pub model: Arc<str>,
    pub version: Arc<str>,
    /// SHA-256 of its files.
    pub digest: String,
    pub signature: Arc<Signature>,
    pub columns: Columns,
    /// By column: what is done to its values.
    pub redactions: Vec<Option<Redaction>>,
    pub options: LogOptions,
    pub schema: SchemaRef,
    pub footer: LogSchema,
    /// What it runs on.
    pub device: String,
    pub node: Arc<str>,
    /// For the keys of data subjects.
    pub key: Option<Key>,
    /// By tensor, inputs first: whether a column needs it.
    needed: Vec<bool>,
    /// Bytes of a row's outputs, as far as the signature tells.
    pub output_bytes: usize,
}

/// What a subject is made of.
pub struct Parts<'a> {
    pub model: &'a Arc<str>,
    pub version: &'a Arc<str>,
    pub digest: &'a str,
    pub signature: &'a Arc<Signature>,
    pub metadata: &'a BTreeMap<String, String>,
    pub options: &'a LogOptions,
    pub device: String,
    pub node: Arc<str>,
    pub key: Option<Key>,
}

impl Subject {
    /// # Errors
    /// The options do not fit the model, or need a key that is not there.
    pub fn new(parts: Parts<'_>) -> Result<Subject, String> {
        let Parts { model, version, digest, signature, metadata, options, .. } = parts;
        options.check()?;
        let columns = columns::decide(signature, metadata, options)?;
        if !options.subject.is_empty() && parts.key.is_none() {
            return Err("subject: expected prediction_log.key_file, which is not set".into());
        }
        let ready = |column: &columns::Column| {
            Redaction::new(&column.rule, parts.key.as_ref())
                .map_err(|error| format!("redact.{}: {error}", column.name))
        };
        let redactions = columns.columns.iter().map(ready).collect::<Result<_, _>>()?;
        let identity = Identity { model, version, digest };
        Ok(Subject {
            model: model.clone(),
            version: version.clone(),
            digest: digest.to_owned(),
            signature: signature.clone(),
            redactions,
            options: options.clone(),
            schema: schema::arrow(&columns.columns),
            footer: LogSchema::new(identity, signature, &columns),
            needed: needed(signature, &columns),
            output_bytes: output_bytes(signature),
            columns,
            device: parts.device,
            node: parts.node,
            key: parts.key,
        })
    }

    /// Whether a column needs this tensor; inputs count first.
    pub fn needs(&self, tensor: usize) -> bool {
        self.needed.get(tensor).copied().unwrap_or(false)
    }
}

fn needed(signature: &Signature, columns: &Columns) -> Vec<bool> {
    let inputs = signature.inputs.len();
    let mut needed = vec![false; inputs + signature.outputs.len()];
    let of_columns = columns.columns.iter().filter_map(|column| column.source.tensor());
    let label = columns.label.iter().map(|label| match label {
        Labelled::By(output) | Labelled::Best(output, _) => inputs + output,
    });
    // What is predicted also decides on samples, whether or not its columns are there.
    let score = columns.score.iter().map(|output| inputs + output);
    for at in of_columns.chain(label).chain(score) {
        if let Some(needed) = needed.get_mut(at) {
            *needed = true;
        }
    }
    needed
}

fn output_bytes(signature: &Signature) -> usize {
    let fixed = |spec: &TensorSpec| {
        let dims = spec.dims.iter().flatten();
        let elements = dims.map(|dim| match dim {
            Dim::Fixed(n) => usize::try_from(*n).unwrap_or(0),
            _ => 1,
        });
        elements.product::<usize>().saturating_mul(spec.datatype.size().unwrap_or(0))
    };
    signature.outputs.iter().map(fixed).sum::<usize>().min(64 << 10)
}
