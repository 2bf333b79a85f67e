//! What people and machines see of a run.

pub mod environment;
pub mod json;
