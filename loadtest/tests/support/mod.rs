//! What the end-to-end tests share: binaries as processes, a run and its report, conditions.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod onnxd;
pub mod process;
pub mod run;
pub mod terminal;
