//! Logs and metrics: every metric's name, unit, labels and help stand in `names.rs`.

pub mod clock;
pub mod histogram;
pub mod lanes;
pub mod logs;
pub mod names;
pub mod predictions;
pub mod process;
pub mod prometheus;
pub mod registry;
pub mod request;
pub mod shadow;
pub mod stats;
pub mod trace;
pub mod triton;
