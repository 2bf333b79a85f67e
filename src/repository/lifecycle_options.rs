//! What a person can set about how versions come and go while the server runs.

use serde::{Deserialize, Serialize};

/// `lifecycle:` of the server's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LifecycleOptions {
    /// Milliseconds that a version stays warm after its successor has taken over, so that the way back is at once; one
    /// of each model. Default: 300000, five minutes: about what it takes to notice that a new version is a bad one. 0: it
    /// is freed at once.
    pub rollback_ttl_ms: u64,
}

impl Default for LifecycleOptions {
    fn default() -> Self {
        LifecycleOptions { rollback_ttl_ms: 300_000 }
    }
}
