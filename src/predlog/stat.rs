//! What a log holds, counted: rows, outcomes, latencies, columns.

use std::collections::BTreeMap;

use arrow_array::{Array, Float64Array, Int64Array, RecordBatch};

use super::{
    reader::{Filter, LogFile, ReadError, failed, rows, times},
    value::{self, Value},
};

/// Different values of a column that are counted apart; the rest is `(other)`.
const DISTINCT: usize = 64;

/// Values in buckets of 1.6 % width, so that quantiles of any number of them cost a few KiB.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    buckets: BTreeMap<u32, u64>,
    pub count: u64,
    pub max: u64,
}

/// Buckets within a doubling, as a power of two.
const SUB_BITS: u32 = 6;

impl Spread {
    pub fn add(&mut self, value: u64) {
        *self.buckets.entry(bucket(value)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// The value that a share `q` of all is at most; `None` of none.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return Some(upper(*bucket).min(self.max));
            }
        }
        None
    }
}

fn bucket(value: u64) -> u32 {
    let bits = 64 - value.leading_zeros();
    match bits.checked_sub(SUB_BITS + 1) {
        None => value as u32,
        Some(shift) => {
            ((shift + 1) << SUB_BITS) + ((value >> shift) as u32 & ((1 << SUB_BITS) - 1))
        }
    }
}

/// The largest value of a bucket.
fn upper(bucket: u32) -> u64 {
    match (bucket >> SUB_BITS).checked_sub(1) {
        None => u64::from(bucket),
        Some(shift) => {
            let low = u64::from((bucket & ((1 << SUB_BITS) - 1)) | (1 << SUB_BITS)) << shift;
            low + ((1u64 << shift) - 1)
        }
    }
}

/// One column over all files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    pub kind: String,
    pub nulls: u64,
    pub values: u64,
    /// Of its finite numbers, where it has such.
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub sum: f64,
    pub not_finite: u64,
}

/// What one version's rows amount to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
    /// How many rows there were before sampling: the sum of 1 / `sample_p`.
    pub estimated_rows: f64,
    /// Microseconds since 1970.
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// By the column's name, then by its value.
    pub counts: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// By the column's name, microseconds.
    pub times: BTreeMap<&'static str, Spread>,
    /// By name, where asked for.
    pub columns: BTreeMap<String, Column>,
}

/// Columns of few values, which are counted by value.
const COUNTED: [&str; 5] = ["status", "error_code", "route", "cache", "protocol"];
/// Columns of microseconds.
const TIMED: [&str; 5] = ["queue_us", "pre_us", "infer_us", "post_us", "total_us"];

impl Summary {
    /// Adds the rows of `file` that `filter` asks for. `every` column is looked at, or those that are always counted.
    pub fn add(&mut self, file: &LogFile, filter: &Filter, every: bool) -> Result<(), ReadError> {
        let names: Vec<String> = ["sample_p"]
            .iter()
            .chain(&COUNTED)
            .chain(&TIMED)
            .map(|name| (*name).to_owned())
            .collect();
        self.files += 1;
        self.bytes += file.bytes;
        let columns = if every { None } else { Some(names.as_slice()) };
        for batch in rows(file, filter, columns)? {
            self.add_batch(&batch?, every).map_err(|why| failed(&file.path, why))?;
        }
        Ok(())
    }

    fn add_batch(&mut self, batch: &RecordBatch, every: bool) -> Result<(), String> {
        self.rows += batch.num_rows() as u64;
        for ts in times(batch)?.values() {
            self.first = Some(self.first.map_or(*ts, |first| first.min(*ts)));
            self.last = Some(self.last.map_or(*ts, |last| last.max(*ts)));
        }
        match batch
            .column_by_name("sample_p")
            .and_then(|c| c.as_any().downcast_ref::<Float64Array>())
        {
            Some(shares) => {
                self.estimated_rows +=
                    shares.iter().flatten().filter(|p| *p > 0.0).map(|p| 1.0 / p).sum::<f64>();
            }
            None => self.estimated_rows += batch.num_rows() as f64,
        }
        for name in COUNTED {
            if let Some(column) = batch.column_by_name(name) {
                let counts = self.counts.entry(name).or_default();
                for row in 0..column.len() {
                    count(counts, value::at(column.as_ref(), row)?);
                }
            }
        }
        for name in TIMED {
            let column = batch.column_by_name(name);
            if let Some(column) = column.and_then(|c| c.as_any().downcast_ref::<Int64Array>()) {
                let spread = self.times.entry(name).or_default();
                column.iter().flatten().for_each(|us| spread.add(u64::try_from(us).unwrap_or(0)));
            }
        }
        if every {
            self.add_columns(batch)?;
        }
        Ok(())
    }

    fn add_columns(&mut self, batch: &RecordBatch) -> Result<(), String> {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let about = self.columns.entry(field.name().clone()).or_default();
            about.kind = field.data_type().to_string();
            about.nulls += column.null_count() as u64;
            about.values += (column.len() - column.null_count()) as u64;
            if !field.data_type().is_numeric() {
                continue;
            }
            for row in 0..column.len() {
                match value::at(column.as_ref(), row)?.number() {
                    Some(v) if v.is_finite() => {
                        about.min = Some(about.min.map_or(v, |min| min.min(v)));
                        about.max = Some(about.max.map_or(v, |max| max.max(v)));
                        about.sum += v;
                    }
                    Some(_) => about.not_finite += 1,
                    None => {}
                }
            }
        }
        Ok(())
    }
}

fn count(counts: &mut BTreeMap<String, u64>, cell: Value) {
    if cell == Value::Null {
        return;
    }
    let key = cell.text();
    let key = match counts.contains_key(&key) || counts.len() < DISTINCT {
        true => key,
        false => "(other)".to_owned(),
    };
    *counts.entry(key).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_put_in_it(value in any::<u64>()) {
            let top = upper(bucket(value));
            prop_assert!(top >= value);
            prop_assert!((top - value) as f64 <= value as f64 / 64.0 + 1e-9);
        }

        #[test]
        fn quantiles_are_near_the_exact_ones(mut values in prop::collection::vec(0u64..1_000_000, 1..200), q in 0.01f64..1.0) {
            let mut spread = Spread::default();
            values.iter().for_each(|v| spread.add(*v));
            values.sort_unstable();
            let exact = values[((q * values.len() as f64).ceil() as usize).max(1) - 1];
            let near = spread.quantile(q).expect("not empty");
            prop_assert!(near >= exact && near as f64 <= exact as f64 * 1.0157 + 1.0, "{near} {exact}");
        }
    }
}
