//! What a person can set about callers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{keys::KeyHashes, roles::Role};

/// `auth:` of the configuration. Once a caller or a file is named, whoever is not known is refused (docs/security.md).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthOptions {
    /// Who may ask. Empty (default), and no `file`: anyone who reaches a port.
    pub callers: Vec<CallerOptions>,
    /// A YAML file with more callers, a list as in `callers`; read again when it changes, so that keys change without a
    /// restart. Empty (default): none.
    pub file: PathBuf,
    /// What logs and metrics say of a caller: `named` (default), `hashed`, or `off` (nothing).
    pub identity: Identity,
    /// Names under which browsers may reach `/admin` and what changes the server, beside addresses and `localhost`. Empty by
    /// default: a name that a stranger's page has turned towards this machine is then refused.
    pub hosts: Vec<String>,
}

/// What logs and metrics say of a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Its name.
    #[default]
    Named,
    /// Twelve digits of its name's SHA-256: tells callers apart for those who do not know the names.
    Hashed,
    /// Nothing.
    Off,
}

/// One caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallerOptions {
    /// What logs, metrics and its own errors call it. Needed.
    pub name: String,
    /// Hashes of its keys, as `onnxd key` prints them: one, or a list, so that a new key comes before the old one goes.
    pub keys: KeyHashes,
    /// Identities of its client certificates, where TLS asks for some.
    pub certificates: Vec<String>,
    /// What it may do: `infer` (default), `read`, `operate`, `admin`.
    pub roles: Vec<Role>,
    /// The models it may use, `*` standing for any text. Empty (default): every model.
    pub models: Vec<String>,
    /// Requests per second, on average; more are refused (429). 0 (default): no limit.
    pub requests_per_second: f64,
    /// Requests that may come at the same moment after a pause. 0 (default): a second's worth.
    pub burst: u32,
    /// Requests under way at once; more are refused (429). 0 (default): no limit.
    pub max_requests: u32,
    /// The highest priority of its requests, as the protocol's `priority`: 1 is the highest, and a request that asks for none
    /// gets it. 0 (default): whatever a request asks for.
    pub priority: u8,
}

impl Default for CallerOptions {
    fn default() -> Self {
        CallerOptions {
            name: String::new(),
            keys: KeyHashes::default(),
            certificates: Vec::new(),
            roles: vec![Role::Infer],
            models: Vec::new(),
            requests_per_second: 0.0,
            burst: 0,
            max_requests: 0,
            priority: 0,
        }
    }
}

impl AuthOptions {
    /// Whether anybody is asked who they are.
    pub fn on(&self) -> bool {
        !self.callers.is_empty() || !self.file.as_os_str().is_empty()
    }
}
