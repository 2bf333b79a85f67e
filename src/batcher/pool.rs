//! The executors' shared state: every version's queue under one lock, and who waits for work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    cost::CostModel,
    entry::Lanes,
    mode::Choice,
    options::BatchOptions,
    plan::{DEFAULT_WEIGHT, QueueConfig},
    queue::{Gone, Limits, QueueId, Refusal, Taken, Waiting, Why},
    reply::{Reply, Spent},
    run,
    schedule::{Lane, Next, Schedule, Ticket},
    served::{Job, Served},
};
use crate::{
    telemetry::{clock::now, stats::Shed},
    types::{
        error::{Code, Error},
        time::Tick,
    },
};

/// What the reserve executor may take: runs that are over before anybody notices.
pub const RESERVE_COST: Duration = Duration::from_millis(5);

/// When to come again, where nothing is known of the cost.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// How many threads run models.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Threads that read and write the wire, and run the turn.
    pub network: usize,
    /// Executors that take any run. One more, the reserve, takes only short ones.
    pub executors: usize,
}

impl Threads {
    /// Places among the threads that run models: network threads first, then executors, then the reserve.
    pub fn slots(self) -> usize {
        self.network + self.executors + 1
    }
}

/// Queues and executors of the process.
pub struct Pool {
    pub threads: Threads,
    inner: Mutex<Inner>,
    /// Wakes an executor; the second, the reserve.
    main: Condvar,
    reserve: Condvar,
    next_id: AtomicU64,
}

struct Inner {
    schedule: Schedule<Job>,
    idle: [usize; 2],
    closed: bool,
}

/// What an executor does next. A batch lies in `Taken::members`; what is gone is to be answered in either case.
pub(super) enum Work {
    Run(Ticket),
    Nothing,
    Closed,
}

impl Pool {
    pub fn new(threads: Threads) -> Arc<Pool> {
        Pool::with_reserve(threads, Some(RESERVE_COST))
    }

    /// Of a device: its executors have no reserve beside them.
    pub(super) fn of_device(executors: usize) -> Arc<Pool> {
        Pool::with_reserve(Threads { network: 0, executors }, None)
    }

    fn with_reserve(threads: Threads, reserve: Option<Duration>) -> Arc<Pool> {
        let schedule = Schedule::new(Lanes { main: threads.executors, reserve });
        let inner = Inner { schedule, idle: [0; 2], closed: false };
        Arc::new(Pool {
            threads,
            inner: Mutex::new(inner),
            main: Condvar::new(),
            reserve: Condvar::new(),
            next_id: AtomicU64::new(1),
        })
    }

    /// A queue for a new version, whose runs have `width` threads.
    pub(super) fn register(
        &self,
        options: &BatchOptions,
        choice: &Choice,
        width: usize,
        cost: &Arc<CostModel>,
    ) -> QueueId {
        let id = QueueId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let target = Duration::from_millis(options.latency_target_ms);
        let config = QueueConfig {
            limits: Limits {
                max_batch_rows: options.rows(),
                max_delay: options.max_queue_delay(),
                max_requests: options.max_queue_requests,
                max_bytes: options.max_queue_bytes,
            },
            batch: choice.gather,
            instances: options.instances,
            width,
            weight: DEFAULT_WEIGHT,
            reserve: choice.reserve,
            latency_target: (!target.is_zero()).then_some(target),
            standing: options.standing_delay_ms,
            cost: cost.clone(),
        };
        self.inner.lock().schedule.add(id, config);
        id
    }

    pub(super) fn remove(&self, id: QueueId) {
        // Every job keeps its version alive, so nothing waits in the queue of a version that is dropped.
        let leftovers = self.inner.lock().schedule.remove(id);
        drop(leftovers);
    }

    /// Queues a job, or refuses it: full, or without a chance to meet its deadline.
    pub(super) fn push(&self, waiting: Waiting<Job>, at: Tick) -> Result<(), Error> {
        let (id, served) = (waiting.item.served.id, waiting.item.served.clone());
        let mut gone = Vec::new();
        // Before the push: an executor may take the job, and count it out, before this thread goes on.
        served.stats.queued(1);
        let (result, idle) = {
            let mut inner = self.inner.lock();
            let pushed = inner.schedule.push(id, at, waiting, &mut gone);
            (pushed.map_err(|(why, job)| (why, job, inner.schedule.retry_after(id))), inner.idle)
        };
        answer_gone(&mut gone);
        match result {
            Ok(pushed) => {
                let short = pushed.least.is_some_and(|least| least <= RESERVE_COST);
                let main = if pushed.runnable { idle[0] } else { 0 };
                self.wake([main, idle[1]], short);
                Ok(())
            }
            Err((refusal, job, again)) => {
                served.stats.queued(-1);
                if let Some(reason) = reason(&refusal) {
                    served.stats.shed(reason);
                }
                drop(job);
                Err(refused(&served, refusal, again))
            }
        }
    }

    /// When what waits for this version will have become little enough.
    pub(super) fn retry_after(&self, id: QueueId) -> Duration {
        self.inner.lock().schedule.retry_after(id).unwrap_or(UNKNOWN_WAIT)
    }

    /// Frees what a run held, and charges its time.
    pub(super) fn finished(&self, ticket: Ticket, took: Duration) {
        self.inner.lock().schedule.finished(ticket, took);
    }

    /// Waits for a batch, or for something gone that must be answered outside of the lock.
    pub(super) fn take(&self, lane: Lane, taken: &mut Taken<Job>) -> Work {
        let (own, condvar) = match lane {
            Lane::Main => (0, &self.main),
            Lane::Reserve { .. } => (1, &self.reserve),
        };
        let mut inner = self.inner.lock();
        loop {
            let next = inner.schedule.next(now(), lane, taken);
            if let Next::Run(ticket) = next {
                let [main, reserve] = inner.idle;
                let main = if inner.schedule.full() { 0 } else { main };
                let more = inner.schedule.active() > 0;
                drop(inner);
                // Another batch may be due already: whoever is idle, and may run one, looks too.
                if more {
                    self.wake([main, reserve], true);
                }
                return Work::Run(ticket);
            }
            if !taken.gone.is_empty() {
                return Work::Nothing;
            }
            if inner.closed && inner.schedule.active() == 0 {
                // Whoever waits for what it may not take hears that nothing is left.
                self.main.notify_all();
                self.reserve.notify_all();
                return Work::Closed;
            }
            inner.idle[own] += 1;
            match next {
                Next::WaitUntil(at) => drop(condvar.wait_until(&mut inner, at.instant())),
                _ => condvar.wait(&mut inner),
            }
            inner.idle[own] -= 1;
        }
    }

    /// Wakes one that is idle: an executor, or else the reserve where the run may be short enough for it.
    fn wake(&self, [main, reserve]: [usize; 2], short: bool) {
        if main > 0 {
            self.main.notify_one();
        } else if reserve > 0 && short {
            self.reserve.notify_one();
        }
    }

    /// Ends the executors once their queues are empty.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.main.notify_all();
        self.reserve.notify_all();
    }
}

/// Answers what left the queues without running.
pub(super) fn answer_gone(gone: &mut Vec<Gone<Job>>) {
    for Gone { why, item, .. } in gone.drain(..) {
        let served = &item.served;
        served.stats.queued(-1);
        let error = match why {
            Why::Expired => {
                served.stats.shed(Shed::Expired);
                run::expired()
            }
            Why::Late => {
                served.stats.shed(Shed::Late);
                let text =
                    format!("the deadline cannot be met: model '{}' is too busy", served.model);
                Error::new(Code::DeadlineExceeded, text)
            }
            Why::Displaced => {
                served.stats.shed(Shed::QueueFull);
                Error::overloaded(
                    format!("the queue of model '{}' is full of higher priorities", served.model),
                    UNKNOWN_WAIT,
                )
            }
            Why::Abandoned => Error::new(Code::Cancelled, "the client left"),
        };
        item.replier.send(Reply { outputs: Err(error), spent: Spent::default() });
    }
}

/// Which of the metrics' reasons a refusal counts for.
fn reason(refusal: &Refusal) -> Option<Shed> {
    match refusal {
        Refusal::Requests { .. } | Refusal::Bytes { .. } => Some(Shed::QueueFull),
        Refusal::Standing { .. } => Some(Shed::Standing),
        Refusal::Late { .. } => Some(Shed::Late),
        Refusal::Expired => Some(Shed::Expired),
        Refusal::Closed => None,
    }
}

/// `again`: when what waits will have become little enough, if that is known.
fn refused(served: &Served, refusal: Refusal, again: Option<Duration>) -> Error {
    let again = again.unwrap_or(UNKNOWN_WAIT);
    let model = &served.model;
    match refusal {
        Refusal::Requests { limit } => Error::overloaded(
            format!("model '{model}' has {limit} requests waiting, as many as its queue takes"),
            again,
        ),
        Refusal::Bytes { limit } => Error::overloaded(
            format!("the requests waiting for model '{model}' fill its queue of {limit} bytes"),
            again,
        ),
        Refusal::Standing { delay } => Error::overloaded(
            format!(
                "more comes for model '{model}' than it can serve: what waits takes {} ms already",
                delay.as_millis()
            ),
            again,
        ),
        Refusal::Late { estimate, left } => Error::new(
            Code::DeadlineExceeded,
            format!(
                "the deadline cannot be met: model '{model}' would answer in about {} ms, {} ms \
                 are left",
                estimate.as_millis().max(1),
                left.as_millis()
            ),
        ),
        Refusal::Expired => run::expired(),
        Refusal::Closed => Error::new(
            Code::Unavailable,
            format!("version {} of model '{model}' is draining", served.version),
        ),
    }
}
