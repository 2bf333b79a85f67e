//! The hand-back of an answer: one allocation, and the way back for "the client left".

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    runtime::session::{Cancel, Outputs},
    types::error::{Code, Error},
};

/// What the batcher answers a job with.
pub struct Reply {
    pub outputs: Result<Outputs, Error>,
    pub spent: Spent,
}

/// Where a job's time went inside the batcher.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub queue: Duration,
    /// Stacking the batch.
    pub input: Duration,
    /// The session's run.
    pub infer: Duration,
    /// Splitting the outputs.
    pub output: Duration,
}

/// Makes the two ends of one answer.
pub fn pair() -> (Replier, Awaited) {
    let cell = Arc::new(Cell::default());
    (Replier(Some(cell.clone())), Awaited { cell, done: false, gathered: false })
}

#[derive(Default)]
struct Cell {
    abandoned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reply: Option<Reply>,
    waker: Option<Waker>,
    /// The run that works on this job, so that the last client to leave can end it.
    run: Option<Arc<RunWatch>>,
}

/// The batcher's end. Dropped without an answer, it answers that the job was lost.
pub struct Replier(Option<Arc<Cell>>);

impl Replier {
    pub fn abandoned(&self) -> bool {
        self.0.as_ref().is_some_and(|cell| cell.abandoned.load(Ordering::Acquire))
    }

    pub fn send(mut self, reply: Reply) {
        if let Some(cell) = self.0.take() {
            cell.put(reply);
        }
    }

    /// Ties the job to the run that begins.
    pub fn begin(&self, watch: &Arc<RunWatch>) {
        let Some(cell) = &self.0 else { return };
        cell.state.lock().run = Some(watch.clone());
        // Why after: a client that leaves in between finds either the run here or its flag seen below.
        if cell.abandoned.load(Ordering::Acquire) && cell.state.lock().run.take().is_some() {
            watch.leave();
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            let lost = Error::new(Code::Internal, "the server lost this request while it ran");
            cell.put(Reply { outputs: Err(lost), spent: Spent::default() });
        }
    }
}

impl Cell {
    fn put(&self, reply: Reply) {
        let waker = {
            let mut state = self.state.lock();
            state.run = None;
            state.reply = Some(reply);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The engine's end: a future of the answer. Dropped early, it tells the batcher that nobody waits.
pub struct Awaited {
    cell: Arc<Cell>,
    done: bool,
    /// The job is in this thread's turn: its answer comes at the turn's end, and needs no timer.
    pub gathered: bool,
}

impl Future for Awaited {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let mut state = self.cell.state.lock();
        if let Some(reply) = state.reply.take() {
            drop(state);
            self.done = true;
            return Poll::Ready(reply);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.cell.abandoned.store(true, Ordering::Release);
        let run = self.cell.state.lock().run.take();
        if let Some(run) = run {
            run.leave();
        }
    }
}

/// Counts the clients that still wait for a run; the last one to leave ends it.
pub struct RunWatch {
    waiting: AtomicUsize,
    pub cancel: Cancel,
}

impl RunWatch {
    pub fn new(members: usize) -> Arc<RunWatch> {
        Arc::new(RunWatch { waiting: AtomicUsize::new(members), cancel: Cancel::default() })
    }

    fn leave(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.cancel.fire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Reply {
        Reply { outputs: Ok(Outputs::new()), spent: Spent::default() }
    }

    fn poll(awaited: &mut Awaited) -> Poll<Reply> {
        Pin::new(awaited).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_arrives_once() {
        let (replier, mut awaited) = pair();
        assert!(poll(&mut awaited).is_pending());
        assert!(!replier.abandoned());
        replier.send(answer());
        assert!(matches!(poll(&mut awaited), Poll::Ready(Reply { outputs: Ok(_), .. })));
    }

    #[test]
    fn a_lost_job_is_answered() {
        let (replier, mut awaited) = pair();
        drop(replier);
        let Poll::Ready(reply) = poll(&mut awaited) else { panic!("no answer") };
        assert_eq!(reply.outputs.err().map(|e| e.code), Some(Code::Internal));
    }

    #[test]
    fn the_last_client_to_leave_ends_the_run() {
        let (a, wait_a) = pair();
        let (b, wait_b) = pair();
        let (c, wait_c) = pair();
        drop(wait_c); // left before the run began
        let watch = RunWatch::new(3);
        for replier in [&a, &b, &c] {
            replier.begin(&watch);
        }
        drop(wait_a);
        assert!(a.abandoned() && !watch.cancel.fired());
        drop(wait_b);
        assert!(watch.cancel.fired());
    }

    #[test]
    fn an_answered_client_does_not_count_as_leaving() {
        let (a, wait_a) = pair();
        let watch = RunWatch::new(1);
        a.begin(&watch);
        a.send(answer());
        drop(wait_a);
        assert!(!watch.cancel.fired());
    }
}
