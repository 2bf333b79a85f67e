//! The prediction log: what was asked and answered, as typed rows of Parquet, and the way there from the request path.

pub mod columns;
pub mod options;
pub mod paths;
pub mod record;
pub mod redact;
pub mod schema;
pub mod subject;
