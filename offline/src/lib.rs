//! onnxd-offline: what reads the prediction log and makes something of it. `onnxd labels`, `onnxd dataset` and so on run it.

pub mod cli;
pub mod coverage;
pub mod dataset;
pub mod erase;
pub mod replay;
pub mod sql;
