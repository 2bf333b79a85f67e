//! Which columns a data set has: the features of all versions, what tells rows apart, and the labels.

use std::{collections::BTreeMap, sync::Arc};

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use onnxd::predlog::{
    export::united,
    footer::{ColumnRole, LogSchema, Role},
    reader::{LogFile, Opened},
};

use super::build::{Refused, Request};

/// What of the log goes into the data set.
pub struct Columns {
    /// By name.
    pub features: Vec<ColumnRole>,
    pub signature_digests: Vec<String>,
    /// What is read of each file.
    pub read: Vec<String>,
    /// What is written, labels included.
    pub schema: SchemaRef,
    /// Rows of all files together.
    pub rows: u64,
}

impl Columns {
    pub fn of(files: &[LogFile], request: &Request) -> Result<Columns, Refused> {
        let (mut schemas, mut roles): (Vec<SchemaRef>, Vec<LogSchema>) = (Vec::new(), Vec::new());
        let mut rows = 0;
        for file in files {
            let opened = Opened::at(&file.path)?;
            rows += opened.rows;
            let role = opened.roles()?;
            if !schemas.contains(&opened.schema) {
                schemas.push(opened.schema.clone());
            }
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        if roles.is_empty() {
            return Err(Refused::TooLittle(format!(
                "no row of model {} is asked for",
                request.model
            )));
        }
        let features = features(&roles, &request.features)?;
        let mut read: Vec<String> = ["event_id", "label_key", "ts", "model_version", "sample_p"]
            .map(str::to_owned)
            .to_vec();
        let has = |name: &str| schemas.iter().any(|schema| schema.index_of(name).is_ok());
        let more = ["subject_key"].into_iter().chain(request.group.as_deref());
        for name in more.filter(|name| has(name)) {
            if !read.iter().any(|known| known == name) {
                read.push(name.to_owned());
            }
        }
        read.extend(features.iter().map(|feature| feature.name.clone()));
        let kept: Vec<SchemaRef> = schemas.iter().map(|schema| only(schema, &read)).collect();
        let from_log = united(&kept).map_err(Refused::Usage)?;
        let mut digests: Vec<String> =
            roles.into_iter().map(|role| role.signature_digest).collect();
        digests.sort_unstable();
        digests.dedup();
        let schema = with_labels(&from_log);
        Ok(Columns { features, signature_digests: digests, read, schema, rows })
    }
}

fn only(schema: &SchemaRef, names: &[String]) -> SchemaRef {
    let fields = names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// Features of all versions, by name; of those that were asked for, each has to be one.
fn features(roles: &[LogSchema], asked: &[String]) -> Result<Vec<ColumnRole>, Refused> {
    let mut found: BTreeMap<&str, &ColumnRole> = BTreeMap::new();
    for column in roles.iter().flat_map(|role| role.of(Role::Feature)) {
        found.entry(&column.name).or_insert(column);
    }
    if asked.is_empty() {
        return Ok(found.into_values().cloned().collect());
    }
    asked
        .iter()
        .map(|name| {
            found.get(name.as_str()).map(|column| (*column).clone()).ok_or_else(|| {
                let known: Vec<&str> = found.keys().copied().collect();
                Refused::Usage(format!(
                    "--features: {name} is no feature of the log: {}",
                    known.join(", ")
                ))
            })
        })
        .collect()
}

fn with_labels(schema: &SchemaRef) -> SchemaRef {
    let kept = schema.fields().iter().filter(|field| field.name() != "sample_p");
    let mut fields: Vec<Arc<Field>> = kept.cloned().collect();
    fields.push(Arc::new(Field::new("label", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("label_value", DataType::Float64, true)));
    fields.push(Arc::new(Field::new("sample_weight", DataType::Float64, false)));
    Arc::new(Schema::new(fields))
}
