//! The load harness: open-loop load on any Open Inference Protocol v2 server, and whether its objectives hold.

pub mod plan;
pub mod record;
