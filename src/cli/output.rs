//! How commands write: text for people, JSON for machines, complaints to standard error.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::Failure;

/// `--output`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// Writes to standard output. A reader that has gone (`onnxd check | head`) is no failure.
pub fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{}", text.trim_end_matches('\n'));
}

/// Writes one line to standard error.
pub fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "onnxd: {message}");
}

/// Writes a file, under another name until it is whole, so that nobody takes half of one for it.
///
/// # Errors
/// Of `write`, or with the path: it cannot be made. Nothing is left then.
pub fn to_file<T>(
    path: &Path,
    write: impl FnOnce(File) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let told = |error: io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let mut new = path.as_os_str().to_owned();
    new.push(".part");
    let new = PathBuf::from(new);
    let written = write(File::create(&new).map_err(told)?);
    match &written {
        Ok(_) => fs::rename(&new, path).map_err(told)?,
        Err(_) => drop(fs::remove_file(&new)),
    }
    written
}

/// Writes `value` as asked for.
pub fn show(value: &Value, output: Output) {
    match output {
        Output::Json => say(&format!("{value:#}")),
        Output::Text => say(&text(value)),
    }
}

/// A value for a person: `key: value` lines, inner maps indented, lists of maps as tables.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write_value(value, 0, &mut out);
    out
}

fn write_value(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) => write_map(map, indent, out),
        Value::Array(items) if is_table(items) => write_table(items, &pad, out),
        Value::Array(items) => {
            for item in items {
                match scalar(item) {
                    Some(text) => out.push_str(&format!("{pad}- {text}\n")),
                    None => {
                        write_value(item, indent, out);
                        out.push('\n');
                    }
                }
            }
        }
        other => out.push_str(&format!("{pad}{}\n", scalar(other).unwrap_or_default())),
    }
}

fn write_map(map: &Map<String, Value>, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    for (key, value) in map {
        let key = key.replace('_', " ");
        match scalar(value) {
            Some(text) => out.push_str(&format!("{pad}{key}: {text}\n")),
            None => {
                out.push_str(&format!("{pad}{key}:\n"));
                write_value(value, indent + 1, out);
            }
        }
    }
}

/// Text of what fits in one place: a number, a text, a list of such.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".to_owned()),
        Value::String(text) => Some(text.chars().map(printable).collect()),
        Value::Object(map) if map.is_empty() => Some("-".to_owned()),
        Value::Object(_) => None,
        Value::Array(items) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| if item.is_array() || item.is_object() { None } else { scalar(item) })
                .collect();
            items.map(|items| format!("[{}]", items.join(", ")))
        }
        other => Some(other.to_string()),
    }
}

/// Model files and clients choose some of these texts; none may move a terminal's cursor.
fn printable(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

fn is_table(items: &[Value]) -> bool {
    let flat = |item: &Value| {
        item.as_object().is_some_and(|map| map.values().all(|value| scalar(value).is_some()))
    };
    !items.is_empty() && items.iter().all(flat)
}

/// Columns that identify a row come first, in this order.
const LEADING: [&str; 5] = ["option", "value", "model", "version", "rows"];

fn write_table(items: &[Value], pad: &str, out: &mut String) {
    let mut columns: Vec<&String> = Vec::new();
    for key in items.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    columns.sort_by_key(|c| LEADING.iter().position(|l| l == c).unwrap_or(LEADING.len()));
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|c| c.replace('_', " ")).collect()];
    rows.extend(items.iter().map(|item| {
        columns.iter().map(|c| item.get(*c).and_then(scalar).unwrap_or_default()).collect()
    }));
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(&format!("{pad}{}\n", cells.join("  ").trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn maps_lists_and_tables() {
        let value = json!({
            "model": "iris",
            "can_batch": true,
            "shape": [1, null, "x"],
            "runs": [{"rows": 1, "per_row": 12.5}, {"rows": 16, "per_row": 3}],
            "notes": {"why": "a\nb\u{1b}[2J", "none": {}},
        });
        let expected = "\
can batch: true
model: iris
notes:
  none: -
  why: a\u{fffd}b\u{fffd}[2J
runs:
  rows  per row
  1     12.5
  16    3
shape: [1, -, x]
";
        let text = text(&value);
        let mut lines: Vec<&str> = text.lines().collect();
        let mut wanted: Vec<&str> = expected.lines().collect();
        // Whether maps keep their order is a feature of serde_json that another crate may switch on.
        lines.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(lines, wanted);
    }
}
