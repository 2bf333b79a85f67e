//! The rows of one file of a log, and which of their columns are which input.

use std::{
    collections::BTreeMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ::parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};
use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray, types};
use arrow_schema::{DataType, Schema, TimeUnit};

use super::{
    blobs, cells, files,
    footer::{self, Column, Footer},
};
use crate::{
    metadata::{ModelMetadata, TensorMetadata},
    prepare::{parquet::whole, tensor::Datatype},
};

/// Rows that are unpacked at once.
const CHUNK: usize = 256;

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// The crate has panics for some damages of a file that `whole` does not see.
pub fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("it is a damaged Parquet file".to_owned()))
}

/// A file, and the text of its footer.
///
/// # Errors
/// In words, without the path: it cannot be read, is no Parquet file, or none of a log.
pub fn open(path: &Path) -> Result<(Builder, String), String> {
    guarded(|| {
        let file = files::open(path).map_err(|e| e.to_string())?;
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        let builder = Builder::try_new(file)
            .map_err(|e| format!("it is no Parquet file that can be read: {e}"))?;
        if !whole(builder.metadata(), length) {
            return Err("it is a damaged Parquet file: columns lie outside of it".to_owned());
        }
        let pairs = builder.metadata().file_metadata().key_value_metadata();
        let own = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == footer::KEY));
        let text = own.and_then(|pair| pair.value.clone()).ok_or_else(|| {
            format!(
                "its footer has no {}, which every file of a prediction log of onnxd has",
                footer::KEY
            )
        })?;
        Ok((builder, text))
    })
}

/// An open file whose rows can be asked again.
pub struct Reader<'a> {
    inputs: Vec<Input<'a>>,
    /// A row is an instance of its request.
    pub table: bool,
    /// Whether `request_id` is what was sent.
    pub ids: bool,
    /// The directory of the file.
    hour: &'a Path,
    batches: ParquetRecordBatchReader,
}

/// Where an input is.
struct Input<'a> {
    model: &'a TensorMetadata,
    datatype: Datatype,
    /// The axes of a row's part, -1 where the model leaves them open.
    axes: &'a [i64],
    found: Found,
}

enum Found {
    /// A column an element, in order.
    Spread(Vec<String>),
    /// A column of lists, that of their dimensions, and those of the digest and the blob of those that are too large.
    Whole {
        column: Option<String>,
        shape: Option<String>,
        digest: Option<String>,
        blob: Option<String>,
    },
    /// Why none of the file's rows has what was sent.
    Never(String),
}

/// A row's part of an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub shape: Vec<u64>,
    pub raw: Vec<u8>,
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub ts: i64,
    pub id: String,
    /// Its place in its request.
    pub row: i32,
    pub route: String,
    pub status: i32,
    pub sample_p: f64,
    /// By input of the model: `None` where nothing is there, and whether that means that nothing was sent. The error: why the row
    /// does not say what was sent.
    pub inputs: Result<Vec<Slot>, String>,
}

/// What a row has of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    Sent(Part),
    /// Nothing is there, and it would be if something had been sent.
    Absent,
    /// Nothing is there, and it may have been left out.
    Unknown,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// In words, without the path: columns that are not those of a log.
    pub fn of(
        (builder, path): (Builder, &'a Path),
        footer: &Footer,
        model: &'a ModelMetadata,
    ) -> Result<Reader<'a>, String> {
        let schema = builder.schema().clone();
        let table = footer.layout == "table";
        check(&schema)?;
        let mut wanted: Vec<String> = META.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut inputs = Vec::new();
        for input in &model.inputs {
            let datatype = Datatype::parse(&input.datatype)?;
            let found = find(input, footer, &schema, datatype)?;
            match &found {
                Found::Spread(columns) => wanted.extend(columns.iter().cloned()),
                Found::Whole { column, shape, digest, blob } => {
                    let all = column.iter().chain(shape).chain(digest).chain(blob);
                    wanted.extend(all.cloned());
                }
                Found::Never(_) => {}
            }
            let axes = if table { input.shape.get(1..).unwrap_or(&[]) } else { &input.shape };
            inputs.push(Input { model: input, datatype, axes, found });
        }
        let places = wanted.iter().filter_map(|name| schema.index_of(name).ok());
        let mask = ProjectionMask::roots(builder.parquet_schema(), places);
        let batches = builder.with_projection(mask).with_batch_size(CHUNK).build();
        let batches = batches.map_err(|e| format!("it is damaged: {e}"))?;
        let hour = path.parent().unwrap_or(Path::new(""));
        Ok(Reader { inputs, table, ids: footer.as_it_was("request_id"), hour, batches })
    }

    /// The next rows of those that `covers` asks for; `None` at the end.
    ///
    /// # Errors
    /// In words, without the path: the file is damaged.
    pub fn next(&mut self, covers: impl Fn(i64) -> bool) -> Result<Option<Vec<Row>>, String> {
        guarded(|| {
            let Some(batch) = self.batches.next() else { return Ok(None) };
            let batch = batch.map_err(|e| format!("it is damaged: {e}"))?;
            let meta = Meta::of(&batch)?;
            let times = meta.ts.as_primitive::<types::TimestampMicrosecondType>();
            let rows = (0..batch.num_rows()).filter(|at| covers(times.value(*at)));
            Ok(Some(rows.map(|at| self.row(&batch, &meta, at)).collect()))
        })
    }

    fn row(&self, batch: &RecordBatch, meta: &Meta<'_>, at: usize) -> Row {
        let part = |input: &Input<'_>| input.slot((batch, self.hour), at, self.table);
        Row {
            ts: meta.ts.as_primitive::<types::TimestampMicrosecondType>().value(at),
            id: meta.id.as_string::<i32>().value(at).to_owned(),
            row: meta.row.as_primitive::<types::Int32Type>().value(at),
            route: meta.route.as_string::<i32>().value(at).to_owned(),
            status: meta.status.as_primitive::<types::Int32Type>().value(at),
            sample_p: meta.sample_p.as_primitive::<types::Float64Type>().value(at),
            inputs: self.inputs.iter().map(part).collect(),
        }
    }
}

/// The columns of every row, whatever the model.
struct Meta<'b> {
    ts: &'b ArrayRef,
    id: &'b ArrayRef,
    row: &'b ArrayRef,
    route: &'b ArrayRef,
    status: &'b ArrayRef,
    sample_p: &'b ArrayRef,
}

const META: [(&str, DataType); 6] = [
    ("ts", DataType::Timestamp(TimeUnit::Microsecond, None)),
    ("request_id", DataType::Utf8),
    ("row", DataType::Int32),
    ("route", DataType::Utf8),
    ("status", DataType::Int32),
    ("sample_p", DataType::Float64),
];

/// Whether the columns of every row are there, and of their types.
fn check(schema: &Schema) -> Result<(), String> {
    for (name, expected) in META {
        let field = schema.field_with_name(name).map_err(|_| format!("it has no column {name}"))?;
        let same = match field.data_type() {
            DataType::Timestamp(unit, _) => expected == DataType::Timestamp(*unit, None),
            other => *other == expected,
        };
        if !same {
            return Err(format!("its column {name} is {}, expected {expected}", field.data_type()));
        }
    }
    Ok(())
}

impl<'b> Meta<'b> {
    fn of(batch: &'b RecordBatch) -> Result<Meta<'b>, String> {
        let column = |name: &str| {
            let column =
                batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
            match column.null_count() {
                0 => Ok(column),
                _ => Err(format!("its column {name} has nulls, expected a value in every row")),
            }
        };
        Ok(Meta {
            ts: column("ts")?,
            id: column("request_id")?,
            row: column("row")?,
            route: column("route")?,
            status: column("status")?,
            sample_p: column("sample_p")?,
        })
    }
}

/// Which columns are an input.
fn find(
    input: &TensorMetadata,
    footer: &Footer,
    schema: &Schema,
    datatype: Datatype,
) -> Result<Found, String> {
    let name = &input.name;
    let own: Vec<&Column> = footer.of(name).collect();
    let never = |why: String| Ok(Found::Never(format!("input '{name}' {why}")));
    if let Some(column) = own.iter().find(|column| column.redaction.is_some()) {
        let how = column.redaction.as_deref().unwrap_or_default();
        return never(format!("was redacted before it was logged ({}: {how})", column.name));
    }
    let value = |column: &&&Column| column.part.as_deref() == Some("value");
    let values: Vec<&Column> = own.iter().filter(value).copied().collect();
    if let Some(other) = values.iter().find_map(|c| c.datatype.as_deref())
        && other != input.datatype
    {
        return never(format!("was {other} when it was logged, and is {}", input.datatype));
    }
    let expected = cells::column_type(datatype);
    let is = |column: &str, list: bool| {
        let field =
            schema.field_with_name(column).map_err(|_| format!("it has no column {column}"))?;
        let same = match field.data_type() {
            DataType::List(element) => list && *element.data_type() == expected,
            other => !list && *other == expected,
        };
        let expected = if list { format!("a list of {expected}") } else { expected.to_string() };
        same.then_some(()).ok_or_else(|| {
            format!(
                "its column {column} is {}, expected {expected} for an input of {}",
                field.data_type(),
                input.datatype
            )
        })
    };
    let spread: BTreeMap<u32, &Column> =
        values.iter().filter_map(|column| Some((column.index?, *column))).collect();
    if !spread.is_empty() {
        if !spread.keys().copied().eq(0..spread.len() as u32) {
            return never("was not logged whole".to_owned());
        }
        spread.values().try_for_each(|column| is(&column.name, false))?;
        return Ok(Found::Spread(spread.into_values().map(|c| c.name.clone()).collect()));
    }
    let named = |part: &str| {
        let column = own.iter().find(|column| column.part.as_deref() == Some(part));
        column.map(|column| column.name.clone())
    };
    let (digest, blob) = (named("sha256"), named("ref").filter(|name| is_text(schema, name)));
    match (values.first(), &blob, &digest) {
        (None, None, Some(_)) => never(LARGE.to_owned()),
        (None, None, None) => never("is not in the log".to_owned()),
        (column, _, _) => {
            let was = own.iter().find_map(|column| column.datatype.as_deref());
            if let Some(other) = was.filter(|was| *was != input.datatype) {
                return never(format!("was {other} when it was logged, and is {}", input.datatype));
            }
            column.map_or(Ok(()), |column| is(&column.name, true))?;
            let shape = named("shape").filter(|name| is_dimensions(schema, name));
            let column = column.map(|column| column.name.clone());
            Ok(Found::Whole { column, shape, digest, blob })
        }
    }
}

const LARGE: &str = "was too large for the log, which has its digest alone (max_inline_bytes)";

fn is_text(schema: &Schema, column: &str) -> bool {
    schema.field_with_name(column).is_ok_and(|field| *field.data_type() == DataType::Utf8)
}

fn is_dimensions(schema: &Schema, column: &str) -> bool {
    schema.field_with_name(column).is_ok_and(|field| match field.data_type() {
        DataType::List(element) => *element.data_type() == DataType::Int32,
        _ => false,
    })
}

impl Input<'_> {
    /// The part of a row.
    fn slot(
        &self,
        (batch, hour): (&RecordBatch, &Path),
        at: usize,
        table: bool,
    ) -> Result<Slot, String> {
        let wrong = |why: &str| format!("input '{}' {why}", self.model.name);
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| wrong("is not there"));
        let is_there = |name: &str| batch.column_by_name(name).is_some_and(|c| c.is_valid(at));
        let mut raw = Vec::new();
        let (count, dims) = match &self.found {
            Found::Never(why) => return Err(why.clone()),
            Found::Spread(columns) => {
                if !columns.iter().any(|name| is_there(name)) {
                    return Ok(Slot::Absent);
                }
                for name in columns {
                    cells::push(column(name)?, at, self.datatype, &mut raw)
                        .map_err(|why| wrong(&format!("is not there as it was sent: {why}")))?;
                }
                (columns.len(), None)
            }
            Found::Whole { column: name, shape, digest, blob } => {
                let own = |name: &Option<String>| name.clone().filter(|name| is_there(name));
                let count = match (own(name), own(blob)) {
                    (Some(name), _) => {
                        let list = column(&name)?.as_list::<i32>().value(at);
                        for element in 0..list.len() {
                            cells::push(&list, element, self.datatype, &mut raw).map_err(
                                |why| wrong(&format!("is not there as it was sent: {why}")),
                            )?;
                        }
                        list.len()
                    }
                    (None, Some(blob)) => {
                        raw = blobs::read(hour, column(&blob)?.as_string::<i32>().value(at))
                            .map_err(|why| wrong(&why))?;
                        blobs::count(self.datatype, &raw)
                            .ok_or_else(|| wrong("is in a blob that has no such elements"))?
                    }
                    (None, None) => {
                        return match (digest.as_deref().map(is_there), blob) {
                            (Some(true), None) => Err(wrong(LARGE)),
                            (Some(true), Some(_)) => Err(wrong("has a digest and no blob")),
                            (Some(false), _) | (None, Some(_)) => Ok(Slot::Absent),
                            (None, None) => Ok(Slot::Unknown),
                        };
                    }
                };
                let dims = own(shape).map(|name| column(&name)).transpose()?;
                (count, dims.map(|dims| dimensions(dims, at)))
            }
        };
        let shape = match dims {
            // The batch's axis may stand in front of those of a row.
            Some(dims) if table && dims.len() > self.axes.len() => dims[1..].to_vec(),
            Some(dims) => dims,
            None => filled(self.axes, count)
                .ok_or_else(|| wrong(&format!("has a shape that {count} elements do not fill")))?,
        };
        let product = shape.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
        if product != u64::try_from(count).ok() {
            return Err(wrong(&format!("has {count} elements, and the shape {shape:?}")));
        }
        Ok(Slot::Sent(Part { shape, raw }))
    }
}

fn dimensions(column: &ArrayRef, at: usize) -> Vec<u64> {
    let dims = column.as_list::<i32>().value(at);
    let dims = dims.as_primitive::<types::Int32Type>().values().iter();
    // A negative one makes a product that nothing has.
    dims.map(|dim| u64::try_from(*dim).unwrap_or(u64::MAX)).collect()
}

/// The axes, with the one that is open worked out from the number of elements.
fn filled(axes: &[i64], count: usize) -> Option<Vec<u64>> {
    let count = u64::try_from(count).ok()?;
    let mut fixed = axes.iter().filter_map(|axis| u64::try_from(*axis).ok());
    let fixed = fixed.try_fold(1u64, |product, axis| product.checked_mul(axis))?;
    let open = match axes.iter().filter(|axis| **axis < 0).count() {
        0 => 0,
        1 if fixed > 0 && count.is_multiple_of(fixed) => count / fixed,
        _ => return None,
    };
    Some(axes.iter().map(|axis| u64::try_from(*axis).unwrap_or(open)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_axis_is_worked_out() {
        assert_eq!(filled(&[2], 2), Some(vec![2]));
        assert_eq!(filled(&[], 1), Some(vec![]));
        assert_eq!(filled(&[-1, 3], 12), Some(vec![4, 3]));
        for (axes, count) in [(&[-1, 3][..], 13), (&[-1, -1], 4), (&[-1, 0], 0)] {
            assert_eq!(filled(axes, count), None, "{axes:?}");
        }
    }
}
