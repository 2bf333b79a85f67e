//! Labels as they come: JSON, JSON lines, CSV, Parquet, an Arrow stream.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read, Seek},
    sync::Arc,
};

use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray, types};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Field, TimeUnit};
use bytes::Bytes;
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::reader::ChunkReader,
};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value as Json;

use crate::predlog::value::{self, Value};

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One array of objects, or objects one after another (JSON lines).
    Json,
    /// With a line of names.
    Csv,
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

impl Form {
    /// By a file's name.
    pub fn of_name(name: &str) -> Option<Form> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "json" | "jsonl" | "ndjson" => Some(Form::Json),
            "csv" => Some(Form::Csv),
            "parquet" | "pq" => Some(Form::Parquet),
            "arrow" | "arrows" | "ipc" => Some(Form::Arrow),
            _ => None,
        }
    }

    /// What `of_media_type` knows.
    pub const MEDIA_TYPES: &str = "application/json, application/x-ndjson, text/csv, application/vnd.apache.parquet or application/vnd.apache.arrow.stream";

    /// By the media type of a request's body.
    pub fn of_media_type(text: &str) -> Option<Form> {
        match text.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
            "application/json" | "application/x-ndjson" | "application/jsonl" => Some(Form::Json),
            "text/csv" => Some(Form::Csv),
            "application/vnd.apache.parquet" => Some(Form::Parquet),
            "application/vnd.apache.arrow.stream" => Some(Form::Arrow),
            _ => None,
        }
    }
}

/// Fields of one row, by name.
pub type Row = Vec<(String, Value)>;

/// What is done with a row, which may not have been one.
type With<'a> = &'a mut dyn FnMut(Result<Row, String>) -> Result<(), String>;

/// Where labels are read from.
pub enum Input<'a> {
    File(File),
    Bytes(Bytes),
    Stream(&'a mut dyn BufRead),
}

impl<'a> Input<'a> {
    fn reader(self) -> Box<dyn BufRead + 'a> {
        match self {
            Input::File(file) => Box::new(BufReader::new(file)),
            Input::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Input::Stream(stream) => Box::new(stream),
        }
    }
}

/// Calls `with` for every row, numbered from 1. Of a field that is not `wanted` the name is read, and no value.
///
/// # Errors
/// The row, and what is wrong with it: by the form, or by `with`.
pub fn each(
    input: Input<'_>,
    form: Form,
    wanted: impl Fn(&str) -> bool,
    mut with: impl FnMut(Row) -> Result<(), String>,
) -> Result<u64, String> {
    let mut count = 0;
    let mut numbered = |row: Result<Row, String>| {
        count += 1;
        row.and_then(&mut with).map_err(|why| format!("row {count}: {why}"))
    };
    match form {
        Form::Json => json(input.reader(), &wanted, &mut numbered)?,
        Form::Csv => csv(input.reader(), &mut numbered)?,
        Form::Parquet => match input {
            Input::File(file) => parquet(file, &wanted, &mut numbered)?,
            Input::Bytes(bytes) => parquet(bytes, &wanted, &mut numbered)?,
            Input::Stream(stream) => parquet(whole(stream)?, &wanted, &mut numbered)?,
        },
        Form::Arrow => arrow(input, &wanted, &mut numbered)?,
    }
    Ok(count)
}

/// What has its parts in no order is read whole where it comes in one.
fn whole(stream: &mut dyn BufRead) -> Result<Bytes, String> {
    let mut whole = Vec::new();
    stream.read_to_end(&mut whole).map_err(|error| error.to_string())?;
    Ok(Bytes::from(whole))
}

type Wanted<'a> = &'a dyn Fn(&str) -> bool;

fn json(mut input: impl BufRead, wanted: Wanted<'_>, with: With<'_>) -> Result<(), String> {
    if first_byte(&mut input)? == Some(b'[') {
        let mut reader = serde_json::Deserializer::from_reader(input);
        let mut why = None;
        let read = reader.deserialize_seq(Rows { wanted, with, why: &mut why });
        let read = read.and_then(|()| reader.end());
        return match (read, why) {
            (_, Some(why)) => Err(why),
            (Err(error), None) => Err(format!("not an array of labels: {error}")),
            (Ok(()), None) => Ok(()),
        };
    }
    for item in serde_json::Deserializer::from_reader(input).into_iter::<Json>() {
        with(object(item.map_err(|error| format!("not JSON: {error}"))?, wanted))?;
    }
    Ok(())
}

/// An array's rows, one after the other: it may be larger than what memory is there.
struct Rows<'a, 'b> {
    wanted: Wanted<'a>,
    with: With<'b>,
    /// What `with` said.
    why: &'a mut Option<String>,
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of labels")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<Json>()? {
            if let Err(why) = (self.with)(object(item, self.wanted)) {
                *self.why = Some(why);
                return Err(A::Error::custom(""));
            }
        }
        Ok(())
    }
}

/// The first byte that is no white space, which stays to be read.
fn first_byte(input: &mut impl BufRead) -> Result<Option<u8>, String> {
    loop {
        let buffer = input.fill_buf().map_err(|error| error.to_string())?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let space = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if let Some(byte) = buffer.get(space) {
            return Ok(Some(*byte));
        }
        input.consume(space);
    }
}

fn object(item: Json, wanted: Wanted<'_>) -> Result<Row, String> {
    let field = |(name, value): (String, Json)| {
        let value = if wanted(&name) { scalar(value)? } else { Value::Null };
        Ok((name, value))
    };
    match item {
        Json::Object(fields) => fields.into_iter().map(field).collect(),
        other => Err(format!(
            "expected an object such as {{\"label_key\": \"r1:0\", \"label\": 1}}, got {}",
            short(&other)
        )),
    }
}

fn scalar(item: Json) -> Result<Value, String> {
    Ok(match item {
        Json::Null => Value::Null,
        Json::Bool(v) => Value::Bool(v),
        Json::String(v) => Value::Text(v),
        Json::Number(v) => match v.as_i64() {
            Some(v) => Value::Int(v),
            None => Value::Double(v.as_f64().unwrap_or(f64::NAN)),
        },
        other => {
            return Err(format!("expected a text, a number, true or false, got {}", short(&other)));
        }
    })
}

fn short(item: &Json) -> String {
    let text = item.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn csv(input: impl Read, with: With<'_>) -> Result<(), String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let names = reader.headers().map_err(|error| format!("not CSV: {error}"))?.clone();
    for record in reader.records() {
        let record = record.map_err(|error| format!("not CSV: {error}"))?;
        let cells = names.iter().zip(&record);
        let cell = |(name, cell): (&str, &str)| (name.to_owned(), Value::Text(cell.to_owned()));
        with(Ok(cells.map(cell).collect()))?;
    }
    Ok(())
}

fn parquet<R: ChunkReader + 'static>(
    input: R,
    wanted: Wanted<'_>,
    with: With<'_>,
) -> Result<(), String> {
    let bad = |error: &dyn fmt::Display| format!("not a readable Parquet file: {error}");
    let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(|e| bad(&e))?;
    let fields = builder.schema().fields().clone();
    let (read, skipped): (Vec<usize>, Vec<usize>) =
        (0..fields.len()).partition(|at| wanted(fields[*at].name()));
    let skipped: Vec<&str> = skipped.iter().map(|at| fields[*at].name().as_str()).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), read);
    let reader = builder.with_projection(mask).build().map_err(|e| bad(&e))?;
    for batch in reader {
        batch_rows(&batch.map_err(|e| bad(&e))?, wanted, &mut |row| {
            with(row.map(|mut row| {
                row.extend(skipped.iter().map(|name| ((*name).to_owned(), Value::Null)));
                row
            }))
        })?;
    }
    Ok(())
}

/// A stream, or a file, which begins with a word of its own.
fn arrow(input: Input<'_>, wanted: Wanted<'_>, with: With<'_>) -> Result<(), String> {
    let bad = |error: ArrowError| format!("not an Arrow stream: {error}");
    let read = |error: io::Error| error.to_string();
    let is_file = |bytes: &[u8]| bytes.starts_with(b"ARROW1");
    match input {
        Input::File(mut file) => {
            let mut first = [0; 6];
            let length = file.read(&mut first).map_err(read)?;
            file.rewind().map_err(read)?;
            let file = BufReader::new(file);
            match is_file(&first[..length]) {
                true => batches(FileReader::try_new(file, None).map_err(bad)?, wanted, with),
                false => batches(StreamReader::try_new(file, None).map_err(bad)?, wanted, with),
            }
        }
        Input::Bytes(bytes) if is_file(&bytes) => {
            let reader = FileReader::try_new(Cursor::new(bytes), None).map_err(bad)?;
            batches(reader, wanted, with)
        }
        Input::Stream(stream) => match is_file(stream.fill_buf().map_err(read)?) {
            true => arrow(Input::Bytes(whole(stream)?), wanted, with),
            false => batches(StreamReader::try_new(stream, None).map_err(bad)?, wanted, with),
        },
        Input::Bytes(bytes) => {
            let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(bad)?;
            batches(reader, wanted, with)
        }
    }
}

fn batches(
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    wanted: Wanted<'_>,
    with: With<'_>,
) -> Result<(), String> {
    for batch in batches {
        let batch = batch.map_err(|error| format!("not an Arrow stream: {error}"))?;
        batch_rows(&batch, wanted, with)?;
    }
    Ok(())
}

fn batch_rows(batch: &RecordBatch, wanted: Wanted<'_>, with: With<'_>) -> Result<(), String> {
    let schema = batch.schema();
    for row in 0..batch.num_rows() {
        let cell = |(field, column): (&Arc<Field>, &ArrayRef)| {
            let name = field.name();
            let value = match wanted(name) {
                true => loose(column.as_ref(), row).map_err(|why| format!("{name}: {why}"))?,
                false => Value::Null,
            };
            Ok((name.clone(), value))
        };
        with(schema.fields().iter().zip(batch.columns()).map(cell).collect())?;
    }
    Ok(())
}

/// A cell of any type in which other programs keep keys, labels and times.
fn loose(array: &dyn Array, row: usize) -> Result<Value, String> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Int8 => Value::Int(array.as_primitive::<types::Int8Type>().value(row).into()),
        DataType::Int16 => Value::Int(array.as_primitive::<types::Int16Type>().value(row).into()),
        DataType::UInt8 => Value::Int(array.as_primitive::<types::UInt8Type>().value(row).into()),
        DataType::UInt16 => Value::Int(array.as_primitive::<types::UInt16Type>().value(row).into()),
        DataType::UInt32 => Value::Int(array.as_primitive::<types::UInt32Type>().value(row).into()),
        DataType::UInt64 => {
            let value = array.as_primitive::<types::UInt64Type>().value(row);
            i64::try_from(value).map_or(Value::Text(value.to_string()), Value::Int)
        }
        DataType::Utf8View => Value::Text(array.as_string_view().value(row).to_owned()),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            loose(dictionary.values().as_ref(), key)?
        }
        DataType::Date32 => Value::Time(
            i64::from(array.as_primitive::<types::Date32Type>().value(row)) * 86_400_000_000,
        ),
        DataType::Timestamp(unit, _) => time(array, *unit, row)?,
        _ => value::at(array, row)?,
    })
}

/// Times without a zone are taken for UTC.
fn time(array: &dyn Array, unit: TimeUnit, row: usize) -> Result<Value, String> {
    let us = match unit {
        TimeUnit::Second => {
            array.as_primitive::<types::TimestampSecondType>().value(row).checked_mul(1_000_000)
        }
        TimeUnit::Millisecond => {
            array.as_primitive::<types::TimestampMillisecondType>().value(row).checked_mul(1000)
        }
        TimeUnit::Microsecond => {
            Some(array.as_primitive::<types::TimestampMicrosecondType>().value(row))
        }
        TimeUnit::Nanosecond => {
            Some(array.as_primitive::<types::TimestampNanosecondType>().value(row).div_euclid(1000))
        }
    };
    us.map(Value::Time).ok_or_else(|| "a time beyond the calendar".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, form: Form) -> Result<Vec<Row>, String> {
        let mut all = Vec::new();
        each(
            Input::Stream(&mut text.as_bytes()),
            form,
            |name| name != "note",
            |row| {
                all.push(row);
                Ok(())
            },
        )?;
        Ok(all)
    }

    #[test]
    fn an_array_and_lines_are_the_same() {
        let array = rows("\n [{\"a\": 1, \"b\": \"x\"}, {\"a\": null}]", Form::Json).expect("read");
        let lines = rows("{\"a\": 1, \"b\": \"x\"}\n{\"a\": null}\n", Form::Json).expect("read");
        assert_eq!(array, lines);
        assert_eq!(array[0], [("a".into(), Value::Int(1)), ("b".into(), Value::Text("x".into()))]);
        assert_eq!(rows("", Form::Json), Ok(vec![]));
        let noted = rows("{\"a\": 1, \"note\": {\"by\": [1]}}", Form::Json).expect("read");
        assert_eq!(noted[0][1], ("note".into(), Value::Null), "what is ignored may be anything");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_row() {
        for (text, form, complaint) in [
            ("{\"a\": 1}\n[1]", Form::Json, "expected an object"),
            ("{\"a\": 1}\n[1]", Form::Json, "row 2: "),
            ("[{\"a\": [1]}]", Form::Json, "row 1: expected a text"),
            ("[{\"a\": 1}, 7]", Form::Json, "row 2: expected an object"),
            (
                "[{\"a\": 1},\n {]",
                Form::Json,
                "not an array of labels: key must be a string at line 2",
            ),
            ("[{\"a\": 1}] []", Form::Json, "not an array of labels: trailing characters"),
            ("{\"a\": ", Form::Json, "not JSON"),
            ("a,b\n1\n", Form::Csv, "not CSV"),
            ("PAR1", Form::Parquet, "not a readable Parquet file"),
            ("nothing", Form::Arrow, "not an Arrow stream"),
        ] {
            let error = rows(text, form).expect_err(complaint);
            assert!(error.contains(complaint), "{error}");
        }
        let all = |_: &str| true;
        let error = each(Input::Stream(&mut "a\n1\n2\n".as_bytes()), Form::Csv, all, |row| {
            match &row[0].1 {
                Value::Text(text) if text == "2" => Err("bad".to_owned()),
                _ => Ok(()),
            }
        });
        assert_eq!(error, Err("row 2: bad".to_owned()));
    }
}
