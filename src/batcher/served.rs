//! A version as the batcher sees it: sessions, options, learned cost, and the lane it runs in.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    cost::CostModel,
    device::DeviceLane,
    mode::{Choice, Execution},
    options::BatchOptions,
    padding::Padding,
    pool::Pool,
    queue::{Abandoned, QueueId, Waiting},
    reply::{self, Awaited, Replier},
    shares::Shares,
    turn,
};
use crate::{
    runtime::session::Session,
    telemetry::stats::VersionStats,
    types::{error::Error, model::Signature, tensor::Tensor, time::Tick},
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
        self.own(slot).unwrap_or(&self.shared)
    }

    fn own(&self, slot: usize) -> Option<&Arc<dyn Session>> {
        self.own.get(slot).and_then(OnceLock::get)
    }

    /// The session of whoever has none of its own.
    pub fn shared(&self) -> &Arc<dyn Session> {
        &self.shared
    }

    pub fn signature(&self) -> &Arc<Signature> {
        self.shared.signature()
    }
}

/// Runs on the shared session, by threads that might have one of their own, after which they get it. A few say nothing: on a machine
/// that stalls for a moment, what waits meanwhile is more than a turn holds.
const WANTED_RUNS: u32 = 16;

/// The inputs of one request, in the order of the signature; `None` for an optional one left out.
pub type JobInputs = SmallVec<[Option<Tensor>; 2]>;

/// What the engine hands over: inputs that fit the signature.
#[derive(Clone)]
pub struct Request {
    pub inputs: JobInputs,
    /// Length of the batch axis; 1 for a model without one.
    pub rows: usize,
    /// Bytes of all inputs.
    pub bytes: usize,
    /// Requests of equal buckets have equal shapes beyond the batch axis.
    pub bucket: u64,
    pub deadline: Option<Tick>,
    /// Higher runs earlier.
    pub priority: u8,
    /// As `Waiting::favoured`.
    pub favoured: bool,
}

/// One request on its way through the batcher. It keeps its version alive: drain is ownership.
pub struct Job {
    pub served: Arc<Served>,
    pub inputs: JobInputs,
    pub replier: Replier,
}

impl Abandoned for Job {
    fn abandoned(&self) -> bool {
        self.replier.abandoned()
    }

    fn latest(&self, own: Option<Tick>) -> Option<Tick> {
        self.replier.latest(own)
    }
}

/// Is told of a panic around a session, and what it said, on the thread that ran: must not wait.
pub type OnPanic = Box<dyn Fn(&str) + Send + Sync>;

/// Is told once that threads go on running on the shared session which might have one of their own: must not wait.
pub type OnWanted = Box<dyn Fn() + Send + Sync>;

/// What `Served::new` needs.
pub struct ServedParts {
    pub model: Arc<str>,
    pub version: Arc<str>,
    pub sessions: Sessions,
    pub signature: Arc<Signature>,
    pub choice: Choice,
    /// Threads of one run.
    pub threads: usize,
    pub options: BatchOptions,
    /// How requests of several lengths share a run, where they may.
    pub padding: Option<Padding>,
    pub cost: Arc<CostModel>,
    pub stats: Arc<VersionStats>,
    /// The CPU's executors.
    pub pool: Arc<Pool>,
    /// Those of the device that does the work, in place of the CPU's.
    pub device: Option<Arc<DeviceLane>>,
    pub on_panic: Option<OnPanic>,
    /// `None` where the threads that have no session of their own shall have none.
    pub on_wanted: Option<OnWanted>,
}

/// One version, as the batcher runs it.
pub struct Served {
    pub id: QueueId,
    pub model: Arc<str>,
    pub version: Arc<str>,
    pub sessions: Sessions,
    pub signature: Arc<Signature>,
    pub options: BatchOptions,
    pub padding: Option<Padding>,
    pub cost: Arc<CostModel>,
    pub stats: Arc<VersionStats>,
    /// Rows that the turn may run at once.
    pub turn_rows: usize,
    /// Requests of one bucket may share a run.
    pub gather: bool,
    /// What each caller has under way here, where callers are known.
    pub shares: Shares,
    pool: Arc<Pool>,
    /// The device's executors live as long as somebody needs them.
    _device: Option<Arc<DeviceLane>>,
    on_panic: Option<OnPanic>,
    on_wanted: Option<OnWanted>,
    /// Runs on the shared session so far, up to `WANTED_RUNS`.
    wanted: AtomicU32,
    turn: AtomicBool,
    overruns: AtomicU32,
}

impl Served {
    /// Registers the version with the executors; dropping the last `Arc` takes it out.
    pub fn new(parts: ServedParts) -> Arc<Served> {
        let Choice { execution, gather, turn_rows, .. } = parts.choice;
        let pool = parts.device.as_ref().map_or(parts.pool, |lane| lane.pool.clone());
        Arc::new(Served {
            id: pool.register(&parts.options, &parts.choice, parts.threads, &parts.cost),
            model: parts.model,
            version: parts.version,
            sessions: parts.sessions,
            signature: parts.signature,
            options: parts.options,
            padding: parts.padding,
            cost: parts.cost,
            stats: parts.stats,
            turn_rows,
            gather,
            shares: Shares::default(),
            pool,
            _device: parts.device,
            on_panic: parts.on_panic,
            on_wanted: parts.on_wanted,
            wanted: AtomicU32::new(0),
            turn: AtomicBool::new(execution == Execution::Turn),
            overruns: AtomicU32::new(0),
        })
    }

    /// Whether requests run on the network thread that reads them.
    pub fn in_turn(&self) -> bool {
        self.turn.load(Ordering::Relaxed)
    }

    /// Queues one request, or runs it in this thread's turn. The answer comes through the `Awaited`; an error means that
    /// the request was refused at once.
    pub fn submit(self: &Arc<Self>, request: Request, now: Tick) -> Result<Awaited, Error> {
        let (replier, mut awaited) = reply::pair();
        awaited.gathered = self.submit_to(replier, request, now)?;
        Ok(awaited)
    }

    /// As `submit`, with the answer sent to `replier`; says whether the request is in this thread's turn.
    pub fn submit_to(
        self: &Arc<Self>,
        replier: Replier,
        request: Request,
        now: Tick,
    ) -> Result<bool, Error> {
        let Request { inputs, rows, bytes, bucket, deadline, priority, favoured } = request;
        let item = Job { served: self.clone(), inputs, replier };
        let waiting =
            Waiting { rows, bytes, bucket, enqueued: now, deadline, priority, favoured, item };
        let mut waiting = Some(waiting);
        // A longer row than any that was measured may cost anything: an executor finds out.
        if self.in_turn()
            && rows <= self.turn_rows
            && self.cost.covers(rows, bytes, turn::RUN_BOUND)
        {
            turn::gather(&mut waiting);
        }
        match waiting {
            None => Ok(true),
            Some(waiting) => self.pool.push(waiting, now).map(|()| false),
        }
    }

    /// The session for a run on thread `slot`.
    pub fn session(&self, slot: usize) -> &Arc<dyn Session> {
        let own = self.sessions.own(slot);
        own.unwrap_or_else(|| {
            self.want();
            self.sessions.shared()
        })
    }

    #[cold]
    fn want(&self) {
        let Some(tell) = &self.on_wanted else { return };
        if !self.widely() && self.wanted.fetch_add(1, Ordering::Relaxed) + 1 == WANTED_RUNS {
            tell();
        }
    }

    /// Whether every thread that runs it has a session of its own, as far as it shall, or asked for one.
    pub fn widely(&self) -> bool {
        self.on_wanted.is_none() || self.wanted.load(Ordering::Relaxed) >= WANTED_RUNS
    }

    /// When one who was refused may come again, as far as that is known.
    #[cold]
    pub fn retry_after(&self) -> Duration {
        self.pool.retry_after(self.id)
    }

    /// A run panicked.
    #[cold]
    pub fn panicked(&self, what: &str) {
        if let Some(tell) = &self.on_panic {
            tell(what);
        }
    }

    /// A run in the turn took `took` for `rows` rows: what cannot keep within the turn's bound leaves it for good.
    pub fn ran_in_turn(&self, rows: usize, took: Duration, bound: Duration) {
        if took <= bound {
            if self.overruns.load(Ordering::Relaxed) != 0 {
                self.overruns.store(0, Ordering::Relaxed);
            }
            return;
        }
        // Why two in a row: wall time on a shared machine includes other people's; a model that is too slow is too slow
        // again the next time, a stolen time slice is not.
        if self.overruns.fetch_add(1, Ordering::Relaxed) + 1 >= 2 && self.in_turn() {
            self.turn.store(false, Ordering::Relaxed);
            tracing::warn!(
                model = &*self.model,
                version = &*self.version,
                rows,
                took_us = took.as_micros() as u64,
                bound_us = bound.as_micros() as u64,
                "a run in the turn took longer than the turn allows: the version moves to the executors"
            );
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.pool.remove(self.id);
    }
}
