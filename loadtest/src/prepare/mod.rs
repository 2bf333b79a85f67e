//! Requests, made ready before a run: what is sent is decided here, so that the generator only writes bytes.

pub mod entry;
