//! The real binary, end to end: against its own echo server, and against onnxd where that is built.

mod support;

#[path = "e2e/server_side.rs"]
mod server_side;
