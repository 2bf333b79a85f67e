//! The machine that a run was made on, as far as it says so itself: figures without it say little.

use std::fs;

use serde::{Deserialize, Serialize};

/// A generator's machine. What could not be read is empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    pub host: String,
    /// `Linux 6.8.0`.
    pub system: String,
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    pub memory_bytes: u64,
    /// Of the generator.
    pub version: String,
}

impl Environment {
    /// This machine.
    pub fn here() -> Environment {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let line = |path| read(path).trim().to_owned();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let processors = read("/proc/cpuinfo");
        let model = field(&processors, "model name").or_else(|| field(&processors, "CPU part"));
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Environment {
            host: line("/proc/sys/kernel/hostname"),
            system: format!(
                "{} {}",
                line("/proc/sys/kernel/ostype"),
                line("/proc/sys/kernel/osrelease")
            ),
            processor: model.unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kilobytes.unwrap_or(0).saturating_mul(1024),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
