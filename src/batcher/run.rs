//! One run: stack the members, run the session, hand each its part; when a batch fails, find the culprit.

use std::{
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

    let mut attempt = Attempt { served: &served, slot, started: now(), rows };
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
        RunError::Failed(_) => Code::Internal,
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
            .stack(&self.served.signature, &inputs)
            .map_err(|error| (RunError::Failed(error.message.into_owned()), Duration::ZERO))?;
        let session = self.served.sessions.of(self.slot);
        let begun = now();
        // Why unwind safe: on a panic the scratch is only ever overwritten, and the session answers later runs itself.
        let result = catch_unwind(AssertUnwindSafe(|| session.run(&stacked.inputs, cancel)));
        let ended = now();
        let infer = ended.since(begun);
        let outputs = result.unwrap_or_else(|panic| {
            Err(RunError::Failed(format!("the runtime panicked: {}", panic_text(&*panic))))
        });
        let outputs = outputs.map_err(|error| (error, infer))?;
        self.served.cost.observe(self.rows, infer);
        let spent = Spent { input: begun.since(self.started), infer, ..Spent::default() };
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
        match assemble::split(outputs, &self.served.signature, &rows, |_, part| parts.push(part)) {
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

    /// After a failed batch: only the culprit gets the error. At most one run a member.
    fn one_by_one(&mut self, scratch: &mut Scratch, members: &mut Vec<Waiting<Job>>) -> Duration {
        let mut infer = Duration::ZERO;
        let mut single = Vec::with_capacity(1);
        for member in members.drain(..) {
            self.started = now();
            if member.item.replier.abandoned() {
                continue;
            }
            if member.deadline.is_some_and(|deadline| deadline <= self.started) {
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
