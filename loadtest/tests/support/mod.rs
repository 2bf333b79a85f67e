//! What the end-to-end tests share: binaries as processes, one HTTP request, conditions.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod onnxd;
pub mod process;
