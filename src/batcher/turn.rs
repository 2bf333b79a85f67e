//! The turn lane: jobs that become ready in one turn of a network thread's event loop run as one batch at its end, on
//! that thread. Batching without delay, lock or hand-over.

use std::{cell::RefCell, sync::Arc, time::Duration};

use super::{
    assemble::Scratch,
    queue::Waiting,
    run,
    served::{Job, Served},
};

/// What one turn may be expected to cost: beyond it, jobs go to the executors, so that a turn full of small models
/// delays nobody's health check.
const TURN_BUDGET: Duration = Duration::from_millis(1);

/// One run this long is an overrun: some twenty times what the probe admits to the turn.
pub const RUN_BOUND: Duration = Duration::from_millis(2);

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// One thread's turn.
struct Turn {
    /// Which of a version's sessions this thread runs on.
    slot: usize,
    groups: Vec<Group>,
    /// Emptied groups, kept for their buffers.
    spare: Vec<Vec<Waiting<Job>>>,
    /// What the gathered jobs are expected to cost.
    expected: Duration,
    scratch: Scratch,
    /// Connections of this thread, and requests on them whose answers are not written.
    connections: usize,
    requests: usize,
}

/// Jobs that run together: one version, one bucket.
struct Group {
    served: Arc<Served>,
    bucket: u64,
    rows: usize,
    jobs: Vec<Waiting<Job>>,
}

/// Makes the calling thread a network thread that takes turns; `slot` is its place among the threads that run models.
pub fn install(slot: usize) {
    TURN.set(Some(Turn {
        slot,
        groups: Vec::new(),
        spare: Vec::new(),
        expected: Duration::ZERO,
        scratch: Scratch::default(),
        connections: 0,
        requests: 0,
    }));
}

/// Takes the job into this thread's turn; leaves it where it is where this thread takes no turns or the turn is full. A
/// job that is certainly alone runs at once.
pub fn gather(waiting: &mut Option<Waiting<Job>>) {
    TURN.with_borrow_mut(|turn| {
        if let (Some(turn), Some(job)) = (turn, &waiting)
            && turn.takes(job)
            && let Some(job) = waiting.take()
        {
            turn.gather(job);
        }
    });
}

/// Runs what was gathered. The network thread's runtime calls it before it waits for events.
pub fn flush() {
    TURN.with_borrow_mut(|turn| {
        if let Some(turn) = turn {
            turn.flush();
        }
    });
}

/// Counts a connection of this thread until dropped.
pub struct Connection(());

impl Connection {
    pub fn open() -> Connection {
        count(|turn| turn.connections += 1);
        Connection(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        count(|turn| turn.connections = turn.connections.saturating_sub(1));
    }
}

/// Counts a request of this thread from its head until dropped.
pub struct Open(());

impl Open {
    pub fn request() -> Open {
        count(|turn| turn.requests += 1);
        Open(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        count(|turn| turn.requests = turn.requests.saturating_sub(1));
    }
}

fn count(change: impl FnOnce(&mut Turn)) {
    // Why try: a guard may drop while the thread itself ends, or inside a flush that drops an abandoned job.
    let _ = TURN.try_with(|turn| {
        if let Ok(mut turn) = turn.try_borrow_mut() {
            turn.as_mut().map(change);
        }
    });
}

impl Turn {
    /// Whether the turn has room for what this job is expected to cost.
    fn takes(&self, waiting: &Waiting<Job>) -> bool {
        self.groups.is_empty() || self.expected + cost_of(waiting) <= TURN_BUDGET
    }

    fn gather(&mut self, waiting: Waiting<Job>) {
        let served = &waiting.item.served;
        if self.connections <= 1 && self.requests <= 1 && self.groups.is_empty() {
            let mut jobs = self.spare.pop().unwrap_or_default();
            let (served, rows) = (served.clone(), waiting.rows);
            jobs.push(waiting);
            self.run(&served, rows, &mut jobs);
            self.spare.push(jobs);
            return;
        }
        let joins = |g: &Group| {
            g.bucket == waiting.bucket
                && served.gather
                && Arc::ptr_eq(&g.served, served)
                && g.rows + waiting.rows <= served.turn_rows.min(served.options.rows())
        };
        // Why a further row is cheaper than a run of its own: only what a batch adds is charged.
        match self.groups.iter_mut().find(|g| joins(g)) {
            Some(group) => {
                let before = served.cost.expect(group.rows).unwrap_or_default();
                group.rows += waiting.rows;
                let after = served.cost.expect(group.rows).unwrap_or_default();
                self.expected += after.saturating_sub(before);
                group.jobs.push(waiting);
            }
            None => {
                self.expected += cost_of(&waiting);
                let mut jobs = self.spare.pop().unwrap_or_default();
                let (served, bucket, rows) = (served.clone(), waiting.bucket, waiting.rows);
                jobs.push(waiting);
                self.groups.push(Group { served, bucket, rows, jobs });
            }
        }
    }

    fn flush(&mut self) {
        if self.groups.is_empty() {
            return;
        }
        let mut groups = std::mem::take(&mut self.groups);
        for mut group in groups.drain(..) {
            group.jobs.retain(|job| !job.item.replier.abandoned());
            let rows = group.jobs.iter().map(|job| job.rows).sum();
            self.run(&group.served, rows, &mut group.jobs);
            self.spare.push(group.jobs);
        }
        self.groups = groups;
        self.expected = Duration::ZERO;
    }

    fn run(&mut self, served: &Arc<Served>, rows: usize, jobs: &mut Vec<Waiting<Job>>) {
        let infer = run::run(&mut self.scratch, self.slot, jobs, false);
        served.ran_in_turn(rows, infer, RUN_BOUND);
    }
}

fn cost_of(waiting: &Waiting<Job>) -> Duration {
    waiting.item.served.cost.expect(waiting.rows).unwrap_or(TURN_BUDGET)
}
