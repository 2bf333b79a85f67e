//! The manager from outside: starts the threads that look, load, publish and free, and takes what is asked of them.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::{
    calls::{self, Control, MOST_CALLS},
    entry::entries,
    eyes::Eyes,
    job::Job,
    keeper::{Inbox, Keeper, Outside},
    loader::{Backends, Loader, Outcome},
    measured::Measurements,
    options::Options,
    priority,
    store::Repository,
    sweeper::Sweeper,
    table::SharedTable,
    traffic::{Place, Watched},
};
use crate::batcher::{device::Devices, pool::Pool};

/// The protobuf of a model nests, and so do the graphs that runtimes build of it.
const LOADER_STACK: usize = 16 << 20;

/// Panics that wait for the manager; a few are enough to fail a version.
const PANICS: usize = 256;

/// What the manager needs from the rest of the process.
pub struct Deps {
    pub backends: Backends,
    pub pool: Arc<Pool>,
    pub devices: Arc<Devices>,
    /// Cores of the process's budget.
    pub cores: usize,
    /// Where measurements are kept between starts; `None`: nowhere.
    pub state: Option<PathBuf>,
}

/// A running manager. Dropping it ends its threads once they are through with what they do; the table stays.
pub struct Manager {
    /// What requests see.
    pub table: SharedTable,
    /// The server's readiness as far as models decide it. Once true it stays, unless a wanted model loses its last
    /// version.
    pub ready: watch::Receiver<bool>,
    /// Takes calls to load and unload.
    pub control: Control,
    initial: Arc<Initial>,
    stop: Sender<()>,
    /// Disconnects when the last thread has ended.
    ended: Receiver<()>,
}

/// Whether all that was wanted at the start has been tried.
#[derive(Default)]
pub struct Initial {
    settled: Mutex<bool>,
    changed: Condvar,
}

impl Initial {
    pub fn settle(&self) {
        *self.settled.lock() = true;
        self.changed.notify_all();
    }
}

/// What a loader reports.
pub struct Report {
    pub job: Job,
    pub result: Result<Outcome, String>,
    pub took: Duration,
}

impl Manager {
    /// Lists the repository, publishes every model as loading and starts to load. The error is one that should end the
    /// start: no repository, or a model to load that it does not have.
    pub fn start(options: &Options, deps: Deps) -> Result<Manager, String> {
        options.check()?;
        let repository = Arc::new(Repository::scan(&options.models)?);
        let mut entries = entries(&repository, options)?;
        let place = Place { models: options.models.clone(), state: deps.state.clone() };
        let mut traffic = Watched::new(place);
        for (model, said) in traffic.changed(repository.models.keys()) {
            if let Some(entry) = entries.get_mut(&model) {
                entry.see_traffic(&said);
            }
        }
        let table: SharedTable = Arc::new(ArcSwap::default());
        let (publishes, ready) = watch::channel(false);
        let initial = Arc::new(Initial::default());
        let at_once = match options.load_threads {
            0 => (deps.cores / 2).max(1),
            n => n,
        };
        let (control, calls) = calls::channel();
        let (stop, stopped) = bounded(1);
        let (alive, ended) = bounded(0);
        let (report, reports) = bounded(at_once);
        let (panic, panics) = bounded(PANICS);
        // As many as there can be calls, so that the manager never waits for the eyes.
        let (look, looks) = bounded(MOST_CALLS);
        let (sight, sights) = bounded(1);
        let (sweeper, woken) = Sweeper::new();
        let measurements = Measurements::new(deps.state.as_deref());
        let loader = Arc::new(Loader::new(deps, measurements, panic));
        let loaders = Loaders::start(loader, at_once, &report, &alive)?;
        let outside = Outside {
            loaders,
            looks: look,
            sweeper: sweeper.clone(),
            table: table.clone(),
            ready: publishes,
            initial: initial.clone(),
        };
        let mut keeper = Keeper::new(entries, outside, options.clone());
        keeper.begin();
        let inbox = Inbox { reports, panics, calls, sights, woken, stopped };
        let eyes = Eyes::new(repository, traffic, looks, sight, &options.lifecycle);
        spawn("onnxd-eyes".into(), &alive, move || eyes.run())?;
        let sweeps = sweeper.clone();
        spawn("onnxd-sweeper".into(), &alive, move || sweeps.run())?;
        spawn("onnxd-manager".into(), &alive, move || {
            keeper.run(&inbox);
            sweeper.close();
        })?;
        Ok(Manager { table, ready, control, initial, stop, ended })
    }

    /// Waits until every wanted version has been tried, and what came of it is published; false when `limit` passed
    /// first.
    pub fn wait_initial(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut settled = self.initial.settled.lock();
        while !*settled {
            if self.initial.changed.wait_until(&mut settled, until).timed_out() {
                return *settled;
            }
        }
        true
    }

    /// Starts no further load, publishes the empty table, and waits up to `limit` for what is under way; false when
    /// something still is.
    pub fn close(&self, limit: Duration) -> bool {
        // Full: already told.
        let _ = self.stop.try_send(());
        self.ended.recv_timeout(limit) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }
}

/// The threads that open versions: `quiet` ones of low priority, and one of normal priority for sessions that start
/// threads of their own (which inherit the priority of the one that opens them, and keep it).
pub struct Loaders {
    pub at_once: usize,
    pub quiet: Sender<Job>,
    pub plain: Sender<Job>,
}

impl Loaders {
    fn start(
        loader: Arc<Loader>,
        at_once: usize,
        report: &Sender<Report>,
        alive: &Sender<()>,
    ) -> Result<Loaders, String> {
        let (quiet, quiet_jobs) = bounded(at_once);
        let (plain, plain_jobs) = bounded(at_once);
        for n in 0..=at_once {
            let is_plain = n == at_once;
            let jobs = if is_plain { plain_jobs.clone() } else { quiet_jobs.clone() };
            let (loader, report) = (loader.clone(), report.clone());
            spawn(format!("onnxd-load-{n}"), alive, move || {
                if !is_plain {
                    priority::step_back();
                }
                load_all(&loader, &jobs, &report);
            })?;
        }
        Ok(Loaders { at_once, quiet, plain })
    }
}

/// Starts a thread that holds `alive` for as long as it runs.
fn spawn(
    name: String,
    alive: &Sender<()>,
    run: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    let alive = alive.clone();
    let run = move || {
        let _alive = alive;
        run();
    };
    let thread = thread::Builder::new().name(name.clone()).stack_size(LOADER_STACK).spawn(run);
    thread.map(drop).map_err(|e| format!("the thread {name} cannot be started: {e}"))
}

fn load_all(loader: &Loader, jobs: &Receiver<Job>, report: &Sender<Report>) {
    for job in jobs {
        let start = Instant::now();
        let result = loader.load(&job);
        if report.send(Report { job, result, took: start.elapsed() }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "called_tests.rs"]
mod called_tests;

#[cfg(test)]
#[path = "swap_tests.rs"]
mod swap_tests;

#[cfg(test)]
#[path = "watch_tests.rs"]
mod watch_tests;

#[cfg(test)]
#[path = "memory_tests.rs"]
mod memory_tests;
