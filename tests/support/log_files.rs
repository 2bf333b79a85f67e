//! Files of the prediction log as a server writes them, made by hand: known rows to read back.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{fs, fs::File, path::Path, sync::Arc};

use arrow_array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray, types::Float32Type,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
    schema::types::ColumnPath,
};

/// 2026-01-31 09:00 UTC, in microseconds since 1970.
pub const NINE: i64 = 1_769_850_000_000_000;

/// Rows of one file: numbered from `first`, a second apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub model: &'a str,
    pub version: &'a str,
    pub first: usize,
    pub count: usize,
    /// When number 0 was received.
    pub since: i64,
}

impl Rows<'_> {
    /// Rows of model `churn`, version 1, from nine o'clock on.
    pub fn numbered(first: usize, count: usize) -> Rows<'static> {
        Rows { model: "churn", version: "1", first, count, since: NINE }
    }

    fn ts(&self, n: usize) -> i64 {
        self.since + n as i64 * 1_000_000
    }
}

/// Feature `a` of row `n`; every 50th is missing.
pub fn feature_a(n: usize) -> Option<f32> {
    (n % 50 != 49).then(|| n as f32 / 10.0)
}

/// Every tenth request failed.
pub fn status(n: usize) -> i32 {
    if n % 10 == 9 { 429 } else { 200 }
}

fn good(n: usize) -> bool {
    status(n) == 200
}

/// Whom row `n` is about: one of seven.
pub fn subject(n: usize) -> String {
    format!("subject-{}", n % 7)
}

fn texts(numbers: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(numbers.collect::<StringArray>())
}

pub fn batch(rows: Rows<'_>) -> RecordBatch {
    let numbers = || rows.first..rows.first + rows.count;
    let text = |of: &dyn Fn(usize) -> Option<String>| texts(numbers().map(of));
    let us = |of: &dyn Fn(usize) -> i64| -> ArrayRef {
        Arc::new(numbers().map(|n| good(n).then(|| of(n))).collect::<Int64Array>())
    };
    let times: TimestampMicrosecondArray = numbers().map(|n| Some(rows.ts(n))).collect();
    let probabilities = ListArray::from_iter_primitive::<Float32Type, _, _>(
        numbers().map(|n| good(n).then(|| vec![Some(0.25f32), Some(0.75)])),
    );
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "event_id",
            text(&|n| Some(format!("019c{:04x}-0000-7000-8000-{n:012x}", rows.version.len()))),
        ),
        ("request_id", text(&|n| Some(format!("r{n}")))),
        ("row", Arc::new(numbers().map(|_| Some(0)).collect::<Int32Array>())),
        ("label_key", text(&|n| Some(format!("k{n}")))),
        ("ts", Arc::new(times.with_timezone("UTC"))),
        ("model_name", text(&|_| Some(rows.model.to_owned()))),
        ("model_version", text(&|_| Some(rows.version.to_owned()))),
        ("model_digest", text(&|_| Some("d".repeat(64)))),
        ("route", text(&|n| Some(if n % 4 == 3 { "canary" } else { "primary" }.to_owned()))),
        ("protocol", text(&|_| Some("http".to_owned()))),
        ("status", Arc::new(numbers().map(|n| Some(status(n))).collect::<Int32Array>())),
        ("error_code", text(&|n| (!good(n)).then(|| "overloaded".to_owned()))),
        ("cache", text(&|_| Some("bypass".to_owned()))),
        ("infer_us", us(&|n| n as i64)),
        ("total_us", us(&|n| n as i64 + 100)),
        ("subject_key", text(&|n| Some(subject(n)))),
        ("sample_p", Arc::new(numbers().map(|_| Some(0.5)).collect::<Float64Array>())),
        ("in_a", Arc::new(numbers().map(feature_a).collect::<Float32Array>())),
        ("in_b", Arc::new(numbers().map(|n| Some(-(n as f32))).collect::<Float32Array>())),
        ("out_p", Arc::new(probabilities)),
        ("pred_label", text(&|n| good(n).then(|| (n % 3).to_string()))),
        (
            "pred_score",
            Arc::new(numbers().map(|n| good(n).then_some(0.75)).collect::<Float64Array>()),
        ),
    ];
    let required = ["ts", "row", "status", "sample_p", "event_id", "request_id", "label_key"];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, kind(column), !required.contains(name)))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
}

fn kind(column: &ArrayRef) -> DataType {
    match column.data_type() {
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => other.clone(),
    }
}

/// What the footer says of these columns.
pub fn footer(rows: Rows<'_>) -> String {
    let schema = batch(Rows { count: 0, ..rows }).schema();
    let column = |field: &Arc<Field>| {
        let name = field.name();
        let (role, more) = match name.as_str() {
            "in_a" => ("feature", r#","tensor":"x","index":0,"datatype":"FP32","part":"value""#),
            "in_b" => ("feature", r#","tensor":"x","index":1,"datatype":"FP32","part":"value""#),
            "out_p" => ("prediction", r#","tensor":"p","datatype":"FP32","part":"value""#),
            "pred_label" | "pred_score" => ("prediction", ""),
            _ => ("meta", ""),
        };
        format!(r#"{{"name":"{name}","role":"{role}","type":"-"{more}}}"#)
    };
    let columns: Vec<String> = schema.fields().iter().map(column).collect();
    format!(
        r#"{{"format":1,"schema_id":"s1","model":"{}","version":"{}","layout":"table","model_digest":"d","signature_digest":"e","redaction_rev":0,"columns":[{}]}}"#,
        rows.model,
        rows.version,
        columns.join(",")
    )
}

/// Writes rows as `name` where they belong below `root`.
pub fn write(root: &Path, name: &str, rows: Rows<'_>) {
    let hour = (rows.ts(rows.first) - NINE).div_euclid(3_600_000_000) + 9;
    let dir = format!(
        "log/v1/model={}/version={}/date=2026-01-{}/hour={}",
        rows.model,
        rows.version,
        31 + hour.div_euclid(24),
        hour.rem_euclid(24)
    );
    let dir = root.join(dir);
    fs::create_dir_all(&dir).expect("a directory");
    write_at(&dir.join(name), &batch(rows), Some(footer(rows)));
}

pub fn write_at(path: &Path, batch: &RecordBatch, footer: Option<String>) {
    let mut properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(64))
        .set_compression(Compression::ZSTD(ZstdLevel::default()));
    for column in ["event_id", "label_key", "subject_key"] {
        properties = properties.set_column_bloom_filter_enabled(ColumnPath::from(column), true);
    }
    let pair = footer.map(|text| vec![KeyValue::new("serving.log.schema".to_owned(), text)]);
    let properties = properties.set_key_value_metadata(pair).build();
    let file = File::create(path).expect("a file");
    let mut writer =
        ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("closed");
}
