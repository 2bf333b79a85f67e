//! What the footer of a log file says about its columns: the key `serving.log.schema`, JSON. Pure.

use serde::{Deserialize, Serialize};

/// The footer's key: its value is a `LogSchema` as JSON.
pub const KEY: &str = "serving.log.schema";

/// The format of footer and layout.
pub const FORMAT: u32 = 1;

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Part of what was asked.
    Feature,
    /// Part of what was answered.
    Prediction,
    /// About the request.
    Meta,
}

/// Which side of a tensor a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Its elements, or one of them.
    Value,
    /// Its dimensions, where the signature leaves them open.
    Shape,
    /// The blob that holds its elements.
    Ref,
    /// The digest of its elements.
    Sha256,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRole {
    pub name: String,
    pub role: Role,
    /// As in `list<float>`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The tensor that it comes from, by the signature's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Which element of the row it is, where a tensor is spread over columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The tensor's datatype in the protocol (`FP16` is a float column).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datatype: Option<String>,
    /// Of that tensor; none where it comes from none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// What was done to its values (`hash`, `round`, …), where something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redaction: Option<String>,
}

/// Roles of every column, and which signature they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSchema {
    /// Of this text: 1.
    pub format: u32,
    pub model: String,
    pub version: String,
    /// SHA-256 of the version's files.
    #[serde(default)]
    pub model_digest: String,
    /// SHA-256 of the signature that the columns come from.
    pub signature_digest: String,
    /// What the columns are: equal for files with equal ones.
    pub schema_id: String,
    /// What was redacted: equal for equal rules.
    #[serde(default)]
    pub redaction_rev: i32,
    /// `table` (a row an instance) or `tensor` (a row a request).
    pub layout: String,
    pub columns: Vec<ColumnRole>,
}

impl LogSchema {
    /// Reads the footer's text.
    pub fn parse(text: &str) -> Result<LogSchema, String> {
        let schema: LogSchema = serde_json::from_str(text)
            .map_err(|error| format!("{KEY} is not readable: {error}"))?;
        match schema.format {
            FORMAT => Ok(schema),
            other => Err(format!("{KEY} has format {other}, and this program knows format 1")),
        }
    }

    /// As it stands in a file.
    pub fn text(&self) -> String {
        // Plain values: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The columns of one role, in the file's order.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &ColumnRole> {
        self.columns.iter().filter(move |column| column.role == role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let text = r#"{"format":2,"schema_id":"s","model":"m","version":"1","layout":"table","signature_digest":"","columns":[]}"#;
        assert_eq!(
            LogSchema::parse(text).expect_err("unknown"),
            "serving.log.schema has format 2, and this program knows format 1"
        );
        assert!(LogSchema::parse("{}").expect_err("not whole").contains("format"));
    }
}
