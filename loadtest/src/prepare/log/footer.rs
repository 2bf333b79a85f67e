//! What the footer of a log's file says of its columns (docs/logging.md): the key `serving.log.schema`, JSON.

use serde::Deserialize;

/// The footer's key.
pub const KEY: &str = "serving.log.schema";

/// The format that is known here.
const FORMAT: u32 = 1;

/// As much of it as is needed to ask the same again.
#[derive(Clone, Debug, Deserialize)]
pub struct Footer {
    format: u32,
    pub model: String,
    pub version: String,
    /// `table`: a row is an instance of its request; `tensor`: a row is a request.
    pub layout: String,
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    pub name: String,
    /// `feature`, `prediction` or `meta`.
    role: String,
    /// The tensor that it comes from.
    #[serde(default)]
    pub tensor: Option<String>,
    /// Which element of a row, where a tensor has a column for each.
    #[serde(default)]
    pub index: Option<u32>,
    /// In the protocol's words.
    #[serde(default)]
    pub datatype: Option<String>,
    /// `value`, `shape` or `sha256`.
    #[serde(default)]
    pub part: Option<String>,
    /// What was done to its values.
    #[serde(default)]
    pub redaction: Option<String>,
}

impl Footer {
    /// # Errors
    /// In words: it is no such JSON, or of a format that is not known here.
    pub fn parse(text: &str) -> Result<Footer, String> {
        let footer: Footer =
            serde_json::from_str(text).map_err(|e| format!("{KEY} in its footer: {e}"))?;
        match (footer.format, &*footer.layout) {
            (FORMAT, "table" | "tensor") => Ok(footer),
            (FORMAT, other) => Err(format!(
                "{KEY} in its footer: the layout '{}' is not known here, expected table or tensor",
                other.escape_debug()
            )),
            (other, _) => Err(format!(
                "{KEY} in its footer: format {other} is not known here, expected {FORMAT}"
            )),
        }
    }

    /// The columns of an input.
    pub fn of<'f>(&'f self, input: &'f str) -> impl Iterator<Item = &'f Column> {
        let is = move |c: &&Column| c.role == "feature" && c.tensor.as_deref() == Some(input);
        self.columns.iter().filter(is)
    }

    /// Whether what stands in a column is what was sent.
    pub fn as_it_was(&self, column: &str) -> bool {
        self.columns.iter().any(|c| c.name == column && c.redaction.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused_by_name() {
        let text = |format: u32, layout: &str| {
            format!(
                r#"{{"format":{format},"model":"m","version":"1","layout":"{layout}","columns":[{{"name":"request_id","role":"meta","redaction":"hash"}}],"more":1}}"#
            )
        };
        assert!(!Footer::parse(&text(1, "table")).unwrap().as_it_was("request_id"));
        assert!(Footer::parse(&text(2, "table")).unwrap_err().contains("format 2"));
        assert!(Footer::parse(&text(1, "heap")).unwrap_err().contains("'heap'"));
        assert!(Footer::parse("{}").unwrap_err().contains(KEY));
    }
}
