//! Runs copies of requests through shadows, on a thread that steps back behind everything else, and compares the answers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use smallvec::SmallVec;

use super::{
    bind::{Bound, bind},
    compare::compare,
    engine::pick,
};
use crate::{
    batcher::assemble::Scratch,
    predlog::capture::{Ending, Entry},
    priority,
    repository::table::Version,
    telemetry::{
        clock::now,
        shadow::{Copied, ShadowCounts},
        stats::Spans,
    },
    types::{
        error::Error,
        request::{InferRequest, OutputTensor},
    },
};

/// Copies that wait, and bytes of their inputs and the primary's answers: one more is dropped.
const MOST_COPIES: usize = 256;
const MOST_BYTES: usize = 32 << 20;

/// A request for a shadow, and what the primary made of it.
pub struct Copy {
    pub request: InferRequest,
    pub version: Arc<Version>,
    pub counts: Arc<ShadowCounts>,
    pub primary: SmallVec<[OutputTensor; 2]>,
    /// What the primary took, from beginning to answer.
    pub took: Duration,
}

impl Copy {
    fn bytes(&self) -> usize {
        let inputs = self.request.inputs.iter().map(|input| input.data.len());
        let outputs = self.primary.iter().map(|output| output.tensor.data.len());
        inputs.chain(outputs).sum()
    }
}

/// The queue of copies, before one thread that takes what the others leave of the processors.
pub struct Shadows {
    send: Sender<Copy>,
    bytes: Arc<AtomicUsize>,
}

impl Shadows {
    /// Starts the thread, which ends with the last `Shadows`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start() -> Result<Shadows, String> {
        let (shadows, copies) = Shadows::new();
        let bytes = shadows.bytes.clone();
        thread::Builder::new()
            .name("onnxd-shadow".into())
            .spawn(move || {
                priority::idle();
                work(&copies, &bytes);
            })
            .map_err(|error| format!("the thread of the shadows does not start: {error}"))?;
        Ok(shadows)
    }

    fn new() -> (Shadows, Receiver<Copy>) {
        let (send, copies) = bounded(MOST_COPIES);
        (Shadows { send, bytes: Arc::default() }, copies)
    }

    /// For engines without traffic: nobody takes what is offered.
    pub fn none() -> Shadows {
        Shadows::new().0
    }

    /// Takes a copy, or drops it and says so in its counts. Never waits.
    pub fn offer(&self, copy: Copy) {
        let bytes = copy.bytes();
        let counts = copy.counts.clone();
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = before + bytes <= MOST_BYTES;
        if !room || self.send.try_send(copy).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            counts.ended(Copied::Dropped);
        }
    }
}

fn work(copies: &Receiver<Copy>, bytes: &AtomicUsize) {
    for copy in copies {
        let own = copy.bytes();
        let (counts, model) = (copy.counts.clone(), copy.version.model.clone());
        let version = copy.version.number;
        if let Err(error) = run(copy) {
            counts.ended(Copied::Failed);
            tracing::debug!(model = &*model, version, reason = &*error.message, "a shadow failed");
        }
        bytes.fetch_sub(own, Ordering::Relaxed);
        // Whoever waits for this processor has it before the next one.
        thread::yield_now();
    }
}

fn run(copy: Copy) -> Result<(), Error> {
    let Copy { request, version, counts, primary, took } = copy;
    let received = now();
    let mut entry = version.log.as_ref().and_then(|log| log.begin(&request, received, None));
    let answered = answer(&version, request, entry.as_deref_mut());
    if let Some(entry) = entry {
        let infer = answered.as_ref().map_or(Duration::ZERO, |(_, own)| *own);
        let spans = Spans { total: now().since(received), infer, ..Spans::default() };
        let code = answered.as_ref().err().map(|error| error.code);
        // Nobody waits for a shadow's row, whatever the log's mode.
        let _ = entry.end(Ending { code, spans, batch: None });
    }
    let (answer, own) = answered?;
    match compare(&primary, &answer) {
        Some(difference) => counts.compared(difference, own, took),
        None => return Err(Error::internal("its answer has another shape than the primary's")),
    }
    Ok(())
}

/// What the shadow answers, and how long the model took.
fn answer(
    version: &Version,
    request: InferRequest,
    entry: Option<&mut Entry>,
) -> Result<(SmallVec<[OutputTensor; 2]>, Duration), Error> {
    let bound = bind(&version.signature, version.served.padding.as_ref(), request)?;
    let Bound { inputs, rows, wanted, .. } = bound;
    // Alone, and yet stacked: what came over a wire is not aligned.
    let mut scratch = Scratch::new();
    let members = [&inputs[..]];
    let stacked = scratch.stack(&version.signature, None, &members)?;
    let begun = now();
    let session = version.served.sessions.shared();
    // What crashes here has no caller: it is counted, and the version is as it was.
    let ran = catch_unwind(AssertUnwindSafe(|| session.run(&stacked.inputs, None)));
    let outputs = ran
        .map_err(|_| Error::internal("a run of the shadow panicked"))
        .and_then(|ran| ran.map_err(|error| Error::internal(error.to_string())));
    let own = now().since(begun);
    let answer = outputs.and_then(|outputs| pick(version, wanted, outputs));
    if let Some(entry) = entry {
        entry.bound(&inputs, rows);
        if let Ok(answer) = &answer {
            entry.answered(answer);
        }
    }
    answer.map(|answer| (answer, own))
}
