//! What a person can set about a model's cache.

use serde::{Deserialize, Serialize};

/// `cache:` of model.yaml and of the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheOptions {
    /// Bytes that the kept answers of all versions of a model may take together. 0 (default): no cache, since it pays only
    /// where requests repeat themselves, and only the model's owner knows that.
    pub max_bytes: u64,
    /// Milliseconds for which an answer is kept. 0 (default): until its place is needed, since a version answers the same
    /// request the same way for ever.
    pub ttl_ms: u64,
}
