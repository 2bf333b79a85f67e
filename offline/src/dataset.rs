//! Data sets: the log joined with its labels, cut by time, guarded against leaks, with a manifest that says what is in it.

pub mod blobs;
pub mod build;
pub mod columns;
pub mod guards;
pub mod manifest;
pub mod select;
pub mod sort;
pub mod spill;
pub mod split;
pub mod write;
