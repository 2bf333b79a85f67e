//! Rows of the log written as CSV, JSON lines or Parquet.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
};

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{Field, Schema, SchemaRef};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
    schema::types::ColumnPath,
};
use serde_json::{Map, Value as Json};

use super::{
    footer,
    reader::{Filter, LogFile, Opened, ReadError, rows},
    value,
};

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Csv,
    JsonLines,
    Parquet,
}

/// The columns of several files together, in the order in which they come; neighbours of one name have one type.
pub fn united<'a>(schemas: impl IntoIterator<Item = &'a SchemaRef>) -> Result<SchemaRef, String> {
    let mut order: Vec<Arc<Field>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for field in schemas.into_iter().flat_map(|schema| schema.fields()) {
        match known.get(field.name()) {
            None => {
                known.insert(field.name().clone(), order.len());
                order.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            }
            Some(at) if order[*at].data_type() == field.data_type() => {}
            Some(at) => {
                return Err(format!(
                    "the column {} is {} in one file and {} in another: name a version, or the columns",
                    field.name(),
                    order[*at].data_type(),
                    field.data_type()
                ));
            }
        }
    }
    Ok(Arc::new(Schema::new(order)))
}

/// The batch with the columns of `schema`: null where it has none of that name.
pub fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => column.clone(),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| error.to_string())
}

/// What all files of the log are written with. `footer` is the text of `serving.log.schema`.
pub fn properties(footer: Option<&str>) -> WriterProperties {
    let pair = footer.map(|text| vec![KeyValue::new(footer::KEY.to_owned(), text.to_owned())]);
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_max_row_group_row_count(Some(128 * 1024))
        .set_created_by("onnxd".to_owned())
        .set_key_value_metadata(pair);
    for column in ["event_id", "label_key", "subject_key"] {
        let column = ColumnPath::from(column);
        builder = builder
            .set_column_bloom_filter_enabled(column.clone(), true)
            .set_column_dictionary_enabled(column, false);
    }
    builder.build()
}

/// Writes one batch after another, all of one schema.
pub enum Sink<W: Write + Send> {
    Csv(Box<csv::Writer<W>>),
    JsonLines(W),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> Sink<W> {
    pub fn new(
        out: W,
        form: Form,
        schema: &SchemaRef,
        footer: Option<&str>,
    ) -> Result<Sink<W>, String> {
        match form {
            Form::JsonLines => Ok(Sink::JsonLines(out)),
            Form::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                let names = schema.fields().iter().map(|field| field.name());
                writer.write_record(names).map_err(|error| error.to_string())?;
                Ok(Sink::Csv(Box::new(writer)))
            }
            Form::Parquet => {
                let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties(footer)));
                writer.map(|w| Sink::Parquet(Box::new(w))).map_err(|error| error.to_string())
            }
        }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), String> {
        match self {
            Sink::Parquet(writer) => writer.write(batch).map_err(|error| error.to_string()),
            Sink::Csv(writer) => each_row(batch, |cells| {
                let texts = cells.iter().map(|(_, cell)| cell.text());
                writer.write_record(texts).map_err(|error| error.to_string())
            }),
            Sink::JsonLines(out) => each_row(batch, |cells| {
                let line = Json::Object(object(cells));
                writeln!(out, "{line}").map_err(|error| error.to_string())
            }),
        }
    }

    /// Ends the file; gives back what was written to.
    pub fn finish(self) -> Result<W, String> {
        match self {
            Sink::JsonLines(mut out) => {
                out.flush().map_err(|error| error.to_string())?;
                Ok(out)
            }
            Sink::Csv(writer) => writer.into_inner().map_err(|error| error.to_string()),
            Sink::Parquet(writer) => writer.into_inner().map_err(|error| error.to_string()),
        }
    }
}

/// A row as a JSON object; what is null is left out.
pub fn object(cells: &[(&str, value::Value)]) -> Map<String, Json> {
    let set = cells.iter().filter(|(_, cell)| *cell != value::Value::Null);
    set.map(|(name, cell)| ((*name).to_owned(), cell.json())).collect()
}

/// Calls `with` for every row: its columns' names, with their cells.
pub fn each_row(
    batch: &RecordBatch,
    mut with: impl FnMut(&[(&str, value::Value)]) -> Result<(), String>,
) -> Result<(), String> {
    let schema = batch.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for row in 0..batch.num_rows() {
        let cells: Result<Vec<_>, String> = names
            .iter()
            .zip(batch.columns())
            .map(|(name, column)| Ok((*name, value::at(column.as_ref(), row)?)))
            .collect();
        with(&cells?)?;
    }
    Ok(())
}

/// How an export ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every row that was asked for is written.
    Whole,
    /// As many as asked for are written; there may be more.
    Limited,
    /// Who read what was written has gone.
    ReaderGone,
}

/// What is exported, and how.
pub struct Export<'a> {
    pub files: &'a [LogFile],
    pub filter: &'a Filter,
    /// In place of all.
    pub columns: Option<&'a [String]>,
    pub form: Form,
    pub limit: u64,
}

impl Export<'_> {
    /// Writes the rows to `out`. `seen` is told after each file, for a bar of progress.
    pub fn run<W: Write + Send>(
        &self,
        out: W,
        mut seen: impl FnMut(usize),
    ) -> Result<Ended, ReadError> {
        let (schema, footer) = self.schema()?;
        let bad = |why: String| ReadError(why);
        let mut sink =
            Sink::new(Watched::new(out), self.form, &schema, footer.as_deref()).map_err(bad)?;
        let mut left = self.limit;
        for (n, file) in self.files.iter().enumerate() {
            for batch in rows(file, self.filter, self.columns)? {
                let batch = fitted(&batch?, &schema).map_err(bad)?;
                let take = batch.num_rows().min(usize::try_from(left).unwrap_or(usize::MAX));
                sink.write(&batch.slice(0, take)).map_err(bad)?;
                left -= take as u64;
                if sink.reader_gone() {
                    return Ok(Ended::ReaderGone);
                }
                if left == 0 {
                    sink.finish().map_err(bad)?;
                    return Ok(Ended::Limited);
                }
            }
            seen(n + 1);
        }
        sink.finish().map_err(bad)?;
        Ok(Ended::Whole)
    }

    /// The columns that are written, and the footer that all files share, if they do.
    fn schema(&self) -> Result<(SchemaRef, Option<String>), ReadError> {
        let (mut schemas, mut footers) = (Vec::new(), Vec::new());
        for file in self.files {
            let opened = Opened::at(&file.path)?;
            if !schemas.contains(&opened.schema) {
                schemas.push(opened.schema);
            }
            if !footers.contains(&opened.footer) {
                footers.push(opened.footer);
            }
        }
        let all = match self.columns {
            None => united(&schemas).map_err(ReadError)?,
            Some(names) => {
                let kept: Vec<SchemaRef> =
                    schemas.iter().map(|schema| only(schema, names)).collect();
                named(&united(&kept).map_err(ReadError)?, names)?
            }
        };
        Ok((all, if footers.len() == 1 { footers.remove(0) } else { None }))
    }
}

fn only(schema: &SchemaRef, names: &[String]) -> SchemaRef {
    let fields = schema.fields().iter().filter(|field| names.contains(field.name()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// In the order in which they were named. A name that no file has is an error.
fn named(schema: &SchemaRef, names: &[String]) -> Result<SchemaRef, ReadError> {
    let fields: Result<Vec<Field>, ReadError> = names
        .iter()
        .map(|name| {
            schema.field_with_name(name).cloned().map_err(|_| {
                ReadError(format!(
                    "no file has the column {name} (`onnxd log stat --columns` lists them)"
                ))
            })
        })
        .collect();
    Ok(Arc::new(Schema::new(fields?)))
}

/// Notes that the reader has gone (`| head`), which is no failure.
pub struct Watched<W> {
    out: W,
    gone: bool,
}

impl<W> Watched<W> {
    pub fn new(out: W) -> Watched<W> {
        Watched { out, gone: false }
    }

    /// Whether the reader has gone.
    pub fn gone(&self) -> bool {
        self.gone
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.out.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(bytes.len())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.out.flush() {
            // What is buffered finds out only now.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.gone = true,
            flushed => flushed?,
        }
        Ok(())
    }
}

impl<W: Write + Send> Sink<Watched<W>> {
    /// Whether nobody reads what is written.
    pub fn reader_gone(&self) -> bool {
        match self {
            Sink::Csv(writer) => writer.get_ref().gone,
            Sink::JsonLines(out) => out.gone,
            Sink::Parquet(_) => false,
        }
    }
}
