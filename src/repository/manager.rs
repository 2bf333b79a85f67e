//! The one writer of the table: it wants what the repository holds, has the loaders open it, and publishes what serves.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::{
    entry::{Entry, Job, Remedy, entries},
    loader::{Backends, Loader, Panicked, starts_threads},
    measured::Measurements,
    options::{Options, Readiness},
    priority,
    store::Repository,
    table::{Model, SharedTable, State, Table, Version},
};
use crate::{
    batcher::{device::Devices, pool::Pool},
    telemetry::registry::registry,
};

/// Between two publications while much is loading: each costs in proportion to the number of models, and a thousand
/// small ones load within a second.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

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
    initial: Arc<Initial>,
    stop: Sender<()>,
    /// Disconnects when the last thread has ended.
    ended: Receiver<()>,
}

/// Whether all that was wanted at the start has been tried.
#[derive(Default)]
struct Initial {
    settled: Mutex<bool>,
    changed: Condvar,
}

/// What a loader reports.
struct Report {
    job: Job,
    result: Result<Arc<Version>, String>,
    took: Duration,
}

impl Manager {
    /// Lists the repository, publishes every model as loading and starts to load. The error is one that should end the
    /// start: no repository, or a model to load that it does not have.
    pub fn start(options: &Options, deps: Deps) -> Result<Manager, String> {
        options.check()?;
        let repository = Arc::new(Repository::scan(&options.models)?);
        let entries = entries(&repository, options)?;
        let table: SharedTable = Arc::new(ArcSwap::default());
        let (publishes, ready) = watch::channel(false);
        let initial = Arc::new(Initial::default());
        let at_once = match options.load_threads {
            0 => (deps.cores / 2).max(1),
            n => n,
        };
        let (stop, stopped) = bounded(1);
        let (alive, ended) = bounded(0);
        let (report, reports) = bounded(at_once);
        let (panic, panics) = bounded(PANICS);
        let measurements = Measurements::new(deps.state.as_deref());
        let loader = Arc::new(Loader::new(repository, deps, measurements, panic));
        let loaders = Loaders::start(loader, at_once, &report, &alive)?;
        let mut state = Keeper {
            entries,
            rows: HashMap::default(),
            queue: VecDeque::new(),
            under_way: 0,
            loaders,
            table: table.clone(),
            ready: publishes,
            initial: initial.clone(),
            readiness: options.readiness,
            published: Instant::now(),
            dirty: true,
            reached: false,
        };
        state.begin();
        spawn("onnxd-manager".into(), move || {
            let _alive = alive;
            state.run(&reports, &panics, &stopped);
        })?;
        Ok(Manager { table, ready, initial, stop, ended })
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
struct Loaders {
    at_once: usize,
    quiet: Sender<Job>,
    plain: Sender<Job>,
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
            let (loader, report, alive) = (loader.clone(), report.clone(), alive.clone());
            spawn(format!("onnxd-load-{n}"), move || {
                let _alive = alive;
                if !is_plain {
                    priority::step_back();
                }
                load_all(&loader, &jobs, &report);
            })?;
        }
        Ok(Loaders { at_once, quiet, plain })
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
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

/// The manager's own state, on its own thread.
struct Keeper {
    entries: BTreeMap<String, Entry>,
    rows: HashMap<Arc<str>, Arc<Model>, foldhash::fast::RandomState>,
    queue: VecDeque<Job>,
    under_way: usize,
    loaders: Loaders,
    table: SharedTable,
    ready: watch::Sender<bool>,
    initial: Arc<Initial>,
    readiness: Readiness,
    published: Instant,
    dirty: bool,
    /// The server has been ready.
    reached: bool,
}

impl Keeper {
    /// Everything wanted is loading, and everybody can see it.
    fn begin(&mut self) {
        if self.entries.is_empty() {
            tracing::warn!("the repository holds no model");
        }
        for entry in self.entries.values_mut() {
            if let Some(problem) = entry.problem().filter(|_| entry.wanted) {
                tracing::error!(model = &*entry.name, reason = problem, "the model cannot serve");
            }
            self.queue.extend(entry.advance());
            let row = entry.row();
            count(&row);
            self.rows.insert(entry.name.clone(), row);
        }
        self.publish();
    }

    fn run(
        &mut self,
        reports: &Receiver<Report>,
        panics: &Receiver<Panicked>,
        stopped: &Receiver<()>,
    ) {
        loop {
            self.dispatch();
            if self.dirty && (self.under_way == 0 || self.published.elapsed() >= PUBLISH_EVERY) {
                self.publish();
            }
            let wait = if self.dirty {
                crossbeam_channel::at(self.published + PUBLISH_EVERY)
            } else {
                crossbeam_channel::never()
            };
            select! {
                recv(reports) -> report => match report {
                    Ok(report) => self.take(report),
                    Err(_) => return,
                },
                recv(panics) -> panicked => match panicked {
                    Ok(panicked) => self.mend(&panicked),
                    Err(_) => return,
                },
                recv(wait) -> _ => {}
                recv(stopped) -> told => {
                    if told.is_ok() {
                        self.table.store(Arc::default());
                    }
                    return;
                }
            }
        }
    }

    /// Hands jobs to the loaders, as many as may be under way at once (so that no hand-over waits).
    fn dispatch(&mut self) {
        while self.under_way < self.loaders.at_once {
            let Some(job) = self.queue.pop_front() else { return };
            let to = match starts_threads(&job.options) {
                true => &self.loaders.plain,
                false => &self.loaders.quiet,
            };
            if to.send(job).is_err() {
                return;
            }
            self.under_way += 1;
        }
    }

    fn take(&mut self, report: Report) {
        self.under_way -= 1;
        announce(&report);
        let Report { job, result, took } = report;
        registry().set_load_time(&job.model, &job.number.to_string(), took);
        let Some(entry) = self.entries.get_mut(&*job.model) else { return };
        match job.reopens {
            Some(_) => entry.reopened(job.number, result),
            None => entry.opened(job.number, result),
        }
        self.changed(&job.model);
    }

    /// After a panic: opens the version again, or takes it out.
    fn mend(&mut self, panicked: &Panicked) {
        let Panicked { model, number, what } = panicked;
        let Some(entry) = self.entries.get_mut(&**model) else { return };
        let (model, version) = (&**model, *number);
        match entry.panicked(version, what, Instant::now()) {
            Remedy::Nothing => tracing::error!(model, version, what, "a run panicked"),
            Remedy::Reopen(job) => {
                tracing::error!(
                    model,
                    version,
                    what,
                    "a run panicked: the version is opened again"
                );
                // Before what is new: this one has callers.
                self.queue.push_front(job);
            }
            Remedy::Failed => {
                tracing::error!(model, version, what, "too many runs panicked: the version fails");
                self.changed(model);
            }
        }
    }

    /// Takes the model's next steps, and has its row published.
    fn changed(&mut self, model: &str) {
        let Some(entry) = self.entries.get_mut(model) else { return };
        self.queue.extend(entry.advance());
        let row = entry.row();
        count(&row);
        self.rows.insert(entry.name.clone(), row);
        self.dirty = true;
    }

    fn publish(&mut self) {
        self.table.store(Arc::new(Table { models: self.rows.clone() }));
        self.published = Instant::now();
        self.dirty = false;
        // After the table, so that who sees the flag sees the models.
        self.reached = self.reached || self.entries.values().all(|e| e.done(self.readiness));
        let ready = self.reached && !self.entries.values().any(Entry::lost);
        // Whether it changes or not: who waits looks at the table, too.
        self.ready.send_replace(ready);
        if self.queue.is_empty() && self.under_way == 0 {
            *self.initial.settled.lock() = true;
            self.initial.changed.notify_all();
        }
    }
}

/// Puts a model's states on the metrics page; one that fails as a whole has no version there.
fn count(row: &Model) {
    for (number, state) in &row.versions {
        registry().set_model_state(&row.name, &number.to_string(), state.label());
    }
    if row.failed.is_some() && row.versions.is_empty() {
        registry().set_model_state(&row.name, "", "failed");
    }
}

/// One line in the log for a version that serves or cannot.
fn announce(report: &Report) {
    let (model, version) = (&*report.job.model, report.job.number);
    let ms = report.took.as_millis() as u64;
    match &report.result {
        Ok(_) if report.job.reopens.is_some() => {
            tracing::info!(model, version, ms, "the version was opened again");
        }
        Err(reason) if report.job.reopens.is_some() => {
            tracing::error!(
                model,
                version,
                reason,
                ms,
                "the version could not be opened again: the sessions that serve stay"
            );
        }
        Ok(v) => {
            let text = |key: &str| v.explanation[key].as_str().unwrap_or_default().to_string();
            tracing::info!(
                model,
                version,
                backend = v.backend,
                mode = text("mode"),
                reason = text("mode_reason"),
                ms,
                "the version serves"
            );
        }
        Err(reason) => tracing::error!(model, version, reason, ms, "the version cannot serve"),
    }
}

/// One line of the banner: a model, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub model: String,
    /// The version that answers a request which names none.
    pub current: Option<u64>,
    /// Every version that serves.
    pub serving: Vec<u64>,
    /// Of the current version; empty where none serves, as is `mode`.
    pub backend: String,
    pub mode: String,
    /// Why the current version has its mode; else why none serves.
    pub why: String,
    /// Versions that failed, with the reason.
    pub failed: Vec<(u64, String)>,
}

/// The banner's part about models: a table with a row for each, and a line for each version that failed.
pub fn banner(table: &Table, models: &Path) -> String {
    let lines = summary(table);
    let serving = lines.iter().filter(|l| l.current.is_some()).count();
    let mut text = format!("serving {serving} of {} models in {}", lines.len(), models.display());
    let rows: Vec<[String; 4]> = lines.iter().map(cells).collect();
    let head = ["model", "versions", "runtime", "mode"];
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.max().unwrap_or(0).max(head[at].len())
    };
    let [model, versions, runtime, mode] = [0, 1, 2, 3].map(width);
    let mut row = |mark: char, [a, b, c, d]: [&str; 4], why: &str| {
        text.push_str(&format!(
            "\n {mark} {a:<model$}  {b:<versions$}  {c:<runtime$}  {d:<mode$}  {}",
            on_one_line(why)
        ));
    };
    if !rows.is_empty() {
        row(' ', head, "why");
    }
    for (line, cells) in lines.iter().zip(&rows) {
        let mark = if line.current.is_some() { '+' } else { '-' };
        row(mark, cells.each_ref().map(String::as_str), &line.why);
        for (number, why) in line.failed.iter().filter(|(_, why)| *why != line.why) {
            let what = format!("version {number} cannot serve: {why}");
            row(' ', ["", "", "", ""], &what);
        }
    }
    text
}

/// Model, versions, runtime and mode.
fn cells(line: &Line) -> [String; 4] {
    let or_dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_string() };
    let versions: Vec<String> = line.serving.iter().map(u64::to_string).collect();
    [line.model.clone(), or_dash(&versions.join(",")), or_dash(&line.backend), or_dash(&line.mode)]
}

/// Reasons quote runtimes, and those quote model files: none may break the table or move a terminal's cursor.
fn on_one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).collect()
}

/// What serves and what does not, by name of the model.
pub fn summary(table: &Table) -> Vec<Line> {
    let mut lines: Vec<Line> = table.models.values().map(|model| line(model)).collect();
    lines.sort_by(|a, b| a.model.cmp(&b.model));
    lines
}

fn line(model: &Model) -> Line {
    let of = |wanted: fn(&State) -> bool| {
        model.versions.iter().filter(move |(_, s)| wanted(s)).map(|(n, s)| (*n, s))
    };
    let current = model.current.as_deref();
    let field = |key: &str| {
        let value = current.and_then(|version| version.explanation[key].as_str());
        value.unwrap_or_default().to_string()
    };
    let why = match current {
        Some(_) => field("mode_reason"),
        None => match (&model.failed, model.versions.values().next_back()) {
            (Some(why), _) => why.clone(),
            (None, Some(State::Loading | State::Warming)) => "loading".into(),
            (None, Some(state)) => state.reason().to_string(),
            (None, None) => "it has no version".into(),
        },
    };
    Line {
        model: model.name.to_string(),
        current: current.map(|v| v.number),
        serving: of(|s| matches!(s, State::Ready(_))).map(|(n, _)| n).collect(),
        backend: current.map_or("", |v| v.backend).to_string(),
        mode: field("mode"),
        why,
        failed: of(|s| matches!(s, State::Failed(_)))
            .filter(|_| model.failed.is_none())
            .map(|(n, s)| (n, s.reason().to_string()))
            .collect(),
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
