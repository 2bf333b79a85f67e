//! The prediction log: what was asked and answered, as typed rows of Parquet, the way there from the request path, and back.

pub mod columns;
pub mod compact;
pub mod condition;
pub mod digest;
pub mod export;
pub mod footer;
pub mod labels;
pub mod layout;
pub mod options;
pub mod paths;
pub mod reader;
pub mod record;
pub mod redact;
pub mod schema;
pub mod stat;
pub mod subject;
pub mod value;
pub mod verify;

#[cfg(test)]
#[path = "../../tests/support/log_files.rs"]
mod log_files;
#[cfg(test)]
mod reader_tests;
