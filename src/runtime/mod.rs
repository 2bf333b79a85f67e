//! Runtimes: what turns a model's bytes into sessions, and sessions into answers.

pub mod graph;
#[cfg(test)]
pub mod onnx_writer;
mod ops;
pub mod options;
#[cfg(feature = "ort")]
pub mod ort;
mod protobuf;
mod scan;
pub mod session;
