//! The columns as Arrow types, and the footer that says what each of them is.

use std::{collections::HashMap, sync::Arc};

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use sha2::{Digest, Sha256};

use super::{
    columns::{Column, Columns, Kind, Scalar, Source},
    footer::{self, ColumnRole, LogSchema, Part},
    redact::Rule,
};
use crate::types::model::Signature;

/// The version whose rows these are.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub model: &'a str,
    pub version: &'a str,
    pub digest: &'a str,
}

impl LogSchema {
    pub fn new(identity: Identity<'_>, signature: &Signature, columns: &Columns) -> LogSchema {
        let described: Vec<ColumnRole> =
            columns.columns.iter().map(|column| describe(column, signature)).collect();
        let rules: Vec<(&str, &Rule)> =
            columns.columns.iter().map(|column| (&*column.name, &column.rule)).collect();
        let rules = serde_json::to_vec(&rules).unwrap_or_default();
        let text = serde_json::to_vec(&described).unwrap_or_default();
        LogSchema {
            format: footer::FORMAT,
            model: identity.model.into(),
            version: identity.version.into(),
            model_digest: identity.digest.into(),
            signature_digest: hex::encode(Sha256::digest(signature_text(signature))),
            schema_id: hex::encode(&Sha256::digest(text)[..8]),
            redaction_rev: (crc32c::crc32c(&rules) & i32::MAX as u32).cast_signed(),
            layout: if columns.table { "table" } else { "tensor" }.into(),
            columns: described,
        }
    }
}

fn signature_text(signature: &Signature) -> String {
    let side = |specs: &[crate::types::model::TensorSpec]| -> String {
        specs.iter().map(|s| format!("{} {} {}\n", s.name, s.datatype, s.shape_text())).collect()
    };
    format!("{}\n{}", side(&signature.inputs), side(&signature.outputs))
}

fn describe(column: &Column, signature: &Signature) -> ColumnRole {
    let inputs = signature.inputs.len();
    let (index, part) = match column.source {
        Source::Meta(_) | Source::PredLabel | Source::PredScore => (None, None),
        Source::Element { at, .. } => (Some(at), Some(Part::Value)),
        Source::Whole { .. } => (None, Some(Part::Value)),
        Source::Shape { .. } => (None, Some(Part::Shape)),
        Source::Digest { .. } => (None, Some(Part::Sha256)),
        Source::Reference { .. } => (None, Some(Part::Ref)),
    };
    let spec = column.source.tensor().and_then(|at| match at.checked_sub(inputs) {
        None => signature.inputs.get(at),
        Some(at) => signature.outputs.get(at),
    });
    ColumnRole {
        name: column.name.to_string(),
        role: column.role(inputs),
        kind: column.kind.name(),
        tensor: spec.map(|spec| spec.name.to_string()),
        index: index.and_then(|index| u32::try_from(index).ok()),
        datatype: spec.map(|spec| spec.datatype.to_string()),
        part,
        redaction: (column.rule != Rule::Keep).then(|| column.rule.name().to_owned()),
    }
}

/// The Arrow schema of these columns.
pub fn arrow(columns: &[Column]) -> SchemaRef {
    let fields: Fields = columns
        .iter()
        .map(|column| Field::new(&*column.name, data_type(column.kind), column.nullable))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The same with a footer in it.
pub fn with_footer(schema: &Schema, footer: &str) -> SchemaRef {
    let metadata = HashMap::from([(footer::KEY.to_owned(), footer.to_owned())]);
    Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))
}

fn scalar_type(scalar: Scalar) -> DataType {
    match scalar {
        Scalar::Bool => DataType::Boolean,
        Scalar::Int32 => DataType::Int32,
        Scalar::Int64 => DataType::Int64,
        Scalar::Float => DataType::Float32,
        Scalar::Double => DataType::Float64,
        Scalar::String => DataType::Utf8,
    }
}

/// The Arrow type of a column.
pub fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Scalar(scalar) => scalar_type(scalar),
        Kind::List(scalar) => DataType::List(element(scalar)),
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Map => DataType::Map(Arc::new(Field::new("key_value", entries(), false)), false),
    }
}

/// The field of a list's elements.
pub fn element(scalar: Scalar) -> Arc<Field> {
    Arc::new(Field::new("element", scalar_type(scalar), true))
}

/// The entries of a map.
pub fn entries() -> DataType {
    let key = Field::new("key", DataType::Utf8, false);
    DataType::Struct(vec![key, Field::new("value", DataType::Utf8, true)].into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        predlog::{columns::decide, footer::Role, options::LogOptions},
        types::{
            datatype::Datatype,
            model::{Dim, TensorSpec},
        },
    };

    #[test]
    fn equal_columns_have_equal_ids_and_a_rule_changes_both() {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims: Some(vec![Dim::Any, Dim::Fixed(2)]),
            optional: false,
            labels: None,
        };
        let signature =
            Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], can_batch: true };
        let footer = |options: &LogOptions| {
            let columns = decide(&signature, &BTreeMap::new(), options).expect("decided");
            let schema = arrow(&columns.columns);
            assert_eq!(schema.fields().len(), columns.columns.len());
            let identity = Identity { model: "m", version: "1", digest: "d" };
            LogSchema::new(identity, &signature, &columns)
        };
        let plain = footer(&LogOptions::default());
        assert_eq!(plain, footer(&LogOptions::default()));
        let redact = [("in_x".to_owned(), Rule::Round(0.1))].into();
        let rounded = footer(&LogOptions { redact, ..LogOptions::default() });
        assert_ne!(plain.schema_id, rounded.schema_id);
        assert_ne!(plain.redaction_rev, rounded.redaction_rev);
        let read = LogSchema::parse(&plain.text()).expect("readable");
        assert_eq!(read, plain);
        let x = plain.columns.iter().find(|column| column.name == "in_x").expect("a column");
        assert_eq!((x.role, &*x.kind), (Role::Feature, "list<float>"));
        assert_eq!((x.tensor.as_deref(), x.datatype.as_deref()), (Some("x"), Some("FP32")));
    }
}
