//! A version to open: what the manager hands to a loader.

use std::{fmt, sync::Arc};

use super::{options::ModelOptions, store::Repository, table::Version};

/// Tells a job from any other for the same version.
pub type Ticket = Arc<()>;

/// A version to open.
#[derive(Clone)]
pub struct Job {
    pub model: Arc<str>,
    pub number: u64,
    /// The place, and the file relative to it.
    pub repository: Arc<Repository>,
    pub file: String,
    /// Bytes of its files.
    pub bytes: u64,
    pub options: Arc<ModelOptions>,
    /// The version serves, and is opened again, after a panic or for more sessions: the digest that its files must still
    /// have.
    pub reopens: Option<String>,
    /// Every thread that may run it is to have a session of its own, and not only those that usually do.
    pub wide: bool,
    /// A version of this number serves, opened with the same options from files of this digest: where they still have
    /// it, there is nothing to do.
    pub unless: Option<String>,
    /// What callers of the model use now: the new version has to be fit for them.
    pub predecessor: Option<Arc<Version>>,
    pub ticket: Ticket,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} of {}", self.model, self.number, self.file)
    }
}
