//! Data sets: the log joined with its labels, cut by time, guarded against leaks, with a manifest that says what is in it.

pub mod build;
pub mod guards;
pub mod manifest;
pub mod select;
pub mod split;
