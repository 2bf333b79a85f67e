//! The one writer of the table: it wants what the repository holds and calls ask for, has the loaders open it, and
//! publishes what serves.

mod called;
mod memory;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, select};
use tokio::sync::watch;

use self::{called::Calls, memory::Turn};
use super::{
    calls::Call,
    entry::{Entry, Remedy},
    eyes::{Look, Sight},
    job::Job,
    loader::{Event, Outcome, Told, starts_threads},
    manager::{Initial, Loaders, Report},
    options::Options,
    store::Repository,
    sweeper::Sweeper,
    table::{Model, SharedTable, Table, Version},
};
use crate::telemetry::registry::registry;

/// Between two publications while much is loading: each costs in proportion to the number of models, and a thousand
/// small ones load within a second.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);
/// Publishing takes one part in so many of the manager's time at most: that many models load in linear time.
const PUBLISH_SHARE: u32 = 20;

/// What the keeper reaches the other threads by.
pub struct Outside {
    pub loaders: Loaders,
    pub looks: Sender<Look>,
    pub sweeper: Arc<Sweeper>,
    pub table: SharedTable,
    pub ready: watch::Sender<bool>,
    pub initial: Arc<Initial>,
}

/// What comes in.
pub struct Inbox {
    pub reports: Receiver<Report>,
    pub told: Receiver<Told>,
    pub calls: Receiver<Call>,
    pub sights: Receiver<Sight>,
    pub woken: Receiver<()>,
    pub stopped: Receiver<()>,
}

/// The manager's own state, on its own thread.
pub struct Keeper {
    entries: BTreeMap<String, Entry>,
    rows: HashMap<Arc<str>, Arc<Model>, foldhash::fast::RandomState>,
    queue: VecDeque<Job>,
    under_way: usize,
    calls: Calls,
    outside: Outside,
    options: Options,
    /// Out of the table once the next one is published, and then to be freed.
    gone: Vec<Arc<Version>>,
    /// Bytes that models have in memory, that are being loaded, and that the sweeper has not freed yet.
    resident: u64,
    shares: BTreeMap<Arc<str>, u64>,
    coming: u64,
    leaving: u64,
    /// Who asked for models that are out of memory; and who is told with the next publication.
    demanded: BTreeMap<String, Vec<watch::Sender<()>>>,
    told: Vec<watch::Sender<()>>,
    /// When predecessors that stay warm go.
    kept: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    /// Models that readiness waits for, and those that lost their last version.
    undone: BTreeSet<Arc<str>>,
    lost: BTreeSet<Arc<str>>,
    published: Instant,
    /// Until the next publication.
    pace: Duration,
    dirty: bool,
    /// The server has been ready.
    reached: bool,
}

impl Keeper {
    pub fn new(entries: BTreeMap<String, Entry>, outside: Outside, options: Options) -> Keeper {
        Keeper {
            entries,
            rows: HashMap::default(),
            queue: VecDeque::new(),
            under_way: 0,
            calls: Calls::default(),
            outside,
            options,
            gone: Vec::new(),
            resident: 0,
            shares: BTreeMap::new(),
            coming: 0,
            leaving: 0,
            demanded: BTreeMap::new(),
            told: Vec::new(),
            kept: BinaryHeap::new(),
            undone: BTreeSet::new(),
            lost: BTreeSet::new(),
            published: Instant::now(),
            pace: PUBLISH_EVERY,
            dirty: true,
            reached: false,
        }
    }

    /// Everything wanted is loading, and everybody can see it.
    pub fn begin(&mut self) {
        if self.entries.is_empty() {
            tracing::warn!("the repository holds no model");
        }
        self.park_surplus();
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.complain(&name);
            self.changed(&name);
        }
        self.publish();
    }

    /// Says in the log what stands against a model that is wanted.
    fn complain(&self, name: &str) {
        let entry = self.entries.get(name).filter(|entry| entry.wanted());
        if let Some((entry, reason)) = entry.and_then(|e| Some((e, e.problem()?))) {
            tracing::error!(model = &*entry.name, reason, "the model's directory cannot be served");
        }
    }

    pub fn run(&mut self, inbox: &Inbox) {
        loop {
            self.dispatch();
            let due = self.under_way == 0 || self.calls.answer_waits() || !self.told.is_empty();
            if self.dirty && (due || self.published.elapsed() >= self.pace) {
                self.publish();
            }
            let wait = match self.next_tick() {
                Some(at) => crossbeam_channel::at(at),
                None => crossbeam_channel::never(),
            };
            select! {
                recv(inbox.reports) -> report => match report {
                    Ok(report) => self.take(report),
                    Err(_) => return,
                },
                recv(inbox.told) -> told => match told {
                    Ok(told) => self.heard(&told),
                    Err(_) => return,
                },
                recv(inbox.calls) -> call => match call {
                    Ok(call) => self.receive(call),
                    Err(_) => return,
                },
                recv(inbox.sights) -> sight => match sight {
                    Ok(sight) => self.seen(sight),
                    Err(_) => return,
                },
                recv(inbox.woken) -> _ => self.freed(),
                recv(wait) -> _ => self.tick(Instant::now()),
                recv(inbox.stopped) -> told => {
                    if told.is_ok() {
                        self.outside.table.store(Arc::default());
                    }
                    return;
                }
            }
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        let publish = self.dirty.then(|| self.published + self.pace);
        let kept = self.kept.peek().map(|Reverse((at, _))| *at);
        [publish, kept].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Instant) {
        while self.kept.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, name))) = self.kept.pop() else { return };
            if self.entries.get_mut(&*name).is_some_and(|entry| entry.let_go(Some(now))) {
                self.changed(&name);
            }
        }
    }

    /// Hands jobs to the loaders, as many as may be under way at once (so that no hand-over waits).
    fn dispatch(&mut self) {
        while self.under_way < self.outside.loaders.at_once {
            let Some(job) = self.queue.pop_front() else { return };
            if !self.entries.get(&*job.model).is_some_and(|entry| entry.waits_for(&job)) {
                continue;
            }
            let job = match self.turn(job) {
                Turn::Load(job) => job,
                Turn::Wait(job) => return self.queue.push_front(job),
                Turn::Dropped => continue,
            };
            self.coming += job.bytes;
            let loaders = &self.outside.loaders;
            let to = match &job.predecessor {
                _ if starts_threads(&job.options) => &loaders.plain,
                Some(_) => &loaders.quiet,
                None => &loaders.missed,
            };
            if to.send(job).is_err() {
                return;
            }
            self.under_way += 1;
        }
    }

    fn take(&mut self, report: Report) {
        self.under_way -= 1;
        self.coming = self.coming.saturating_sub(report.job.bytes);
        announce(&report);
        let Report { job, result, took } = report;
        let Some(entry) = self.entries.get_mut(&*job.model) else {
            self.gone.extend(result.ok().and_then(Outcome::version));
            return;
        };
        let number = job.number.to_string();
        registry().set_load_time(&job.model, &number, took);
        if result.is_err() && job.reopens.is_none() {
            registry().load_refused(&job.model, &number);
        }
        entry.finished(&job, result);
        self.changed(&job.model);
        self.progressed(&job.model);
        self.supplied(&job.model);
        self.keep_within(&job.model);
    }

    /// A version that serves tells of its runs.
    fn heard(&mut self, told: &Told) {
        let Told { model, number, event } = told;
        match event {
            Event::Panicked(what) => self.mend(model, *number, what),
            Event::Wanted => {
                let entry = self.entries.get_mut(&**model);
                self.queue.extend(entry.and_then(|entry| entry.widened(*number)));
            }
        }
    }

    /// After a panic: opens the version again, or takes it out.
    fn mend(&mut self, model: &str, version: u64, what: &str) {
        let Some(entry) = self.entries.get_mut(model) else { return };
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

    /// The sweeper has freed something.
    fn freed(&mut self) {
        for freed in self.outside.sweeper.freed() {
            self.leaving = self.leaving.saturating_sub(freed.bytes);
            if let Some(entry) = self.entries.get_mut(&*freed.model) {
                entry.freed(freed.number);
                self.changed(&freed.model);
            }
        }
    }

    /// Takes over what the whole repository holds now. Models that calls decide about stay as they are, but those in
    /// `also`.
    fn observe(&mut self, seen: &Arc<Repository>, also: &[String]) {
        let busy = |keeper: &Keeper, name: &String| {
            let entry = keeper.entries.get(name);
            let held = entry.is_some_and(Entry::by_call) || keeper.calls.has(name);
            held && !also.contains(name)
        };
        for (name, found) in &seen.models {
            if busy(self, name) {
                continue;
            }
            match self.entries.get_mut(name) {
                Some(entry) if !entry.differs(found) => continue,
                Some(entry) => entry.see(found, seen, &self.options.defaults),
                None => {
                    let entry = Entry::new(name, found, seen, &self.options);
                    self.entries.insert(name.clone(), entry);
                }
            }
            self.complain(name);
            self.changed(name);
        }
        let gone = |name: &&String| !seen.models.contains_key(*name) && !busy(self, name);
        for name in self.entries.keys().filter(gone).cloned().collect::<Vec<_>>() {
            self.remove(&name);
        }
    }

    /// Forgets a model whose directory is gone.
    fn remove(&mut self, name: &str) {
        let Some(mut entry) = self.entries.remove(name) else { return };
        tracing::info!(model = name, "the model is not in the repository any more: it is unloaded");
        entry.see_nothing();
        entry.advance(Instant::now());
        entry.let_go(None);
        self.gone.extend(entry.take_gone());
        if let Some(row) = self.rows.remove(name) {
            forget(&row, None);
        }
        self.resident = self.resident.saturating_sub(self.shares.remove(name).unwrap_or_default());
        self.undone.remove(name);
        self.lost.remove(name);
        self.dirty = true;
    }

    /// Takes the model's next steps, and has its row published.
    fn changed(&mut self, model: &str) {
        let Some(entry) = self.entries.get_mut(model) else { return };
        let kept = entry.kept_until();
        let before = self.shares.get(&entry.name).copied().unwrap_or_default();
        self.queue.extend(entry.advance(Instant::now()));
        self.gone.extend(entry.take_gone());
        if let Some(until) = entry.kept_until().filter(|until| kept != Some(*until)) {
            self.kept.push(Reverse((until, entry.name.clone())));
        }
        let (serving, warm) = entry.resident();
        self.resident = self.resident.saturating_sub(before).saturating_add(serving + warm);
        self.shares.insert(entry.name.clone(), serving + warm);
        let (done, lost) = (entry.done(self.options.readiness), entry.lost());
        for (set, member) in [(&mut self.undone, !done), (&mut self.lost, lost)] {
            match member {
                true => set.insert(entry.name.clone()),
                false => set.remove(&entry.name),
            };
        }
        let row = entry.row();
        count(&row);
        if let Some(before) = self.rows.insert(entry.name.clone(), row.clone()) {
            forget(&before, Some(&row));
        }
        self.dirty = true;
    }

    fn publish(&mut self) {
        let begun = Instant::now();
        let heads = Table::heads_of(self.rows.values());
        let table = Arc::new(Table { models: self.rows.clone(), heads });
        let before = self.outside.table.swap(table);
        // In this order: what is freed is in no table that anybody can load.
        self.outside.sweeper.retire(before);
        let gone = mem::take(&mut self.gone);
        self.leaving += gone.iter().map(|version| version.weight_bytes).sum::<u64>();
        self.outside.sweeper.take(gone);
        self.published = Instant::now();
        self.pace = PUBLISH_EVERY.max((self.published - begun) * PUBLISH_SHARE);
        self.dirty = false;
        // After the table, so that who sees the flag sees the models.
        self.reached = self.reached || self.undone.is_empty();
        // Whether it changes or not: who waits looks at the table, too.
        self.outside.ready.send_replace(self.reached && self.lost.is_empty());
        self.calls.answer();
        self.told.clear();
        if self.queue.is_empty() && self.under_way == 0 {
            self.outside.initial.settle();
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

/// Takes off the metrics page what a model's new row has no more.
fn forget(before: &Model, now: Option<&Model>) {
    let there = |number: &u64| now.is_some_and(|row| row.versions.contains_key(number));
    for number in before.versions.keys().filter(|number| !there(number)) {
        registry().forget(&before.name, &number.to_string());
    }
    let whole = |row: &Model| row.failed.is_some() && row.versions.is_empty();
    if whole(before) && !now.is_some_and(whole) {
        registry().forget(&before.name, "");
    }
}

/// One line in the log for a version that serves or cannot.
fn announce(report: &Report) {
    let (model, version) = (&*report.job.model, report.job.number);
    let ms = report.took.as_millis() as u64;
    match &report.result {
        Ok(_) if report.job.reopens.is_some() => {
            let wide = report.job.wide;
            tracing::info!(model, version, ms, wide, "the version was opened again");
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
        Ok(Outcome::Same) => {
            tracing::info!(model, version, ms, "the version's files are those that serve");
        }
        Ok(Outcome::Opened(v)) => {
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
