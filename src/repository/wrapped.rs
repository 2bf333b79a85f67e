//! A session with the signature that model.yaml makes of its own, and the memory that further sessions may take.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    runtime::session::{Cancel, Outputs, RunError, Session},
    types::{model::Signature, tensor::TensorView},
};

/// Memory for further sessions of all models.
pub struct Budget {
    left: AtomicU64,
}

impl Budget {
    /// So many bytes.
    pub fn new(bytes: u64) -> Arc<Budget> {
        Arc::new(Budget { left: AtomicU64::new(bytes) })
    }

    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let take = |left: u64| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Reserved { budget: self.clone(), bytes })
    }
}

/// Part of the budget; dropping it gives it back.
pub struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A session with the signature that model.yaml makes of its own, and the memory it is charged for.
pub struct Wrapped {
    session: Arc<dyn Session>,
    signature: Arc<Signature>,
    _memory: Option<Reserved>,
}

impl Wrapped {
    pub fn new(
        session: Arc<dyn Session>,
        signature: Arc<Signature>,
        memory: Option<Reserved>,
    ) -> Wrapped {
        Wrapped { session, signature, _memory: memory }
    }
}

impl Session for Wrapped {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        self.session.providers()
    }

    fn warnings(&self) -> &[String] {
        self.session.warnings()
    }

    fn device(&self) -> Option<&str> {
        self.session.device()
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        self.session.run(inputs, cancel)
    }
}
