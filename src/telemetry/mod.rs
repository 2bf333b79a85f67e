//! Logs and metrics: every metric's name, unit, labels and help stand in `names.rs`.

pub mod clock;
pub mod stats;
