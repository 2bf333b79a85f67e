//! Frees versions that serve no longer, on a thread of its own: once the last request has its answer, and away from every
//! request.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Condvar, Mutex};

use super::table::{Table, Version};

/// How often it is looked whether the last request has gone.
const LOOK: Duration = Duration::from_millis(5);
/// So long after the last version went, the heap's free pages are given back: a swap is over then.
const QUIET: Duration = Duration::from_secs(1);

/// A version whose memory is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub model: Arc<str>,
    pub number: u64,
    pub bytes: u64,
}

/// Where the manager leaves what is to be freed, and learns what is.
pub struct Sweeper {
    shared: Mutex<Shared>,
    changed: Condvar,
    /// Something was freed. One token stands for any number.
    wake: Sender<()>,
}

#[derive(Default)]
struct Shared {
    versions: Vec<Arc<Version>>,
    /// Snapshots that a reader may still hold: the last one to let go of one would free all its rows.
    tables: Vec<Arc<Table>>,
    freed: Vec<Freed>,
    closed: bool,
}

impl Sweeper {
    /// A sweeper, and what wakes the manager when something was freed.
    pub fn new() -> (Arc<Sweeper>, Receiver<()>) {
        let (wake, woken) = bounded(1);
        let sweeper = Sweeper { shared: Mutex::default(), changed: Condvar::new(), wake };
        (Arc::new(sweeper), woken)
    }

    /// Takes versions that no new request can reach.
    pub fn take(&self, versions: Vec<Arc<Version>>) {
        if !versions.is_empty() {
            self.shared.lock().versions.extend(versions);
            self.changed.notify_all();
        }
    }

    /// Takes the snapshot that another one has replaced.
    pub fn retire(&self, table: Arc<Table>) {
        self.shared.lock().tables.push(table);
        self.changed.notify_all();
    }

    /// What was freed since the last time.
    pub fn freed(&self) -> Vec<Freed> {
        mem::take(&mut self.shared.lock().freed)
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.changed.notify_all();
    }

    /// Frees what can be freed, until it is closed.
    pub fn run(&self) {
        let mut untrimmed: Option<Instant> = None;
        loop {
            match self.pass() {
                Went::Nothing => {}
                // What went may have held what follows.
                Went::Tables => continue,
                Went::Versions => {
                    untrimmed = Some(Instant::now());
                    continue;
                }
            }
            let mut shared = self.shared.lock();
            if shared.closed {
                return;
            }
            if !shared.tables.is_empty() || !shared.versions.is_empty() {
                self.changed.wait_for(&mut shared, LOOK);
            } else if let Some(last) = untrimmed {
                if self.changed.wait_until(&mut shared, last + QUIET).timed_out() {
                    drop(shared);
                    trim();
                    untrimmed = None;
                }
            } else {
                self.changed.wait(&mut shared);
            }
        }
    }

    /// Frees what nobody else holds now.
    fn pass(&self) -> Went {
        let (tables, idle): (Vec<_>, Vec<_>) = {
            let Shared { tables, versions, .. } = &mut *self.shared.lock();
            let tables: Vec<_> =
                tables.extract_if(.., |table| Arc::strong_count(table) == 1).collect();
            (tables, versions.extract_if(.., |version| is_idle(version)).collect())
        };
        let went = match (tables.is_empty(), idle.is_empty()) {
            (_, false) => Went::Versions,
            (false, true) => Went::Tables,
            (true, true) => return Went::Nothing,
        };
        let freed = |version: &Arc<Version>| Freed {
            model: version.model.clone(),
            number: version.number,
            bytes: version.weight_bytes,
        };
        let names: Vec<Freed> = idle.iter().map(freed).collect();
        // Not under the lock: a session takes its time to go.
        drop(tables);
        drop(idle);
        if !names.is_empty() {
            self.shared.lock().freed.extend(names);
            // Full: it is awake already.
            let _: Result<(), TrySendError<()>> = self.wake.try_send(());
        }
        went
    }
}

/// What a look freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    Nothing,
    Tables,
    Versions,
}

/// Whether nothing but the sweeper holds it: no snapshot and no request, and no job in a queue.
fn is_idle(version: &Arc<Version>) -> bool {
    Arc::strong_count(version) == 1 && Arc::strong_count(&version.served) == 1
}

/// Gives free pages of the C library's heap back to the system: runtimes allocate there, and it keeps what they free.
fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number and may be made at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[path = "sweeper_tests.rs"]
mod tests;
