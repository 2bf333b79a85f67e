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
    options::BatchOptions,
    queue::{Limits, Refusal, Waiting},
    schedule::{Lane, Next, QueueConfig, QueueId, Schedule},
    served::{Job, Served},
};
use crate::{
    telemetry::clock::now,
    types::{
        error::{Code, Error},
        time::Tick,
    },
};

/// What the reserve executor may take: runs that are over before anybody notices.
pub const RESERVE_COST: Duration = Duration::from_millis(5);

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

/// What an executor does next.
pub(super) enum Work {
    Run(QueueId, Vec<Waiting<Job>>),
    /// Only what expired; call again.
    Nothing,
    Closed,
}

impl Pool {
    pub fn new(threads: Threads) -> Arc<Pool> {
        let inner = Inner { schedule: Schedule::default(), idle: [0; 2], closed: false };
        Arc::new(Pool {
            threads,
            inner: Mutex::new(inner),
            main: Condvar::new(),
            reserve: Condvar::new(),
            next_id: AtomicU64::new(1),
        })
    }

    /// A queue for a new version.
    pub(super) fn register(&self, options: &BatchOptions, stackable: bool) -> QueueId {
        let id = QueueId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let config = QueueConfig {
            limits: Limits {
                max_batch_rows: if stackable { options.max_batch_size.max(1) } else { 1 },
                max_delay: if stackable { options.max_queue_delay() } else { Duration::ZERO },
                max_requests: options.max_queue_requests,
                max_bytes: options.max_queue_bytes,
            },
            instances: options.instances,
            weight: 1,
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
        let result = {
            let mut inner = self.inner.lock();
            let idle = inner.idle;
            inner.schedule.push(id, at, waiting, self.threads.executors).map(|()| idle)
        };
        match result {
            Ok(idle) => {
                served.stats.queued(1);
                // Why both: the reserve takes the run only if it is short, an executor may be in the middle of a long one.
                match idle {
                    [0, 0] => {}
                    [0, _] => drop(self.reserve.notify_one()),
                    _ => drop(self.main.notify_one()),
                }
                Ok(())
            }
            Err((refusal, job)) => {
                drop(job);
                Err(refused(&served, refusal))
            }
        }
    }

    /// Tells the schedule what a run of this version costs now.
    pub(super) fn learned(&self, served: &Served, rows: usize) {
        if let Some(cost) = served.cost.expect(rows.max(1)) {
            self.inner.lock().schedule.set_cost(served.id, cost);
        }
    }

    /// Frees what a run held, and charges its time.
    pub(super) fn finished(&self, served: &Served, rows: usize, took: Duration) {
        let cost = served.cost.expect(rows.max(1));
        let mut inner = self.inner.lock();
        inner.schedule.finished(served.id, took);
        if let Some(cost) = cost {
            inner.schedule.set_cost(served.id, cost);
        }
    }

    /// Waits for a batch. What expired meanwhile is put into `expired`, to be answered outside of the lock.
    pub(super) fn take(&self, lane: Lane, expired: &mut Vec<Job>) -> Work {
        let (own, condvar) = match lane {
            Lane::Main => (0, &self.main),
            Lane::Reserve(_) => (1, &self.reserve),
        };
        let mut inner = self.inner.lock();
        loop {
            let next = inner.schedule.next(now(), lane, expired);
            if let Next::Run { id, batch } = next {
                return Work::Run(id, batch.members);
            }
            if !expired.is_empty() {
                return Work::Nothing;
            }
            if inner.closed {
                return Work::Closed;
            }
            inner.idle[own] += 1;
            match next {
                Next::WaitUntil(at) => {
                    condvar.wait_until(&mut inner, at.instant());
                }
                _ => condvar.wait(&mut inner),
            }
            inner.idle[own] -= 1;
        }
    }

    /// After a batch was taken: whether another executor should look too.
    pub(super) fn pass_on(&self) {
        let idle = self.inner.lock().idle;
        if idle[0] > 0 {
            self.main.notify_one();
        } else if idle[1] > 0 {
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

fn refused(served: &Served, refusal: Refusal) -> Error {
    let wait = served.cost.expect(1).unwrap_or(Duration::from_millis(100));
    match refusal {
        Refusal::Requests { limit } => Error::overloaded(
            format!("model '{}' has {limit} requests waiting, as many as its queue takes", served.model),
            wait.saturating_mul(u32::try_from(limit / 2).unwrap_or(u32::MAX)),
        ),
        Refusal::Bytes { limit } => Error::overloaded(
            format!("the requests waiting for model '{}' reach its {limit} bytes", served.model),
            wait.saturating_mul(4),
        ),
        Refusal::Hopeless { expected } => Error::new(
            Code::DeadlineExceeded,
            format!(
                "the deadline cannot be met: model '{}' would answer in about {} ms",
                served.model,
                expected.as_millis().max(1)
            ),
        ),
        Refusal::Closed => Error::new(
            Code::Unavailable,
            format!("version {} of model '{}' is draining", served.version, served.model),
        ),
    }
}
