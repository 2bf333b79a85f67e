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
    /// Whether changes in the repository are taken up by themselves: `off` (default: only calls and `rescan` look, so that
    /// nothing changes unless somebody says so), `poll` (it is looked at every `poll_ms`) or `notify` (as `poll`, and the
    /// system tells of changes, which is at once; it does not on network file systems).
    pub watch: Watch,
    /// Milliseconds between two looks. Default: 5000. Looking never takes more than a twentieth of one processor, so that in
    /// huge repositories it is rarer.
    pub poll_ms: u64,
    /// Milliseconds between two looks at the models' `traffic.yaml`, so that replicas on one repository follow whichever of them is
    /// told of a rollout. Default: 2000. 0: none is looked at but by calls.
    pub traffic_poll_ms: u64,
    /// Milliseconds that a model's directory must stay as it is before what is new there is loaded, so that a copy in
    /// progress never is. Default: 2000. A version with a manifest (`SHA256SUMS`) is loaded at once, and checked by it.
    pub settle_ms: u64,
    /// Bytes that the weights of all models may have in memory. Default: 0: no limit. Beyond it, predecessors that stay warm
    /// go, then the models that were used least lately; a model that is out of memory is loaded when somebody asks for it,
    /// who waits for that. What runs take on top is the runtime's.
    pub model_memory_bytes: u64,
}

/// Whether the repository is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watch {
    #[default]
    Off,
    Poll,
    Notify,
}

impl LifecycleOptions {
    /// What is wrong with these options, if anything.
    pub fn check(&self) -> Result<(), String> {
        match self.poll_ms {
            0 => Err("poll_ms: expected at least 1, got 0".into()),
            _ => Ok(()),
        }
    }
}

impl Default for LifecycleOptions {
    fn default() -> Self {
        LifecycleOptions {
            rollback_ttl_ms: 300_000,
            watch: Watch::Off,
            poll_ms: 5000,
            traffic_poll_ms: 2000,
            settle_ms: 2000,
            model_memory_bytes: 0,
        }
    }
}
