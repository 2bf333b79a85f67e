//! Reading YAML with errors that a person can act on: one line with the file, the line, what is wrong there and what would be right.

use serde::de::DeserializeOwned;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter};

/// Reads `text`, the contents of a file of this name.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| explain(file, text, &e))
}

fn explain(file: &str, text: &str, error: &Error) -> String {
    let error = error.without_snippet();
    let what = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key '{}' (known here: {})", field.escape_debug(), expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("'{}' is none of {}", variant.escape_debug(), expected.join(", "))
        }
        Error::InvalidScalar { ty: "bool", .. } => "expected true or false".into(),
        Error::InvalidScalar { ty: "u64" | "u32" | "usize", .. } => {
            "expected a whole number, 0 or more".into()
        }
        other => DefaultMessageFormatter.format_message(other).chars().map(plain).collect(),
    };
    let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
    let source = line.and_then(|line| text.lines().nth(line.checked_sub(1)?));
    match (line, source) {
        (Some(line), Some(source)) => {
            let source: String = source.trim().chars().take(80).map(plain).collect();
            format!("{file}, line {line}: {what}, at '{source}'")
        }
        _ => format!("{file}: {what}"),
    }
}

/// Files may hold anything; a terminal must not be moved by it.
fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}
