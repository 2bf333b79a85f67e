//! What tests of several rooms need of the runtimes: the backends at hand, and models made in the test.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    graph::Graph,
    onnx_writer::GraphWriter,
    options::SessionOptions,
    session::{Backend, ModelSource, Outputs, RunError, Session},
};
use crate::types::{datatype::Datatype, tensor::TensorView};

/// `onnxruntime/` as the fetch script leaves it in the target directory that this test runs from, if it is there.
pub fn fetched() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    let mut folders = executable.ancestors().map(|folder| folder.join("onnxruntime"));
    folders.find(|folder| folder.join("lib/libonnxruntime.so").is_file())
}

/// ONNX Runtime. `None` (said on stderr) only on a developer's machine that has none; on CI its absence fails the test.
#[cfg(any(feature = "ort", feature = "ort-download"))]
pub fn ort() -> Option<Arc<dyn Backend>> {
    static BACKEND: std::sync::OnceLock<Option<Arc<dyn Backend>>> = std::sync::OnceLock::new();
    let open = || {
        // SAFETY: tests have threads, but none of them writes the environment, and Rust's own readers take a lock.
        unsafe { super::ort::disable_telemetry() };
        let fetched = fetched();
        let library = fetched.as_ref().map(|folder| folder.join("lib/libonnxruntime.so"));
        match super::ort::open_library(library.as_deref()) {
            Ok(backend) => Some(backend),
            Err(e) if fetched.is_some() || std::env::var_os("CI").is_some() => panic!("{e}"),
            Err(e) => {
                eprintln!("tests of ONNX Runtime are left out: {e}");
                None
            }
        }
    };
    BACKEND.get_or_init(open).clone()
}

#[cfg(not(any(feature = "ort", feature = "ort-download")))]
pub fn ort() -> Option<Arc<dyn Backend>> {
    None
}

/// Every backend at hand.
pub fn backends() -> Vec<Arc<dyn Backend>> {
    let mut backends: Vec<_> = ort().into_iter().collect();
    backends.extend(super::built_in::tract());
    assert!(!backends.is_empty(), "no backend to test");
    backends
}

/// A model's file as a backend gets it.
pub fn source(file: Vec<u8>) -> Result<ModelSource, String> {
    let graph = Arc::new(Graph::parse(&file)?);
    Ok(ModelSource { label: "test".into(), bytes: file.into(), graph, external: Vec::new() })
}

/// Opens a model with the default options.
pub fn open(backend: &dyn Backend, graph: &GraphWriter) -> Result<Arc<dyn Session>, String> {
    backend.open(&source(graph.model())?, &SessionOptions::default())
}

/// Little-endian bytes of a tensor of floats.
pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Little-endian bytes of a tensor of integers.
pub fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A BYTES tensor's framing of these elements.
pub fn framed(elements: &[&[u8]]) -> Vec<u8> {
    let frame = |e: &&[u8]| [&(e.len() as u32).to_le_bytes(), *e].concat();
    elements.iter().flat_map(frame).collect()
}

/// Floats of an output's bytes.
pub fn read_floats(data: &Bytes) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Runs a session of one input.
pub fn run_one(
    session: &dyn Session,
    datatype: Datatype,
    dims: &[i64],
    data: &[u8],
) -> Result<Outputs, RunError> {
    session.run(&[Some(TensorView { datatype, dims, data })], None)
}
