//! What a person can set about batching, per model.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a version executes; `auto` lets the probe decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Auto,
    /// On the network thread, gathered over one turn of its event loop: for models of microseconds.
    Turn,
    /// On the executors, in batches.
    Batch,
    /// On the executors, one request a run.
    Single,
}

/// `batching:` of model.yaml and of the configuration's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchOptions {
    /// How the model executes: `auto` (default; the probe decides), `turn`, `batch` or `single`.
    pub mode: Mode,
    /// Rows a batch may hold. 64 bounds the memory of a run and the wait of the first in line.
    pub max_batch_size: usize,
    /// Microseconds a batch may wait for company. 0: a free executor takes what waits.
    pub max_queue_delay_us: u64,
    /// Requests that may wait; one more is refused (429).
    pub max_queue_requests: usize,
    /// Bytes of inputs that may wait; more are refused (429).
    pub max_queue_bytes: usize,
    /// Executors that the model may hold at once. 0: all of them.
    pub instances: usize,
    /// Milliseconds that a batch should take at most; the learned cost then chooses its size. 0: no target.
    pub latency_target_ms: u64,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            mode: Mode::Auto,
            max_batch_size: 64,
            max_queue_delay_us: 0,
            max_queue_requests: 1024,
            max_queue_bytes: 256 << 20,
            instances: 0,
            latency_target_ms: 0,
        }
    }
}

impl BatchOptions {
    pub fn max_queue_delay(&self) -> Duration {
        Duration::from_micros(self.max_queue_delay_us)
    }
}
