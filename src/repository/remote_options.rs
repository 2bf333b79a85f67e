//! What a person can set about a repository that lies on an object store.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `store:` of the server's configuration: only for a `models` that is a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteOptions {
    /// Directory for the copy that is served, of one repository and one server. Empty (default): one for each URL, in
    /// `mirrors` of the state directory, else of the user's cache directory.
    pub mirror: PathBuf,
    /// Milliseconds between two listings of the store, where `lifecycle.watch` is not off. Default: 30000: a listing of
    /// thousands of objects costs money, and a version is not made every second.
    pub poll_ms: u64,
    /// Milliseconds that the store may take for a page of a listing, to begin an answer, or for the next part of one.
    /// Default: 10000.
    pub timeout_ms: u64,
    /// Bytes that all versions in the mirror may have together; further ones are refused, what is there stays. No single
    /// object may have more, either. Default: 256 GiB: a slip of the hand fills no disk.
    pub max_bytes: u64,
    /// Versions of each model that are mirrored, the newest ones. Default: 0: all.
    pub newest: usize,
    /// Where `onnxd rollout` writes traffic rules.
    pub rollouts: Rollouts,
}

/// Where changes of traffic rules go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rollouts {
    /// Into the store (default), for all servers on it: as conditional writes, so that two at once come one after the other.
    #[default]
    Store,
    /// Into this server's mirror or state directory, for it alone: where its credentials may only read.
    Local,
}

impl RemoteOptions {
    /// What is wrong with these options, if anything.
    pub fn check(&self) -> Result<(), String> {
        let numbers = [
            ("poll_ms", self.poll_ms),
            ("timeout_ms", self.timeout_ms),
            ("max_bytes", self.max_bytes),
        ];
        match numbers.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("{key}: expected at least 1, got 0")),
            None => Ok(()),
        }
    }
}

impl Default for RemoteOptions {
    fn default() -> Self {
        RemoteOptions {
            mirror: PathBuf::new(),
            poll_ms: 30_000,
            timeout_ms: 10_000,
            max_bytes: 256 << 30,
            newest: 0,
            rollouts: Rollouts::Store,
        }
    }
}
