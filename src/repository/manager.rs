//! The manager from outside: starts the threads that look, load, publish and free, and takes what is asked of them.

use std::{
    collections::BTreeMap,
    mem,
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
    entry::{Entry, entries},
    eyes::{Eyes, Look, Sight},
    job::Job,
    keeper::{Inbox, Keeper, Outside},
    loader::{Backends, Loader, Outcome},
    measured::Measurements,
    options::Options,
    remote::Syncer,
    store::Repository,
    sweeper::Sweeper,
    table::SharedTable,
    traffic::{Place, Watched},
};
use crate::{
    batcher::{device::Devices, pool::Pool},
    predlog::store::Logs,
    priority,
};

/// The protobuf of a model nests, and so do the graphs that runtimes build of it.
const LOADER_STACK: usize = 16 << 20;

/// What versions tell of their runs and the manager has not heard; a few panics are enough to fail a version.
const TOLD: usize = 256;

/// What the manager needs from the rest of the process.
pub struct Deps {
    pub backends: Backends,
    pub pool: Arc<Pool>,
    pub devices: Arc<Devices>,
    /// Cores of the process's budget.
    pub cores: usize,
    /// Where predictions are logged.
    pub logs: Arc<Logs>,
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
    /// Where its repository lies: the mirror, of one on an object store.
    pub place: PathBuf,
    /// Why nothing can ever serve, once that is so.
    pub failed: watch::Receiver<Option<String>>,
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
        let found = Found::look(options, deps.state.clone())?;
        Manager::start_on(options, deps, |begin| begin.with(found).map(drop))
    }

    /// As `start`, of the mirror that `syncer` keeps (`options.models` is its place). What it holds is known once it has
    /// been compared with its store, which may take long: until then nothing is published, and what would have ended the
    /// start is told by `failed`.
    pub fn follow(options: &Options, deps: Deps, syncer: Syncer) -> Result<Manager, String> {
        options.check()?;
        Manager::start_on(options, deps, |begin| {
            let alive = begin.alive.clone();
            spawn("onnxd-store".into(), &alive, move || {
                priority::step_back();
                begin.follow(syncer);
            })
        })
    }

    fn start_on(
        options: &Options,
        deps: Deps,
        go: impl FnOnce(Begin) -> Result<(), String>,
    ) -> Result<Manager, String> {
        let table: SharedTable = Arc::new(ArcSwap::default());
        let (publishes, ready) = watch::channel(false);
        let (fail, failed) = watch::channel(None);
        let initial = Arc::new(Initial::default());
        let at_once = match options.load_threads {
            0 => (deps.cores / 2).max(1),
            n => n,
        };
        let (control, calls) = calls::channel();
        let (stop, stopped) = bounded(1);
        let (alive, ended) = bounded(0);
        let (report, reports) = bounded(at_once);
        let (tell, told) = bounded(TOLD);
        // As many as there can be calls, so that the manager never waits for the eyes.
        let (look, looks) = bounded(MOST_CALLS);
        let (sight, sights) = bounded(1);
        let (sweeper, woken) = Sweeper::new();
        let state = deps.state.clone();
        let measurements = Measurements::new(state.as_deref());
        let loader = Arc::new(Loader::new(deps, measurements, tell));
        let loaders = Loaders::start(loader, at_once, &report, &alive)?;
        let outside = Outside {
            loaders,
            looks: look,
            sweeper: sweeper.clone(),
            table: table.clone(),
            ready: publishes,
            initial: initial.clone(),
        };
        let inbox = Inbox { reports, told, calls, sights, woken, stopped };
        let sweeps = sweeper.clone();
        spawn("onnxd-sweeper".into(), &alive, move || {
            priority::step_aside();
            sweeps.run();
        })?;
        let (options, place) = (options.clone(), options.models.clone());
        go(Begin { options, outside, inbox, sweeper, looks, sight, fail, alive, state })?;
        Ok(Manager { table, ready, control, place, failed, initial, stop, ended })
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

/// A repository as it was found.
struct Found {
    repository: Arc<Repository>,
    entries: BTreeMap<String, Entry>,
    traffic: Watched,
}

impl Found {
    /// Traffic rules lie in the repository, or in `state`.
    fn look(options: &Options, state: Option<PathBuf>) -> Result<Found, String> {
        let repository = Arc::new(Repository::scan(&options.models)?);
        let mut entries = entries(&repository, options)?;
        let mut traffic =
            Watched::new(Place { models: options.models.clone(), state, store: None });
        for (model, said) in traffic.changed(repository.models.keys()) {
            if let Some(entry) = entries.get_mut(&model) {
                entry.see_traffic(&said);
            }
        }
        Ok(Found { repository, entries, traffic })
    }
}

/// All that a manager is made of but what the repository holds.
struct Begin {
    options: Options,
    outside: Outside,
    inbox: Inbox,
    sweeper: Arc<Sweeper>,
    looks: Receiver<Look>,
    sight: Sender<Sight>,
    fail: watch::Sender<Option<String>>,
    alive: Sender<()>,
    state: Option<PathBuf>,
}

impl Begin {
    /// Publishes what was found, and starts to load it. Gives where signs of a change are taken, if they are.
    fn with(self, found: Found) -> Result<Option<Sender<()>>, String> {
        let Begin { options, outside, inbox, sweeper, looks, sight, alive, .. } = self;
        let Found { repository, entries, traffic } = found;
        let eyes = Eyes::new(repository, traffic, looks, sight, &options.lifecycle);
        let sign = eyes.sign();
        let mut keeper = Keeper::new(entries, outside, options);
        keeper.begin();
        // None of them starts a thread that serves.
        spawn("onnxd-eyes".into(), &alive, move || {
            priority::step_back();
            eyes.run();
        })?;
        spawn("onnxd-manager".into(), &alive, move || {
            priority::step_back();
            keeper.run(&inbox);
            sweeper.close();
        })?;
        Ok(sign)
    }

    /// Goes on once the mirror is as its store is, and keeps it so.
    fn follow(mut self, mut syncer: Syncer) {
        let (fail, sweeper) = (self.fail.clone(), self.sweeper.clone());
        // Whoever asks for a look at the repository has the store compared before.
        let (look, asked) = bounded(MOST_CALLS);
        let onward = mem::replace(&mut self.outside.looks, look);
        let begun = syncer.begin().and_then(|()| self.with_what_is_there());
        match begun {
            Ok(sign) => syncer.run(&asked, &onward, sign),
            Err(error) => {
                sweeper.close();
                fail.send_replace(Some(error));
            }
        }
    }

    fn with_what_is_there(self) -> Result<Option<Sender<()>>, String> {
        let found = Found::look(&self.options, self.state.clone())?;
        self.with(found)
    }
}

/// The threads that open versions, by who waits for it and what they start.
pub struct Loaders {
    pub at_once: usize,
    /// At low priority: nothing of the model serves yet.
    pub missed: Sender<Job>,
    /// At the lowest, so that those who are served do not notice: another version serves on meanwhile.
    pub quiet: Sender<Job>,
    /// One, at normal priority: for sessions that start threads of their own, which inherit the priority of the one that
    /// opens them, and keep it.
    pub plain: Sender<Job>,
}

impl Loaders {
    fn start(
        loader: Arc<Loader>,
        at_once: usize,
        report: &Sender<Report>,
        alive: &Sender<()>,
    ) -> Result<Loaders, String> {
        let queue = || bounded(at_once);
        let ((missed, missed_jobs), (quiet, quiet_jobs), (plain, plain_jobs)) =
            (queue(), queue(), queue());
        let kinds: [(_, _, fn()); 3] = [
            (missed_jobs, at_once, priority::step_back),
            (quiet_jobs, at_once, priority::step_aside),
            (plain_jobs, 1, || {}),
        ];
        let mut names = (0..).map(|n| format!("onnxd-load-{n}"));
        for (jobs, threads, step) in kinds {
            for name in names.by_ref().take(threads) {
                let (loader, report, jobs) = (loader.clone(), report.clone(), jobs.clone());
                spawn(name, alive, move || {
                    step();
                    load_all(&loader, &jobs, &report);
                })?;
            }
        }
        Ok(Loaders { at_once, missed, quiet, plain })
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
