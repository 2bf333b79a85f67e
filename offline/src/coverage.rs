//! How many logged rows have a label, by window of time, and how long labels take.

use std::collections::BTreeMap;

use arrow_array::{Array, Int32Array, RecordBatch, StringArray};
use onnxd::predlog::{
    labels::Resolved,
    reader::{Filter, LogFile, ReadError, failed, rows, times},
    stat::Spread,
};

/// Rows of one window of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    pub rows: u64,
    pub labelled: u64,
    /// By the label's text.
    pub by_label: BTreeMap<String, u64>,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By when the window begins, microseconds since 1970.
    pub windows: BTreeMap<i64, Window>,
    /// From a row to its label, seconds.
    pub delays: Spread,
    /// Keys that have a label and no row (yet).
    pub without_row: u64,
    found: u64,
}

/// Different labels that are counted apart.
const DISTINCT: usize = 64;

/// Counts rows that were answered well (status 200, no shadow): the others wait for no label.
pub fn count(
    files: &[LogFile],
    filter: &Filter,
    labels: &Resolved,
    (width, horizon): (i64, i64),
) -> Result<Coverage, ReadError> {
    let mut coverage = Coverage::default();
    let columns = ["label_key", "status", "route"].map(str::to_owned);
    for file in files {
        for batch in rows(file, filter, Some(&columns))? {
            let batch = batch?;
            coverage.add(&batch, labels, width, horizon).map_err(|why| failed(&file.path, why))?;
        }
    }
    coverage.without_row = (labels.len() as u64).saturating_sub(coverage.found);
    Ok(coverage)
}

impl Coverage {
    fn add(
        &mut self,
        batch: &RecordBatch,
        labels: &Resolved,
        width: i64,
        horizon: i64,
    ) -> Result<(), String> {
        let (keys, routes) = (texts(batch, "label_key")?, texts(batch, "route")?);
        let status = numbers(batch, "status")?;
        for (row, ts) in times(batch)?.values().iter().enumerate() {
            if status.value(row) != 200 || routes.value(row) == "shadow" {
                continue;
            }
            let window = self.windows.entry(ts.div_euclid(width) * width).or_default();
            window.rows += 1;
            let Some(label) = labels.of(keys.value(row), *ts, horizon) else { continue };
            window.labelled += 1;
            self.found += 1;
            self.delays.add(u64::try_from((label.ts_label - ts) / 1_000_000).unwrap_or(0));
            let text = label.label.clone().unwrap_or_default();
            let known = window.by_label.contains_key(&text) || window.by_label.len() < DISTINCT;
            *window.by_label.entry(if known { text } else { "(other)".to_owned() }).or_default() +=
                1;
        }
        Ok(())
    }
}

/// A text column.
pub fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, String> {
    column(batch, name)
}

/// A column of 32-bit numbers.
pub fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int32Array, String> {
    column(batch, name)
}

/// A column of a type.
pub fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, String> {
    batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<T>()).ok_or_else(
        || format!("the column {name} is missing or of another type than the log has it"),
    )
}
