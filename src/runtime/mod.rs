//! Runtimes: what turns a model's bytes into sessions, and sessions into answers.

#[cfg(not(any(feature = "ort", feature = "ort-download", feature = "tract")))]
compile_error!(
    "onnxd runs models on ONNX Runtime (feature `ort` or `ort-download`) or on tract (feature `tract`): build it with one of them at least"
);

pub mod built_in;
#[cfg(test)]
mod conformance;
pub mod echo;
pub mod graph;
#[cfg(test)]
pub mod onnx_writer;
pub mod ops;
pub mod options;
#[cfg(any(feature = "ort", feature = "ort-download"))]
pub mod ort;
#[cfg(not(any(feature = "ort", feature = "ort-download")))]
#[path = "no_ort.rs"]
pub mod ort;
pub mod probe;
mod protobuf;
mod scan;
pub mod session;
#[cfg(test)]
pub mod testing;
#[cfg(feature = "tract")]
pub mod tract;
