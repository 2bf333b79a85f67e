//! The pair of traits behind which every runtime stands: a `Backend` opens a model, a `Session` runs it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::types::{
    model::Signature,
    tensor::{Tensor, TensorView},
};

/// A model's verified bytes, as a backend gets them: no backend opens a path of its own.
pub struct ModelSource {
    /// For messages: relative to the repository, as in `iris/1/model.onnx`.
    pub label: String,
    pub bytes: Bytes,
    pub graph: Arc<super::graph::Graph>,
    /// The files of external data that the graph names, by the location it gives.
    pub external: Vec<(String, Bytes)>,
}

/// What a model produced, one tensor an output, in the order of the signature. Each keeps alive what it points to.
pub type Outputs = SmallVec<[Tensor; 2]>;

/// Opens models. One per runtime and process.
pub trait Backend: Send + Sync {
    /// `ort` or `tract`, as in configuration and metrics.
    fn name(&self) -> &'static str;

    /// Runtime and version for a person, as in `ONNX Runtime 1.32.0`.
    fn describe(&self) -> String;

    /// Opens one session; called again for each further replica of the same model. The error says what is wrong with
    /// the file or what the runtime lacks, without the label. `intra_op_threads` is 1 at least.
    fn open(
        &self,
        source: &ModelSource,
        options: &super::options::SessionOptions,
    ) -> Result<Arc<dyn Session>, String>;

    /// Whether one run can be spread over several threads.
    fn spreads_runs(&self) -> bool {
        false
    }
}

/// An opened model. `run` may be called from several threads at once (a backend that cannot serialises inside).
pub trait Session: Send + Sync {
    fn signature(&self) -> &Arc<Signature>;

    /// Execution providers in effect, as in `["CPUExecutionProvider"]`; empty where the runtime has no such notion.
    fn providers(&self) -> &[String];

    /// The device other than the CPU that does the work, as in `cuda:0`.
    fn device(&self) -> Option<&str> {
        None
    }

    /// What is not as it was asked for, as in a provider that was replaced (`fallback`): for the log, once a load.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Runs the model once. `inputs` are in the signature's order, `None` for an optional one left out; each has been
    /// held against the signature. With a `cancel`, the run ends early (`RunError::Cancelled`) once it fires, where
    /// the runtime can.
    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        cancel: Option<&Cancel>,
    ) -> Result<Outputs, RunError>;
}

/// Why a run gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// The runtime calls the input invalid.
    Invalid(String),
    /// The runtime failed.
    Failed(String),
    /// Code of ours or of the runtime panicked: the session may be half changed, and is to be opened again.
    Panicked(String),
    /// Our own flag ended it: nobody's fault.
    Cancelled,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Invalid(m) | RunError::Failed(m) | RunError::Panicked(m) => f.write_str(m),
            RunError::Cancelled => f.write_str("the run was cancelled"),
        }
    }
}

/// Ends one run from another thread. A backend that can be interrupted attaches how; whoever holds a clone fires it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelInner>);

#[derive(Default)]
struct CancelInner {
    fired: AtomicBool,
    /// Set while a run that can be interrupted is under way.
    terminate: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Cancel {
    pub fn fire(&self) {
        self.0.fired.store(true, Ordering::SeqCst);
        if let Some(terminate) = &*self.0.terminate.lock() {
            terminate();
        }
    }

    pub fn fired(&self) -> bool {
        self.0.fired.load(Ordering::SeqCst)
    }

    /// For backends: `terminate` is called at most while the returned guard lives, also at once when the flag has
    /// fired already.
    pub fn attach(&self, terminate: Box<dyn Fn() + Send>) -> Attached<'_> {
        let mut slot = self.0.terminate.lock();
        if self.fired() {
            terminate();
        }
        *slot = Some(terminate);
        Attached(self)
    }
}

/// Detaches on drop; after that the terminate function is never called.
pub struct Attached<'a>(&'a Cancel);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        *self.0.0.terminate.lock() = None;
    }
}
