//! The prediction log: what was asked and answered, as typed rows of Parquet, the way there from the request path, and back.

pub mod accounts;
pub mod ahead;
pub mod aside;
pub mod blobs;
pub mod capture;
pub mod cells;
pub mod columns;
pub mod compact;
pub mod condition;
pub mod digest;
pub mod disk;
pub mod encode;
pub mod erased;
pub mod export;
pub mod footer;
pub mod inventory;
pub mod labels;
pub mod large;
pub mod layout;
pub mod options;
pub mod profile;
pub mod reader;
pub mod record;
pub mod redact;
pub mod retention;
pub mod ring;
pub mod rotate;
pub mod rotator;
pub mod sampling;
pub mod schema;
pub mod stat;
pub mod store;
pub mod subject;
pub mod upload;
pub mod value;
pub mod verify;
pub mod wal;
pub mod writer;

#[cfg(test)]
#[path = "../../tests/support/log_files.rs"]
mod log_files;
#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod testing;
