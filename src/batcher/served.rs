//! A version as the batcher sees it: sessions, options, learned cost.

use std::sync::{Arc, OnceLock};

use crate::{
    runtime::session::Session,
    types::model::Signature,
};

/// The sessions of one version: one shared by all, and, for small models, one for each thread that runs models (a shared
/// session anti-scales on ONNX Runtime's arena mutex).
pub struct Sessions {
    shared: Arc<dyn Session>,
    own: Vec<OnceLock<Arc<dyn Session>>>,
}

impl Sessions {
    /// `threads`: how many threads run models (network threads and executors together).
    pub fn new(shared: Arc<dyn Session>, threads: usize) -> Sessions {
        Sessions { shared, own: (0..threads).map(|_| OnceLock::new()).collect() }
    }

    /// Gives thread `slot` a session of its own; a second one for the same slot is dropped.
    pub fn set_own(&self, slot: usize, session: Arc<dyn Session>) {
        if let Some(own) = self.own.get(slot) {
            let _ = own.set(session);
        }
    }

    /// The session that thread `slot` runs on.
    pub fn of(&self, slot: usize) -> &Arc<dyn Session> {
        self.own.get(slot).and_then(OnceLock::get).unwrap_or(&self.shared)
    }

    pub fn signature(&self) -> &Arc<Signature> {
        self.shared.signature()
    }
}
