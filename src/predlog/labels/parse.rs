//! Labels as they come: JSON, JSON lines, CSV, Parquet, an Arrow stream.

use std::io::{BufRead, Read};

use arrow_array::{Array, RecordBatch, cast::AsArray, types};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
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

/// Calls `with` for every row, numbered from 1.
///
/// # Errors
/// The row, and what is wrong with it: by the form, or by `with`.
pub fn each(
    input: impl BufRead,
    form: Form,
    mut with: impl FnMut(Row) -> Result<(), String>,
) -> Result<u64, String> {
    let mut count = 0;
    let mut numbered = |row: Row| {
        count += 1;
        with(row).map_err(|why| format!("row {count}: {why}"))
    };
    match form {
        Form::Json => json(input, &mut numbered)?,
        Form::Csv => csv(input, &mut numbered)?,
        Form::Parquet => parquet(input, &mut numbered)?,
        Form::Arrow => {
            let reader = StreamReader::try_new(input, None)
                .map_err(|error| format!("not an Arrow stream: {error}"))?;
            for batch in reader {
                batch_rows(&batch.map_err(|error| error.to_string())?, &mut numbered)?;
            }
        }
    }
    Ok(count)
}

type With<'a> = &'a mut dyn FnMut(Row) -> Result<(), String>;

fn json(mut input: impl BufRead, with: With<'_>) -> Result<(), String> {
    if first_byte(&mut input)? == Some(b'[') {
        let all: Vec<Json> = serde_json::from_reader(input)
            .map_err(|error| format!("not an array of labels: {error}"))?;
        return all.into_iter().try_for_each(|item| with(object(item)?));
    }
    for item in serde_json::Deserializer::from_reader(input).into_iter::<Json>() {
        with(object(item.map_err(|error| format!("not JSON: {error}"))?)?)?;
    }
    Ok(())
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

fn object(item: Json) -> Result<Row, String> {
    match item {
        Json::Object(fields) => fields.into_iter().map(|(k, v)| Ok((k, scalar(v)?))).collect(),
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
        with(cells.map(|(name, cell)| (name.to_owned(), Value::Text(cell.to_owned()))).collect())?;
    }
    Ok(())
}

fn parquet(mut input: impl Read, with: With<'_>) -> Result<(), String> {
    let mut whole = Vec::new();
    input.read_to_end(&mut whole).map_err(|error| error.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(whole))
        .map_err(|error| format!("not a readable Parquet file: {error}"))?;
    for batch in builder.build().map_err(|error| error.to_string())? {
        batch_rows(&batch.map_err(|error| error.to_string())?, with)?;
    }
    Ok(())
}

fn batch_rows(batch: &RecordBatch, with: With<'_>) -> Result<(), String> {
    let schema = batch.schema();
    for row in 0..batch.num_rows() {
        let cell =
            |(field, column): (&std::sync::Arc<arrow_schema::Field>, &arrow_array::ArrayRef)| {
                let value = loose(column.as_ref(), row)
                    .map_err(|why| format!("{}: {why}", field.name()))?;
                Ok((field.name().clone(), value))
            };
        let cells: Result<Row, String> =
            schema.fields().iter().zip(batch.columns()).map(cell).collect();
        with(cells?)?;
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
        each(text.as_bytes(), form, |row| {
            all.push(row);
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn an_array_and_lines_are_the_same() {
        let array = rows("\n [{\"a\": 1, \"b\": \"x\"}, {\"a\": null}]", Form::Json).expect("read");
        let lines = rows("{\"a\": 1, \"b\": \"x\"}\n{\"a\": null}\n", Form::Json).expect("read");
        assert_eq!(array, lines);
        assert_eq!(array[0], [("a".into(), Value::Int(1)), ("b".into(), Value::Text("x".into()))]);
        assert_eq!(rows("", Form::Json), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_row() {
        for (text, form, complaint) in [
            ("{\"a\": 1}\n[1]", Form::Json, "expected an object"),
            ("[{\"a\": [1]}]", Form::Json, "expected a text"),
            ("{\"a\": ", Form::Json, "not JSON"),
            ("a,b\n1\n", Form::Csv, "not CSV"),
            ("PAR1", Form::Parquet, "not a readable Parquet file"),
            ("nothing", Form::Arrow, "not an Arrow stream"),
        ] {
            let error = rows(text, form).expect_err(complaint);
            assert!(error.contains(complaint), "{error}");
        }
        let error = each("a\n1\n2\n".as_bytes(), Form::Csv, |row| match &row[0].1 {
            Value::Text(text) if text == "2" => Err("bad".to_owned()),
            _ => Ok(()),
        });
        assert_eq!(error, Err("row 2: bad".to_owned()));
    }
}
