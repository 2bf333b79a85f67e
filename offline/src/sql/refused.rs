//! Why a query has no answer, in one line: the place in its text, what there is in place of what was asked for, and no value of a row.

use std::error::Error;

use datafusion::{
    arrow::error::ArrowError,
    common::{DataFusionError, SchemaError},
    sql::sqlparser::parser::ParserError,
};
use onnxd::predlog::reader::ReadError;

use super::{
    Request,
    tables::{self, Tables},
};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    Read(ReadError),
    /// It is no query of what there is.
    Query(String),
    /// There is no row to ask.
    TooLittle(String),
    Failed(String),
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Refused {
        Refused::Read(error)
    }
}

impl Refused {
    /// Its text is no SQL.
    pub fn unparsed(error: &DataFusionError) -> Refused {
        Refused::Query(match root(error) {
            DataFusionError::SQL(error, _) => format!("this is no SQL: {}", slip(error)),
            other => one_line(&other.to_string()),
        })
    }
}

/// That no row was asked for, on its way through DataFusion.
#[derive(Debug)]
pub struct Nothing;

impl std::fmt::Display for Nothing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no row of the log is asked for by these flags")
    }
}

impl Error for Nothing {}

/// What was wrong, in words that name what there is.
pub fn of(error: &DataFusionError, tables: &Tables, request: &Request) -> Refused {
    if let Some(read) = within::<ReadError>(error) {
        return Refused::Read(read.clone());
    }
    if within::<Nothing>(error).is_some() {
        return Refused::TooLittle(Nothing.to_string());
    }
    let query = |why: String| Refused::Query(placed(error, why));
    match root(error) {
        DataFusionError::SchemaError(schema, _) => query(unknown(schema, tables)),
        DataFusionError::SQL(..) => Refused::unparsed(error),
        DataFusionError::Plan(why) => query(match unknown_table(why) {
            Some(name) => format!("there is no table {name}: {}", tables::NAMES),
            None => one_line(why),
        }),
        DataFusionError::NotImplemented(why) => query(one_line(why)),
        DataFusionError::ResourcesExhausted(why) => Refused::Failed(format!(
            "--memory-limit {}: it needs more, though what can wait on the disk does: {}",
            size(request.memory_bytes),
            one_line(why)
        )),
        other => match is_of_a_file(other).then(|| tables.damaged()).flatten() {
            Some(read) => Refused::Read(read),
            None => Refused::Failed(without_values(other)),
        },
    }
}

/// Whether it needs more memory than it has.
pub fn is_of_memory(error: &DataFusionError) -> bool {
    matches!(root(error), DataFusionError::ResourcesExhausted(_))
}

/// The innermost error; of several, the first.
fn root(error: &DataFusionError) -> &DataFusionError {
    match error.iter().next().unwrap_or(error).find_root() {
        DataFusionError::Collection(several) => several.first().map_or(error, root),
        root => root,
    }
}

/// An error of ours on its way through others'.
fn within<E: Error + 'static>(error: &DataFusionError) -> Option<&E> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Where in the query, as far as that is known.
fn placed(error: &DataFusionError, why: String) -> String {
    let first = error.iter().next().unwrap_or(error);
    match first.diagnostic().and_then(|said| said.span) {
        Some(span) => format!("line {}, column {}: {why}", span.start.line, span.start.column),
        None => why,
    }
}

fn slip(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(why) | ParserError::ParserError(why) => one_line(why),
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

fn unknown(error: &SchemaError, tables: &Tables) -> String {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return one_line(&error.to_string());
    };
    if let Some(why) = tables.apart(field.name()) {
        return format!("the column {} is not in the table log: {why}", written(field.name()));
    }
    let mut known: Vec<String> = Vec::new();
    for name in valid_fields.iter().map(|field| written(field.name())) {
        if !known.contains(&name) {
            known.push(name);
        }
    }
    let name = written(field.name());
    match known.is_empty() {
        true => format!("there is no column {name}: the query names no table before it"),
        false => format!("there is no column {name}: there are {}", known.join(", ")),
    }
}

/// A name as it is written in a query.
fn written(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The name in what is said of a table that is not there.
fn unknown_table(why: &str) -> Option<&str> {
    let name = why.split_once("table '")?.1.split_once("' not found")?.0;
    name.rsplit('.').next()
}

/// Whether a file may be what is wrong.
fn is_of_a_file(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::ParquetError(_) | DataFusionError::ExecutionJoin(_) => true,
        DataFusionError::ArrowError(error, _) => {
            matches!(**error, ArrowError::ParquetError(_) | ArrowError::ExternalError(_))
        }
        DataFusionError::External(_) | DataFusionError::Internal(_) => true,
        _ => false,
    }
}

/// What went wrong with rows. Messages of others quote cells, and a cell may be a key: those stand in no error.
fn without_values(error: &DataFusionError) -> String {
    let said = match error {
        DataFusionError::ArrowError(error, _) => match &**error {
            ArrowError::CastError(_) | ArrowError::ParseError(_) => {
                return "a value cannot be made what it is cast to (try_cast makes it null)"
                    .to_owned();
            }
            ArrowError::DivideByZero => return "a number is divided by zero".to_owned(),
            ArrowError::ArithmeticOverflow(_) => {
                return "a number is too large for its type".to_owned();
            }
            other => other.to_string(),
        },
        // Of the disk on which it sets rows aside.
        DataFusionError::IoError(error) => return format!("the disk for what waits: {error}"),
        other => other.to_string(),
    };
    let line = said.lines().next().unwrap_or_default();
    let end = line.find(['\'', '"', '`']).unwrap_or(line.len());
    let end =
        line.match_indices(": ").map(|(at, _)| at).filter(|at| *at < end).nth(1).unwrap_or(end);
    let cut = if end < said.trim_end().len() { " …" } else { "" };
    format!("{}{cut}", line[..end].trim_end())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As `--memory-limit` takes it.
fn size(bytes: u64) -> String {
    match bytes {
        n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n => format!("{n}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_in_no_error() {
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        for error in [
            arrow(ArrowError::CastError(
                "Cannot cast string 'key-1' to value of Int32 type".into(),
            )),
            arrow(ArrowError::ParseError("can't parse the string value key-1 to decimal".into())),
            arrow(ArrowError::ComputeError("Regular expression did not compile: key-1".into())),
            arrow(ArrowError::InvalidArgumentError("a \"o'key-1\" of \"b\"".into())),
            DataFusionError::Execution("Date part 'key-1' not supported".into()),
            DataFusionError::Execution("no regex:\n  key-1\n  ^".into()),
        ] {
            let said = without_values(&error);
            assert!(!said.contains("key-1") && said.len() > 1, "{said}");
        }
        let zero = without_values(&arrow(ArrowError::DivideByZero));
        assert_eq!(zero, "a number is divided by zero");
    }

    #[test]
    fn names_are_shown_as_they_are_written() {
        for (name, text) in [("in_INPUT0", "in_INPUT0"), ("a b", "\"a b\""), ("9\"x", "\"9\"\"x\"")]
        {
            assert_eq!(written(name), text);
        }
        assert_eq!(
            (size(1 << 30), size(64 << 20), size(7)),
            ("1GiB".into(), "64MiB".into(), "7B".into())
        );
    }
}
