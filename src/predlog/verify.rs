//! Holds the files of a log to what they promise: every row is read, nothing is believed.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use arrow_array::{Array, Float64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Schema, TimeUnit};

use super::{
    blobs, digest,
    layout::Partition,
    reader::{LogFile, Opened, ReadError, times},
    value,
};

/// One file's findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
    /// Nothing where it holds; at most one line a kind of problem.
    pub problems: Vec<String>,
}

/// Columns that every row has, and their types.
fn required() -> [(&'static str, DataType); 12] {
    [
        ("event_id", DataType::Utf8),
        ("request_id", DataType::Utf8),
        ("row", DataType::Int32),
        ("label_key", DataType::Utf8),
        ("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ("model_name", DataType::Utf8),
        ("model_version", DataType::Utf8),
        ("route", DataType::Utf8),
        ("protocol", DataType::Utf8),
        ("status", DataType::Int32),
        ("cache", DataType::Utf8),
        ("sample_p", DataType::Float64),
    ]
}

/// What was seen of one hour: the event ids, so that a row that is in two of its files is found, and the blobs, each of which is read once.
#[derive(Debug, Default)]
pub struct Seen {
    ids: HashSet<u128>,
    blobs: HashMap<String, Blob>,
}

/// What became of a blob that a row refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blob {
    Whole,
    Gone,
    Damaged,
}

/// Reads a file of the log below `root` whole, and the blobs that it refers to. The error is for what cannot be read at all, such as a
/// file that has gone.
pub fn file(root: &Path, file: &LogFile, seen: &mut Seen) -> Result<Checked, ReadError> {
    let sha256 = digest::file(&file.path)?;
    let mut checked = Checked { rows: 0, bytes: file.bytes, sha256, problems: Vec::new() };
    if let Err(why) = read(root, file, seen, &mut checked) {
        checked.problems.push(why.0);
    }
    Ok(checked)
}

fn read(
    root: &Path,
    file: &LogFile,
    seen: &mut Seen,
    checked: &mut Checked,
) -> Result<(), ReadError> {
    let opened = Opened::at(&file.path)?;
    let mut refer = Vec::new();
    checked.problems.extend(columns(&opened.schema));
    match opened.roles() {
        Ok(roles) => {
            refer = blobs::columns(&roles);
            let named: HashSet<&str> = roles.columns.iter().map(|c| c.name.as_str()).collect();
            let there: HashSet<&str> =
                opened.schema.fields().iter().map(|f| f.name().as_str()).collect();
            let mut odd: Vec<&str> = named.symmetric_difference(&there).copied().collect();
            odd.sort_unstable();
            if !odd.is_empty() {
                checked.problems.push(format!("columns and footer differ in {}", odd.join(", ")));
            }
        }
        Err(why) => checked.problems.push(why.0),
    }
    if !checked.problems.is_empty() && columns(&opened.schema).next().is_some() {
        return Ok(());
    }
    let promised = opened.rows;
    let mut wrong = Wrong::default();
    for batch in opened.batches(None)? {
        let batch = batch?;
        checked.rows += batch.num_rows() as u64;
        wrong.look(&batch, &file.partition, seen).map_err(ReadError)?;
        for reference in blobs::references(&batch, &refer) {
            wrong.refer(root, reference, seen);
        }
    }
    if checked.rows != promised {
        checked
            .problems
            .push(format!("the footer promises {promised} rows, and it has {}", checked.rows));
    }
    checked.problems.extend(wrong.lines(&file.partition));
    Ok(())
}

/// What is wrong with the columns.
fn columns(schema: &Schema) -> impl Iterator<Item = String> {
    let missing =
        required().into_iter().filter_map(|(name, kind)| match schema.field_with_name(name) {
            Err(_) => Some(format!("there is no column {name}")),
            Ok(field) if *field.data_type() != kind => {
                Some(format!("the column {name} is {}, expected {kind}", field.data_type()))
            }
            Ok(_) => None,
        });
    let foreign = schema.fields().iter().filter(|field| !value::is_of_the_log(field.data_type()));
    let foreign = foreign.map(|field| {
        format!("the column {} is {}, which not every reader has", field.name(), field.data_type())
    });
    missing.chain(foreign.collect::<Vec<_>>())
}

/// Rows that do not hold, by kind.
#[derive(Debug, Default)]
struct Wrong {
    elsewhere: u64,
    other_model: u64,
    doubles: u64,
    shares: u64,
    nulls: u64,
    blobs_gone: u64,
    blobs_damaged: u64,
}

impl Wrong {
    fn refer(&mut self, root: &Path, reference: &str, seen: &mut Seen) {
        let look = || match blobs::read(root, reference) {
            Ok(Some(_)) => Blob::Whole,
            Ok(None) => Blob::Gone,
            Err(_) => Blob::Damaged,
        };
        let found = match seen.blobs.get(reference) {
            Some(found) => *found,
            None => *seen.blobs.entry(reference.to_owned()).or_insert_with(look),
        };
        self.blobs_gone += u64::from(found == Blob::Gone);
        self.blobs_damaged += u64::from(found == Blob::Damaged);
    }

    fn look(
        &mut self,
        batch: &RecordBatch,
        partition: &Partition,
        seen: &mut Seen,
    ) -> Result<(), String> {
        for ts in times(batch)?.values() {
            self.elsewhere += u64::from(*ts < partition.begins() || *ts >= partition.ends());
        }
        for (name, expected) in
            [("model_name", &partition.model), ("model_version", &partition.version)]
        {
            let texts = texts(batch, name)?;
            self.other_model +=
                texts.iter().filter(|text| *text != Some(expected.as_str())).count() as u64;
        }
        for (name, _) in required() {
            let column = batch.column_by_name(name);
            self.nulls += column.map_or(0, |column| column.null_count() as u64);
        }
        for id in ids(batch)? {
            self.doubles += u64::from(!seen.ids.insert(id));
        }
        let shares = batch.column_by_name("sample_p");
        if let Some(shares) = shares.and_then(|c| c.as_any().downcast_ref::<Float64Array>()) {
            self.shares +=
                shares.iter().flatten().filter(|p| !(*p > 0.0 && *p <= 1.0)).count() as u64;
        }
        Ok(())
    }

    fn lines(&self, partition: &Partition) -> Vec<String> {
        let hour = value::time_text(partition.begins());
        [
            (self.elsewhere, format!("rows were not received in the hour of {hour}")),
            (
                self.other_model,
                format!(
                    "cells name another model or version than {}/{}",
                    partition.model, partition.version
                ),
            ),
            (self.doubles, "rows are there twice (event_id)".to_owned()),
            (self.shares, "rows have a sample_p outside (0, 1]".to_owned()),
            (self.nulls, "cells are null that must not be".to_owned()),
            (self.blobs_gone, "cells refer to blobs that are not there".to_owned()),
            (self.blobs_damaged, "cells refer to blobs that do not hold what they name".to_owned()),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

/// The ids of the rows. One that is null, which none may be, is that of an empty text.
///
/// # Errors
/// There is no such column.
pub fn ids(batch: &RecordBatch) -> Result<Vec<u128>, String> {
    Ok(texts(batch, "event_id")?.iter().map(|id| hash(id.unwrap_or_default())).collect())
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, String> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_any().downcast_ref::<StringArray>())
        .ok_or_else(|| format!("there is no text column {name}"))
}

/// Half a digest: a UUID's 16 bytes where it is one, so that nothing collides.
fn hash(id: &str) -> u128 {
    let digits: String = id.chars().filter(|c| *c != '-').collect();
    match (digits.len(), u128::from_str_radix(&digits, 16)) {
        (32, Ok(id)) => id,
        _ => {
            let digest = digest::bytes(id.as_bytes());
            u128::from_str_radix(&digest[..32], 16).unwrap_or_default()
        }
    }
}
