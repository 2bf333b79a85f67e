//! One run: stack the members, run the session, hand each its part; when a batch fails, find the culprit.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    assemble::{self, Scratch},
    queue::Waiting,
    reply::{Reply, RunWatch, Spent},
    served::{Job, Served},
};
use crate::{
    runtime::session::{Cancel, Outputs, RunError},
    telemetry::clock::now,
    types::{
        error::{Code, Error},
        tensor::Tensor,
        time::Tick,
    },
};

/// Runs `members` (of one version and one bucket, none abandoned when they were taken) as one batch on the session of
/// thread `slot`, and answers all of them. `cancellable`: the run ends once nobody waits for it (ONNX Runtime looks at
/// the flag between nodes). Returns how long the session ran; `members` is empty afterwards.
pub fn run(
    scratch: &mut Scratch,
    slot: usize,
    members: &mut Vec<Waiting<Job>>,
    cancellable: bool,
) -> Duration {
    let Some(first) = members.first() else { return Duration::ZERO };
    let served = first.item.served.clone();
    let rows: usize = members.iter().map(|m| m.rows).sum();
    let watch = cancellable.then(|| {
        let watch = RunWatch::new(members.len());
        members.iter().for_each(|member| member.item.replier.begin(&watch));
        watch
    });

    let told = Cell::new(false);
    let mut attempt = Attempt { served: &served, slot, started: now(), rows, told };
    match attempt.run(scratch, members, watch.as_ref().map(|w| &w.cancel)) {
        Ok((outputs, spent)) => {
            attempt.answer(members, outputs, spent);
            spent.infer
        }
        Err((RunError::Cancelled, infer)) => {
            refuse(members, &Error::new(Code::Cancelled, "everybody who waited for this run left"));
            infer
        }
        Err((error, infer)) if members.len() == 1 => {
            refuse(members, &run_error(&served, &error));
            infer
        }
        Err((error, infer)) => {
            tracing::debug!(model = &*served.model, %error, members = members.len(),
                "a batch failed: its members run again, one by one");
            infer + attempt.one_by_one(scratch, members)
        }
    }
}

/// What a client is told when the runtime refuses or fails.
fn run_error(served: &Served, error: &RunError) -> Error {
    let code = match error {
        RunError::Invalid(_) => Code::InvalidArgument,
        RunError::Cancelled => Code::Cancelled,
        RunError::Failed(_) | RunError::Panicked(_) => Code::Internal,
    };
    Error::new(code, format!("model '{}' version {}: {error}", served.model, served.version))
}

fn refuse(members: &mut Vec<Waiting<Job>>, error: &Error) {
    for member in members.drain(..) {
        let reply = Reply { outputs: Err(error.clone()), spent: Spent::default() };
        member.item.replier.send(reply);
    }
}

struct Attempt<'a> {
    served: &'a Arc<Served>,
    slot: usize,
    started: Tick,
    rows: usize,
    /// A panic has been reported: a batch and the singles that it falls into count as one.
    told: Cell<bool>,
}

impl Attempt<'_> {
    /// Stacks and runs; `spent.queue` is left for each member to fill.
    fn run(
        &self,
        scratch: &mut Scratch,
        members: &[Waiting<Job>],
        cancel: Option<&Cancel>,
    ) -> Result<(Outputs, Spent), (RunError, Duration)> {
        let inputs: SmallVec<[&[Option<Tensor>]; 32]> =
            members.iter().map(|m| m.item.inputs.as_slice()).collect();
        let stacked = scratch
            .stack(&self.served.signature, self.served.padding.as_ref(), &inputs)
            .map_err(|error| (RunError::Failed(error.message.into_owned()), Duration::ZERO))?;
        let session = self.served.session(self.slot);
        let begun = now();
        // Why unwind safe: on a panic the scratch is only ever overwritten, and the session answers later runs itself.
        let result = catch_unwind(AssertUnwindSafe(|| session.run(&stacked.inputs, cancel)));
        let ended = now();
        let infer = ended.since(begun);
        let outputs = result.unwrap_or_else(|panic| {
            Err(RunError::Panicked(format!("the runtime panicked: {}", panic_text(&*panic))))
        });
        let outputs = outputs.map_err(|error| {
            if let RunError::Panicked(what) = &error
                && !self.told.replace(true)
            {
                self.served.panicked(what);
            }
            (error, infer)
        })?;
        self.served.cost.observe(self.rows, members.iter().map(|m| m.bytes).sum(), infer);
        if stacked.elements > 0 {
            self.served.stats.padded(stacked.elements, stacked.padding);
        }
        let batch = Some((u32::try_from(self.rows).unwrap_or(u32::MAX), self.started.0));
        let input = begun.since(self.started);
        let spent = Spent { input, infer, batch, ..Spent::default() };
        Ok((outputs, spent))
    }

    fn answer(&mut self, members: &mut Vec<Waiting<Job>>, outputs: Outputs, mut spent: Spent) {
        let ran = self.started.after(spent.input).after(spent.infer);
        if let [_] = members.as_slice() {
            spent.output = now().since(ran);
            self.served.stats.executed(self.rows, spent.input, spent.infer, spent.output);
            let Some(member) = members.pop() else { return };
            spent.queue = self.started.since(member.enqueued);
            member.item.replier.send(Reply { outputs: Ok(outputs), spent });
            return;
        }
        let rows: SmallVec<[usize; 64]> = members.iter().map(|m| m.rows).collect();
        let mut parts: SmallVec<[Outputs; 16]> = SmallVec::with_capacity(rows.len());
        let split =
            assemble::split(outputs, &self.served.signature, &rows, |_, part| parts.push(part));
        match split.and_then(|()| self.cut(members, &mut parts)) {
            Ok(()) => {
                spent.output = now().since(ran);
                self.served.stats.executed(self.rows, spent.input, spent.infer, spent.output);
                for (member, outputs) in members.drain(..).zip(parts) {
                    spent.queue = self.started.since(member.enqueued);
                    member.item.replier.send(Reply { outputs: Ok(outputs), spent });
                }
            }
            Err(error) => refuse(members, &error),
        }
    }

    /// Cuts back what padding made longer.
    fn cut(&self, members: &[Waiting<Job>], parts: &mut [Outputs]) -> Result<(), Error> {
        let Some(padding) = &self.served.padding else { return Ok(()) };
        let mut both = members.iter().zip(parts);
        both.try_for_each(|(member, part)| padding.cut(part, &member.item.inputs))
    }

    /// After a failed batch: only the culprit gets the error. At most one run a member.
    fn one_by_one(&mut self, scratch: &mut Scratch, members: &mut Vec<Waiting<Job>>) -> Duration {
        let mut infer = Duration::ZERO;
        let mut single = Vec::with_capacity(1);
        for member in members.drain(..) {
            self.started = now();
            if member.item.replier.abandoned() {
                continue;
            }
            let deadline = member.item.replier.latest(member.deadline);
            if deadline.is_some_and(|deadline| deadline <= self.started) {
                single.push(member);
                refuse(&mut single, &expired());
                continue;
            }
            self.rows = member.rows;
            single.push(member);
            match self.run(scratch, &single, None) {
                Ok((outputs, spent)) => {
                    infer += spent.infer;
                    self.answer(&mut single, outputs, spent);
                }
                Err((error, took)) => {
                    infer += took;
                    refuse(&mut single, &run_error(self.served, &error));
                }
            }
        }
        infer
    }
}

/// The answer to what waited past its deadline.
pub fn expired() -> Error {
    Error::new(Code::DeadlineExceeded, "the deadline passed before the request ran")
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::{
        batcher::{
            cost::CostModel,
            mode::{Choice, Execution},
            options::BatchOptions,
            pool::{Pool, Threads},
            reply,
            served::{ServedParts, Sessions},
        },
        runtime::{
            echo::{Echo, EchoSession, rows_of},
            session::Session,
        },
        telemetry::stats::VersionStats,
        types::{datatype::Datatype, tensor::Dims},
    };

    fn served(panics: &Arc<AtomicUsize>) -> Arc<Served> {
        let echo = Echo { panic_on: Some(13.0), fail_on: Some(14.0), ..Echo::default() };
        let session = Arc::new(EchoSession::new(rows_of(Datatype::Fp32, 1), echo));
        let panics = panics.clone();
        Served::new(ServedParts {
            model: "echo".into(),
            version: "1".into(),
            signature: session.signature().clone(),
            sessions: Sessions::new(session, 0),
            choice: Choice {
                execution: Execution::Batch,
                gather: true,
                turn_rows: 0,
                reserve: true,
                reason: String::new(),
            },
            options: BatchOptions::default(),
            cost: Arc::new(CostModel::new()),
            stats: Arc::new(VersionStats::new("run-tests", "1")),
            device: None,
            threads: 1,
            padding: None,
            pool: Pool::new(Threads { network: 1, executors: 1 }),
            on_panic: Some(Box::new(move |what| {
                assert!(what.contains("told to panic"), "{what}");
                panics.fetch_add(1, Ordering::SeqCst);
            })),
            on_wanted: None,
        })
    }

    /// Runs one batch with a member for each value, and says which were answered.
    fn answers(served: &Arc<Served>, values: &[f32]) -> Vec<Result<(), Code>> {
        let mut members = Vec::new();
        let mut awaited = Vec::new();
        for value in values {
            let (replier, waits) = reply::pair();
            let data = Bytes::copy_from_slice(&value.to_le_bytes());
            let tensor = Tensor { datatype: Datatype::Fp32, dims: Dims::from_slice(&[1, 1]), data };
            let inputs = [Some(tensor)].into_iter().collect();
            let item = Job { served: served.clone(), inputs, replier };
            members.push(Waiting {
                rows: 1,
                bytes: 4,
                bucket: 0,
                enqueued: now(),
                deadline: None,
                priority: 0,
                favoured: false,
                item,
            });
            awaited.push(waits);
        }
        run(&mut Scratch::default(), 0, &mut members, false);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = |waits| {
            let reply: Reply = runtime.block_on(waits);
            reply.outputs.map(drop).map_err(|error| error.code)
        };
        awaited.into_iter().map(answer).collect()
    }

    #[test]
    fn a_panic_is_reported_once_and_only_its_member_gets_the_error() {
        let panics = Arc::new(AtomicUsize::new(0));
        let served = served(&panics);
        assert_eq!(answers(&served, &[1.0, 2.0]), [Ok(()), Ok(())]);
        assert_eq!(answers(&served, &[1.0, 14.0]), [Ok(()), Err(Code::Internal)]);
        assert_eq!(panics.load(Ordering::SeqCst), 0, "a failure is no panic");
        let culprit = [Ok(()), Err(Code::Internal), Ok(())];
        assert_eq!(answers(&served, &[1.0, 13.0, 2.0]), culprit);
        assert_eq!(panics.load(Ordering::SeqCst), 1, "the batch and the single are one");
        assert_eq!(answers(&served, &[13.0]), [Err(Code::Internal)]);
        assert_eq!(panics.load(Ordering::SeqCst), 2);
    }
}
