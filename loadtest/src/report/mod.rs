//! What people and machines see of a run.

mod charts;
pub mod environment;
pub mod html;
pub mod json;
pub mod svg;
