//! The rows of an answer: as a table for people, as CSV, JSON lines or Parquet.

use std::{
    io::{self, Write},
    sync::Arc,
};

use datafusion::arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    compute::{CastOptions, can_cast_types, cast_with_options},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    util::display::{ArrayFormatter, FormatOptions},
};
use onnxd::predlog::{
    export::{self, Watched, each_row},
    value::{Value, is_of_the_log},
};
use serde_json::{Map, Value as Json};

/// Rows that a table has at most.
pub const TABLE_ROWS: usize = 1000;

/// In which form.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people: the first 1000 rows
    Table,
    Csv,
    /// An object a line
    #[value(alias = "json")]
    Jsonl,
    Parquet,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Whole,
    /// There are more rows than a table has.
    Cut,
}

type Out = Watched<Box<dyn Write + Send>>;

/// Where rows go.
pub struct Sink {
    schema: SchemaRef,
    kind: Kind,
}

enum Kind {
    Table { rows: Vec<Vec<String>>, cut: bool, out: Out },
    Lines(Out),
    File(export::Sink<Out>),
}

impl Sink {
    /// For rows of `schema`, written in the types that the log's files have.
    pub fn new(form: Form, schema: &SchemaRef, out: Box<dyn Write + Send>) -> Result<Sink, String> {
        let (schema, out) = (plain(schema), Watched::new(out));
        let file = |form, out| export::Sink::new(out, form, &schema, None).map(Kind::File);
        let kind = match form {
            Form::Table => Kind::Table { rows: Vec::new(), cut: false, out },
            Form::Jsonl => Kind::Lines(out),
            Form::Csv => file(export::Form::Csv, out)?,
            Form::Parquet => file(export::Form::Parquet, out)?,
        };
        Ok(Sink { schema, kind })
    }

    /// Writes rows; true where no more are wanted.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<bool, String> {
        let batch = fitted(batch, &self.schema)?;
        match &mut self.kind {
            Kind::File(sink) => {
                sink.write(&batch)?;
                Ok(sink.reader_gone())
            }
            Kind::Lines(out) => {
                each_row(&batch, |cells| {
                    writeln!(out, "{}", object(cells)).map_err(|error| error.to_string())
                })?;
                Ok(out.gone())
            }
            Kind::Table { rows, cut, .. } => {
                each_row(&batch, |cells| {
                    if rows.len() < TABLE_ROWS {
                        rows.push(cells.iter().map(|(_, cell)| shown(cell)).collect());
                    } else {
                        *cut = true;
                    }
                    Ok(())
                })?;
                Ok(*cut)
            }
        }
    }

    pub fn finish(self) -> Result<Ended, String> {
        let told = |error: io::Error| error.to_string();
        match self.kind {
            Kind::File(sink) => sink.finish()?.flush().map_err(told)?,
            Kind::Lines(mut out) => out.flush().map_err(told)?,
            Kind::Table { rows, cut, mut out } => {
                out.write_all(table(&self.schema, &rows).as_bytes()).map_err(told)?;
                out.flush().map_err(told)?;
                return Ok(if cut { Ended::Cut } else { Ended::Whole });
            }
        }
        Ok(Ended::Whole)
    }
}

/// Every column of a query is in its answer, also where it is null.
fn object(cells: &[(&str, Value)]) -> Json {
    let cells = cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.json()));
    Json::Object(cells.collect::<Map<String, Json>>())
}

fn shown(cell: &Value) -> String {
    match cell {
        Value::Null => "-".to_owned(),
        // What clients send must not move a terminal's cursor.
        other => printable(&other.text()),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn table(schema: &Schema, rows: &[Vec<String>]) -> String {
    let names: Vec<String> = schema.fields().iter().map(|field| printable(field.name())).collect();
    let widest = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).chain(names.get(at));
        cells.flat_map(|cell| cell.lines()).map(|line| line.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(widest).collect();
    let mut text = String::new();
    for row in std::iter::once(names.as_slice()).chain(rows.iter().map(Vec::as_slice)) {
        // A cell of several lines, as a plan is, goes on below.
        let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(0);
        for at in 0..height.max(1) {
            let lines = row.iter().map(|cell| cell.lines().nth(at).unwrap_or_default());
            let cells: Vec<String> =
                lines.zip(&widths).map(|(line, width)| format!("{line:<width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
    }
    text
}

/// The columns, in types that the log's files have.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<Field>>()))
}

fn plain_type(kind: &DataType) -> DataType {
    match kind {
        kind if is_of_the_log(kind) => kind.clone(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => {
            DataType::Float64
        }
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) | DataType::LargeList(item) => {
            let item = Field::new(item.name(), plain_type(item.data_type()), true);
            DataType::List(Arc::new(item))
        }
        _ => DataType::Utf8,
    }
}

fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns
        .map(|(column, field)| {
            made(column, field.data_type()).map_err(|_| {
                format!("the column {} holds what this form has no type for", field.name())
            })
        })
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| error.to_string())
}

fn made(
    column: &ArrayRef,
    kind: &DataType,
) -> Result<ArrayRef, datafusion::arrow::error::ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    if can_cast_types(column.data_type(), kind) {
        return cast_with_options(column, kind, &options);
    }
    let text = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default())?;
    let cell = |row| -> Result<Option<String>, _> {
        match column.is_null(row) {
            true => Ok(None),
            false => text.value(row).try_to_string().map(Some),
        }
    };
    let texts: StringArray = (0..column.len()).map(cell).collect::<Result<_, _>>()?;
    Ok(Arc::new(texts))
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use datafusion::arrow::array::{
        Decimal128Array, Int64Array, StringViewArray, StructArray, UInt64Array,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Types that a query makes and the log has not.
    fn batch() -> RecordBatch {
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let field = Arc::new(Field::new("a", DataType::Int64, true));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("count", Arc::new(UInt64Array::from(vec![7, 8]))),
            ("text", Arc::new(StringViewArray::from(vec![Some("a\n,\"\u{1b}b"), None]))),
            ("share", Arc::new(Decimal128Array::from(vec![Some(125), None]))),
            ("pair", Arc::new(StructArray::from(vec![(field, inner)]))),
        ];
        RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .expect("a batch")
    }

    fn written(form: Form) -> Vec<u8> {
        let (kept, batch) = (Kept::default(), batch());
        let mut sink = Sink::new(form, &batch.schema(), Box::new(kept.clone())).expect("a sink");
        assert_eq!(sink.write(&batch), Ok(false));
        assert_eq!(sink.finish(), Ok(Ended::Whole));
        kept.bytes()
    }

    #[test]
    fn each_form_has_every_row() {
        let text = |form| String::from_utf8(written(form)).expect("text");
        let lines: Vec<Json> = text(Form::Jsonl)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(
            lines,
            [
                serde_json::json!({"count": 7, "text": "a\n,\"\u{1b}b", "share": 0.0000000125, "pair": "{a: 1}"}),
                serde_json::json!({"count": 8, "text": null, "share": null, "pair": "{a: 2}"}),
            ]
        );
        assert_eq!(
            text(Form::Table),
            "count  text  share    pair\n7      a     1.25e-8  {a: 1}\n       ,\"\u{fffd}b\n8      -     -        {a: 2}\n"
        );
        assert!(
            text(Form::Csv)
                .starts_with("count,text,share,pair\n7,\"a\n,\"\"\u{1b}b\",1.25e-8,{a: 1}\n")
        );
        let read = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(
            bytes::Bytes::from(written(Form::Parquet)),
            10,
        );
        let rows: usize = read.expect("Parquet").map(|batch| batch.expect("rows").num_rows()).sum();
        assert_eq!(rows, 2);
    }

    #[test]
    fn a_table_is_cut() {
        let numbers: ArrayRef = Arc::new((0..TABLE_ROWS as i64 + 1).collect::<Int64Array>());
        let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("a batch");
        let kept = Kept::default();
        let mut sink =
            Sink::new(Form::Table, &batch.schema(), Box::new(kept.clone())).expect("a sink");
        assert_eq!(sink.write(&batch), Ok(true));
        assert_eq!(sink.finish(), Ok(Ended::Cut));
        let lines = kept.bytes().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, TABLE_ROWS + 1);
    }
}
