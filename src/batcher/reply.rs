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
    types::{
        error::{Code, Error},
        time::Tick,
    },
};

/// What the batcher answers a job with.
#[derive(Clone)]
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
    /// Rows of the batch, and its number: when it began, in ticks. `None`: there was none.
    pub batch: Option<(u32, u64)>,
}

/// Makes the two ends of one answer.
pub fn pair() -> (Replier, Awaited) {
    let cell = Arc::new(Cell::default());
    (Replier(Some(End::One(cell.clone()))), Awaited { cell, done: false, gathered: false })
}

/// Where an answer goes that several clients wait for.
pub trait Shared: Send + Sync {
    /// Nobody waits any more. Asked under the batcher's lock: must be cheap.
    fn abandoned(&self) -> bool;

    /// The latest deadline of those who wait; `None`: one has none. As cheap.
    fn latest(&self) -> Option<Tick>;

    /// The run that works on it begins.
    fn begin(&self, watch: &Arc<RunWatch>);

    /// The answer; `None` where there will be none: refused, or lost.
    fn land(self: Arc<Self>, reply: Option<Reply>);
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
pub struct Replier(Option<End>);

enum End {
    One(Arc<Cell>),
    Many(Arc<dyn Shared>),
}

impl Replier {
    /// Answers everybody who waits behind `shared`.
    pub fn shared(shared: Arc<dyn Shared>) -> Replier {
        Replier(Some(End::Many(shared)))
    }

    pub fn abandoned(&self) -> bool {
        match &self.0 {
            Some(End::One(cell)) => cell.abandoned.load(Ordering::Acquire),
            Some(End::Many(shared)) => shared.abandoned(),
            None => false,
        }
    }

    /// When nobody wants the answer any more, where `own` is the deadline of the first who asked.
    pub fn latest(&self, own: Option<Tick>) -> Option<Tick> {
        match &self.0 {
            Some(End::Many(shared)) => shared.latest(),
            _ => own,
        }
    }

    pub fn send(mut self, reply: Reply) {
        match self.0.take() {
            Some(End::One(cell)) => cell.put(reply),
            Some(End::Many(shared)) => shared.land(Some(reply)),
            None => {}
        }
    }

    /// Ties the job to the run that begins.
    pub fn begin(&self, watch: &Arc<RunWatch>) {
        let cell = match &self.0 {
            Some(End::One(cell)) => cell,
            Some(End::Many(shared)) => return shared.begin(watch),
            None => return,
        };
        cell.state.lock().run = Some(watch.clone());
        // Why after: a client that leaves in between finds either the run here or its flag seen below.
        if cell.abandoned.load(Ordering::Acquire) && cell.state.lock().run.take().is_some() {
            watch.leave();
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        match self.0.take() {
            Some(End::One(cell)) => cell.put(lost()),
            Some(End::Many(shared)) => shared.land(None),
            None => {}
        }
    }
}

/// The answer to what was dropped on its way.
pub fn lost() -> Reply {
    let lost = Error::new(Code::Internal, "the server lost this request while it ran");
    Reply { outputs: Err(lost), spent: Spent::default() }
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

    /// One client less waits for the run.
    pub fn leave(&self) {
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
