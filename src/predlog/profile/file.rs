//! Profiles as Parquet files of their own: a row a column, which anything reads; sketches as Apache DataSketches writes them.

use std::{collections::BTreeMap, io::Write, path::Path, sync::Arc};

use arrow_array::{
    Array, ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    builder::{Float64Builder, Int64Builder, ListBuilder, StringBuilder},
    cast::AsArray,
    types::{Float64Type, Int64Type},
};
use arrow_schema::{DataType, Field, Schema};
use datasketches::{hll::HllSketch, tdigest::TDigestMut};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
};
use serde::{Deserialize, Serialize};

use super::{Bins, Categories, Cell, Column, Moments, Profile, Sample, Sketches};
use crate::predlog::{
    footer::Role,
    reader::{Opened, ReadError, failed},
};

/// The footer's key: its value is a `Head` as JSON.
const KEY: &str = "serving.log.profile";

/// Shares of all values below which the listed quantiles lie.
pub const RANKS: [f64; 11] = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

/// What holds for all columns.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    rows: u64,
    /// Rows that the sample has at most.
    sample_rows: usize,
    /// Of the sample's rows, in order: the first eight bytes of the SHA-256 of their `event_id`.
    sample_keys: Vec<String>,
}

impl Profile {
    /// Writes it.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, out: impl Write + Send) -> Result<(), String> {
        let head = Head {
            format: 1,
            rows: self.rows,
            sample_rows: self.sample.most,
            sample_keys: self.sample.keys.iter().map(|key| format!("{key:016x}")).collect(),
        };
        let head = serde_json::to_string(&head).map_err(|error| error.to_string())?;
        let properties = WriterProperties::builder()
            .set_created_by(concat!("onnxd ", env!("CARGO_PKG_VERSION")).into())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
            .set_key_value_metadata(Some(vec![KeyValue::new(KEY.to_owned(), head)]))
            .build();
        let batch = self.batch().map_err(|error| error.to_string())?;
        let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties))
            .map_err(|error| error.to_string())?;
        writer.write(&batch).map_err(|error| error.to_string())?;
        writer.close().map(drop).map_err(|error| error.to_string())
    }

    fn batch(&self) -> Result<RecordBatch, arrow_schema::ArrowError> {
        let all: Vec<&Column> = self.columns.values().collect();
        let whole = |of: &dyn Fn(&Column) -> u64| -> ArrayRef {
            let values = all.iter().map(|column| i64::try_from(of(column)).unwrap_or(i64::MAX));
            Arc::new(Int64Array::from_iter_values(values))
        };
        let number = |of: &dyn Fn(&Column) -> f64| -> ArrayRef {
            let some = all.iter().map(|column| (column.moments.count > 0).then(|| of(column)));
            Arc::new(some.collect::<Float64Array>())
        };
        let numbers = |of: &dyn Fn(&Column) -> Option<Vec<f64>>| list_f64(&all, of);
        let distinct = all.iter().map(|column| Some(column.sketches.distinct()));
        let quantiles = |c: &Column| c.sketches.quantiles.clone().map(|mut s| s.serialize());
        let hll = |column: &Column| column.sketches.distinct.as_ref().map(HllSketch::serialize);
        let bytes = |of: &dyn Fn(&Column) -> Option<Vec<u8>>| -> ArrayRef {
            let all: Vec<Option<Vec<u8>>> = all.iter().map(|column| of(column)).collect();
            Arc::new(all.iter().map(Option::as_deref).collect::<BinaryArray>())
        };
        let bins = |c: &Column| Some(c.bins.as_ref()?.edges.clone());
        let range = |c: &Column| c.bins.as_ref().map(|bins| vec![bins.range.0, bins.range.1]);
        let roles = all.iter().map(|column| Some(role(column.role)));
        let kinds = all.iter().map(|column| Some(&*column.kind));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("column", Arc::new(self.columns.keys().map(Some).collect::<StringArray>())),
            ("role", Arc::new(roles.collect::<StringArray>())),
            ("type", Arc::new(kinds.collect::<StringArray>())),
            ("count", whole(&|column| column.count)),
            ("nulls", whole(&|column| column.nulls)),
            ("nan", whole(&|column| column.nan)),
            ("infinite", whole(&|column| column.infinite)),
            ("numbers", whole(&|column| column.moments.count)),
            ("min", number(&|column| column.moments.min)),
            ("max", number(&|column| column.moments.max)),
            ("mean", number(&|column| column.moments.mean)),
            ("m2", number(&|column| column.moments.m2)),
            ("variance", number(&|column| column.moments.variance().unwrap_or_default())),
            ("quantiles", numbers(&|column| column.sketches.quantiles(&RANKS))),
            ("distinct", Arc::new(distinct.collect::<Float64Array>())),
            ("categories", texts(all.iter().map(|c| Some(c.categories.counts.keys())))),
            ("category_counts", counts(all.iter().map(|c| Some(c.categories.counts.values())))),
            ("other", whole(&|column| column.categories.other)),
            ("bin_edges", numbers(&bins)),
            ("bin_counts", counts(all.iter().map(|c| Some(c.bins.as_ref()?.counts.iter())))),
            ("bin_range", numbers(&range)),
            ("bin_under", whole(&|c| c.bins.as_ref().map_or(0, |bins| bins.under))),
            ("bin_over", whole(&|c| c.bins.as_ref().map_or(0, |bins| bins.over))),
            ("sample_numbers", sampled_numbers(&all)),
            ("sample_texts", sampled_texts(&all)),
            ("tdigest", bytes(&quantiles)),
            ("hll", bytes(&hll)),
        ];
        let field =
            |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let fields: Vec<Field> = columns.iter().map(field).collect();
        let columns = columns.into_iter().map(|(_, array)| array).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }

    /// Reads one.
    pub fn read(path: &Path) -> Result<Profile, ReadError> {
        let opened = Opened::at(path)?;
        let head = opened.metadata(KEY).ok_or_else(|| failed(path, "it is no profile"))?;
        let head: Head = serde_json::from_str(&head).map_err(|error| failed(path, error))?;
        if head.format != 1 {
            let why =
                format!("a profile of format {}, and this program knows format 1", head.format);
            return Err(failed(path, why));
        }
        let key = |key: &String| u64::from_str_radix(key, 16).map_err(|error| failed(path, error));
        let keys = head.sample_keys.iter().map(key).collect::<Result<_, _>>()?;
        let sample = Sample { keys, most: head.sample_rows };
        let mut columns = BTreeMap::new();
        for batch in opened.batches(None)? {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let (name, column) =
                    column(&Row { batch: &batch, row }).map_err(|why| failed(path, why))?;
                columns.insert(name, column);
            }
        }
        Ok(Profile { rows: head.rows, columns, sample })
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Feature => "feature",
        Role::Prediction => "prediction",
        Role::Meta => "meta",
    }
}

fn element(kind: DataType) -> Field {
    Field::new("element", kind, true)
}

fn list_f64(all: &[&Column], of: &dyn Fn(&Column) -> Option<Vec<f64>>) -> ArrayRef {
    let mut list = ListBuilder::new(Float64Builder::new()).with_field(element(DataType::Float64));
    for values in all.iter().map(|column| of(column)) {
        list.append_option(values.map(|values| values.into_iter().map(Some)));
    }
    Arc::new(list.finish())
}

fn texts<'a>(all: impl Iterator<Item = Option<impl Iterator<Item = &'a Arc<str>>>>) -> ArrayRef {
    let mut list = ListBuilder::new(StringBuilder::new()).with_field(element(DataType::Utf8));
    for values in all {
        list.append_option(values.map(|values| values.map(|value| Some(&**value))));
    }
    Arc::new(list.finish())
}

fn counts<'a>(all: impl Iterator<Item = Option<impl Iterator<Item = &'a u64>>>) -> ArrayRef {
    let mut list = ListBuilder::new(Int64Builder::new()).with_field(element(DataType::Int64));
    let whole = |count: &u64| i64::try_from(*count).ok();
    for values in all {
        list.append_option(values.map(|values| values.map(whole)));
    }
    Arc::new(list.finish())
}

fn sampled_numbers(all: &[&Column]) -> ArrayRef {
    let mut list = ListBuilder::new(Float64Builder::new()).with_field(element(DataType::Float64));
    for column in all {
        let any = column.sample.iter().any(|cell| matches!(cell, Cell::Number(_)));
        let cells = column.sample.iter().map(|cell| match cell {
            Cell::Number(value) => Some(*value),
            _ => None,
        });
        list.append_option(any.then_some(cells));
    }
    Arc::new(list.finish())
}

fn sampled_texts(all: &[&Column]) -> ArrayRef {
    let mut list = ListBuilder::new(StringBuilder::new()).with_field(element(DataType::Utf8));
    for column in all {
        let any = column.sample.iter().any(|cell| matches!(cell, Cell::Text(_)));
        let cells = column.sample.iter().map(|cell| match cell {
            Cell::Text(text) => Some(&**text),
            _ => None,
        });
        list.append_option(any.then_some(cells));
    }
    Arc::new(list.finish())
}

/// A row of the table.
struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl Row<'_> {
    fn array(&self, name: &str) -> Result<&ArrayRef, String> {
        self.batch.column_by_name(name).ok_or_else(|| format!("there is no column {name}"))
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        let array = self.array(name)?.as_string_opt::<i32>();
        Ok(array.ok_or_else(|| format!("{name} is no text"))?.value(self.row))
    }

    fn whole(&self, name: &str) -> Result<u64, String> {
        let array = self.array(name)?.as_primitive_opt::<Int64Type>();
        let value = array.ok_or_else(|| format!("{name} is no number"))?.value(self.row);
        u64::try_from(value).map_err(|_| format!("{name} is negative"))
    }

    /// 0 where there is none.
    fn number(&self, name: &str) -> Result<f64, String> {
        let array = self.array(name)?.as_primitive_opt::<Float64Type>();
        let array = array.ok_or_else(|| format!("{name} is no number"))?;
        Ok(if array.is_valid(self.row) { array.value(self.row) } else { 0.0 })
    }

    fn bytes(&self, name: &str) -> Result<Option<&[u8]>, String> {
        let array = self.array(name)?.as_binary_opt::<i32>();
        let array = array.ok_or_else(|| format!("{name} holds no bytes"))?;
        Ok(array.is_valid(self.row).then(|| array.value(self.row)))
    }

    fn list(&self, name: &str) -> Result<Option<ArrayRef>, String> {
        let array: Option<&ListArray> = self.array(name)?.as_list_opt::<i32>();
        let array = array.ok_or_else(|| format!("{name} is no list"))?;
        Ok(array.is_valid(self.row).then(|| array.value(self.row)))
    }

    fn numbers(&self, name: &str) -> Result<Option<Vec<Option<f64>>>, String> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let values = list.as_primitive_opt::<Float64Type>();
        Ok(Some(values.ok_or_else(|| format!("{name} holds no numbers"))?.iter().collect()))
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<Option<Arc<str>>>>, String> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let values = list.as_string_opt::<i32>();
        let values = values.ok_or_else(|| format!("{name} holds no texts"))?;
        Ok(Some(values.iter().map(|text| text.map(Arc::from)).collect()))
    }

    fn counts(&self, name: &str) -> Result<Option<Vec<u64>>, String> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let values = list.as_primitive_opt::<Int64Type>();
        let values = values.ok_or_else(|| format!("{name} holds no counts"))?;
        let whole = |v: Option<i64>| v.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
        Ok(Some(values.iter().map(whole).collect()))
    }
}

fn column(row: &Row<'_>) -> Result<(String, Column), String> {
    let role = match row.text("role")? {
        "feature" => Role::Feature,
        "prediction" => Role::Prediction,
        "meta" => Role::Meta,
        other => return Err(format!("the role {other} is not known")),
    };
    let names = row.texts("categories")?.unwrap_or_default().into_iter().flatten();
    let sample = match (row.numbers("sample_numbers")?, row.texts("sample_texts")?) {
        (Some(numbers), _) => {
            numbers.into_iter().map(|v| v.map_or(Cell::Null, Cell::Number)).collect()
        }
        (None, Some(texts)) => {
            texts.into_iter().map(|v| v.map_or(Cell::Null, Cell::Text)).collect()
        }
        (None, None) => Vec::new(),
    };
    let quantiles = row.bytes("tdigest")?.map(TDigestMut::deserialize).transpose();
    let distinct = row.bytes("hll")?.map(HllSketch::deserialize).transpose();
    let column = Column {
        role,
        kind: row.text("type")?.into(),
        count: row.whole("count")?,
        nulls: row.whole("nulls")?,
        nan: row.whole("nan")?,
        infinite: row.whole("infinite")?,
        moments: Moments {
            count: row.whole("numbers")?,
            min: row.number("min")?,
            max: row.number("max")?,
            mean: row.number("mean")?,
            m2: row.number("m2")?,
        },
        categories: Categories {
            counts: names.zip(row.counts("category_counts")?.unwrap_or_default()).collect(),
            other: row.whole("other")?,
        },
        sketches: Sketches {
            quantiles: quantiles.map_err(|error| format!("its tdigest: {error}"))?,
            distinct: distinct.map_err(|error| format!("its hll: {error}"))?,
        },
        bins: bins(row)?,
        sample,
    };
    Ok((row.text("column")?.to_owned(), column))
}

fn bins(row: &Row<'_>) -> Result<Option<Bins>, String> {
    let (Some(edges), Some(counts)) = (row.numbers("bin_edges")?, row.counts("bin_counts")?) else {
        return Ok(None);
    };
    let range = row.numbers("bin_range")?.unwrap_or_default();
    let [Some(low), Some(high)] = range[..] else { return Err("bin_range has no two ends".into()) };
    let (under, over) = (row.whole("bin_under")?, row.whole("bin_over")?);
    Ok(Some(Bins {
        edges: edges.into_iter().flatten().collect(),
        counts,
        range: (low, high),
        under,
        over,
    }))
}
