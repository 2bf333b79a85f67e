//! One model as the manager keeps it: what is on disk, what is wanted, how each version stands, and its row in the
//! table.

mod calls;
mod leaving;
mod routed;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::{leaving::Kept, routed::Routed};
use super::{
    job::{Job, Ticket},
    lifecycle::{self, Action, Standing, Standings},
    loader::Outcome,
    options::{Defaults, Load, ModelOptions, Options, Readiness, Versions},
    print::Print,
    store::{FoundModel, Repository},
    table::{Model, State, Version},
    triton,
};

/// So many panics of a version within `PANIC_WINDOW` fail it.
pub const MOST_PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// What this server wants of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// None of it, and why.
    Nothing(&'static str),
    /// What its directory and its model.yaml say.
    Directory,
    /// These versions, as calls asked for them.
    Only(BTreeSet<u64>),
}

const NOT_ASKED_FOR: &str = "not loaded: not among those to load";
const BY_CALL: &str = "unloaded by a call";
const PARKED: &str = "not in memory: it is loaded when somebody asks for it";
const OTHERS: &str = "not loaded: calls asked for other versions";

/// A model in the manager's book.
pub struct Entry {
    pub name: Arc<str>,
    pub options: Arc<ModelOptions>,
    /// Why none of it can serve, where that is so; where something serves, why its directory is not followed.
    problem: Option<String>,
    /// The place that was looked at last, and what was found there.
    repository: Arc<Repository>,
    found: FoundModel,
    on_disk: BTreeSet<u64>,
    /// Who is to get what of its requests.
    routed: Routed,
    wish: Wish,
    /// Calls said so, and nothing else changes it.
    by_call: bool,
    /// Wanted, but out of memory until somebody asks for it.
    parked: bool,
    /// Somebody asked for it, and waits.
    awaited: bool,
    standings: Standings,
    states: BTreeMap<u64, State>,
    /// Jobs under way. What comes of one that is not here changes nothing.
    opening: BTreeMap<u64, Ticket>,
    /// What was opened last of each version, or was tried to: another print or other options are tried anew.
    tried: BTreeMap<u64, Tried>,
    /// Why the changed files of a version that serves did not take over.
    refused: BTreeMap<u64, String>,
    /// Versions that were refused since the call under way began.
    refusals: Vec<(u64, String)>,
    /// While several models change as one: what opened, and waits for the others.
    staged: Option<BTreeMap<u64, Arc<Version>>>,
    before: Option<Box<Before>>,
    /// Versions that serve no longer, for whoever frees them; and how many of each number are not free yet.
    gone: Vec<Arc<Version>>,
    draining: BTreeMap<u64, usize>,
    kept: Option<Kept>,
    rollback_ttl: Duration,
    /// When a run of each version panicked lately.
    panics: BTreeMap<u64, Vec<Instant>>,
    /// A version has served; and when the last one became ready, in milliseconds since the Unix epoch.
    served: bool,
    ready_at: u64,
}

/// What a version was opened from, and how.
type Tried = (Option<Print>, Arc<ModelOptions>);

/// How things were before a call.
struct Before {
    options: Arc<ModelOptions>,
    problem: Option<String>,
    repository: Arc<Repository>,
    found: FoundModel,
    on_disk: BTreeSet<u64>,
    tried: BTreeMap<u64, Tried>,
    wish: Wish,
    by_call: bool,
    standings: Standings,
    states: BTreeMap<u64, State>,
}

/// What a panic leads to.
#[derive(Debug)]
pub enum Remedy {
    /// The version does not serve any more, or is being opened again already.
    Nothing,
    /// It serves on until this is done.
    Reopen(Job),
    /// It has failed.
    Failed,
}

/// Every model of the repository, those that shall not be loaded too. The error is one of the whole start: a name in
/// `load` that is not there.
pub fn entries(
    repository: &Arc<Repository>,
    options: &Options,
) -> Result<BTreeMap<String, Entry>, String> {
    if let Load::Names(names) = &options.load
        && let Some(unknown) = names.iter().find(|n| !repository.models.contains_key(*n))
    {
        let known: Vec<&str> = repository.models.keys().map(String::as_str).collect();
        return Err(format!(
            "the model '{}' that shall be loaded is not in the repository, which has {}",
            unknown.escape_debug(),
            if known.is_empty() { "none".into() } else { known.join(", ") }
        ));
    }
    let entry = |(name, found): (&String, &FoundModel)| {
        let entry = Entry::new(name, found, repository, options);
        (name.clone(), entry)
    };
    Ok(repository.models.iter().map(entry).collect())
}

impl Entry {
    /// A model that was found, wanted as the options say.
    pub fn new(
        name: &str,
        found: &FoundModel,
        repository: &Arc<Repository>,
        options: &Options,
    ) -> Entry {
        let wanted = options.load.wants(name);
        let mut entry = Entry {
            name: name.into(),
            options: Arc::new(ModelOptions::from(&options.defaults)),
            problem: None,
            repository: repository.clone(),
            found: FoundModel::default(),
            on_disk: BTreeSet::new(),
            routed: Routed::default(),
            wish: if wanted { Wish::Directory } else { Wish::Nothing(NOT_ASKED_FOR) },
            by_call: false,
            parked: false,
            awaited: false,
            standings: Standings::new(),
            states: BTreeMap::new(),
            opening: BTreeMap::new(),
            tried: BTreeMap::new(),
            refused: BTreeMap::new(),
            refusals: Vec::new(),
            staged: None,
            before: None,
            gone: Vec::new(),
            draining: BTreeMap::new(),
            kept: None,
            rollback_ttl: Duration::from_millis(options.lifecycle.rollback_ttl_ms),
            panics: BTreeMap::new(),
            served: false,
            ready_at: 0,
        };
        entry.see(found, repository, &options.defaults);
        entry
    }

    /// Takes over what its directory holds now; what follows from it is `advance`'s.
    pub fn see(&mut self, found: &FoundModel, repository: &Arc<Repository>, defaults: &Defaults) {
        let read = |file: &String| triton::read_any(repository, file, &self.name, defaults);
        let read = match found.options.as_ref().map(read) {
            None => Ok(ModelOptions::from(defaults)),
            Some(read) => read,
        };
        self.problem = found.problem.clone();
        match read {
            Ok(options) => {
                let missing = missing(&options, found);
                self.problem = self.problem.take().or(missing);
                if options != *self.options {
                    self.options = Arc::new(options);
                }
            }
            Err(problem) => drop(self.problem.get_or_insert(problem)),
        }
        self.repository = repository.clone();
        self.found = found.clone();
        self.on_disk = found.numbers();
        self.refresh();
    }

    /// Its directory is gone.
    pub fn see_nothing(&mut self) {
        self.found = FoundModel::default();
        self.on_disk.clear();
        self.problem = Some("it is not in the repository any more".into());
        self.refresh();
    }

    /// What a look at its directory would change, as far as prints tell.
    pub fn differs(&self, found: &FoundModel) -> bool {
        *found != self.found
    }

    pub fn by_call(&self) -> bool {
        self.by_call
    }

    /// The versions on disk.
    pub fn numbers(&self) -> &BTreeSet<u64> {
        &self.on_disk
    }

    /// Whether this server is to serve it.
    pub fn wanted(&self) -> bool {
        !matches!(self.wish, Wish::Nothing(_))
    }

    /// What a version is that nothing is done about.
    fn idle_state(&self) -> State {
        match (&self.problem, &self.wish) {
            (Some(problem), _) => State::Failed(problem.clone()),
            (None, Wish::Nothing(why)) => State::Unloaded((*why).into()),
            (None, _) if self.parked => State::Unloaded(PARKED.into()),
            (None, Wish::Directory) => {
                State::Unloaded(format!("not loaded: 'versions: {}'", self.options.versions))
            }
            (None, Wish::Only(_)) => State::Unloaded(OTHERS.into()),
        }
    }

    /// Gives every version that nothing is done about the state that says why.
    fn refresh(&mut self) {
        let idle = self.idle_state();
        let Entry { on_disk, standings, states, .. } = self;
        standings.retain(|n, s| on_disk.contains(n) || *s != Standing::Failed);
        states.retain(|n, state| {
            let owned = standings.contains_key(n);
            owned || on_disk.contains(n) || matches!(state, State::Draining | State::Kept(_))
        });
        for number in on_disk.iter().filter(|n| !standings.contains_key(n)) {
            match states.get(number) {
                Some(State::Draining | State::Kept(_)) => {}
                _ => drop(states.insert(*number, idle.clone())),
            }
        }
    }

    fn active(&self) -> bool {
        self.wanted() && (self.problem.is_none() || self.on_disk.is_empty())
    }

    /// Which versions are to serve.
    fn policy(&self) -> Versions {
        match &self.wish {
            Wish::Nothing(_) => Versions::Only(Vec::new()),
            Wish::Directory => self.options.versions.clone(),
            Wish::Only(numbers) => Versions::Only(numbers.iter().copied().collect()),
        }
    }

    fn current_number(&self) -> Option<u64> {
        lifecycle::current(&self.want(), &self.standings)
    }

    /// What a version would be opened from, and how.
    fn subject(&self, number: u64) -> Tried {
        (self.found.prints.get(&number).copied(), self.options.clone())
    }

    /// Whether this is what was opened, or tried, last.
    fn is_tried(&self, number: u64) -> bool {
        let (print, options) = self.subject(number);
        self.tried.get(&number).is_some_and(|(tried, with)| {
            *tried == print && (Arc::ptr_eq(with, &options) || same_but_versions(with, &options))
        })
    }

    /// Takes the next steps, as of `now`, and returns the versions to open for them.
    pub fn advance(&mut self, now: Instant) -> Vec<Job> {
        let mut jobs = Vec::new();
        if self.staged.is_some() {
            return jobs;
        }
        if !self.wanted() || self.parked {
            for number in self.serving() {
                self.unload(number);
            }
            self.let_go(None);
        } else if self.active() {
            self.step(now, &mut jobs);
        }
        self.refresh();
        jobs
    }

    fn step(&mut self, now: Instant, jobs: &mut Vec<Job>) {
        let want = self.want();
        let failed = self.standings.iter().filter(|(_, s)| **s == Standing::Failed);
        let stale: Vec<u64> = failed.map(|(n, _)| *n).filter(|n| !self.is_tried(*n)).collect();
        for number in stale {
            self.standings.remove(&number);
        }
        loop {
            let actions = lifecycle::next(&want, &self.on_disk, &self.standings);
            let mut again = false;
            for action in actions {
                match action {
                    Action::Load(number) => match self.take_kept(number) {
                        Some(version) => {
                            self.opened(number, Ok(version));
                            again = true;
                        }
                        None => jobs.push(self.load(number)),
                    },
                    Action::Unload(number) if self.on_disk.is_empty() => self.unload(number),
                    Action::Unload(number) => self.replace(number, now),
                }
            }
            if !again {
                break;
            }
        }
        for number in lifecycle::wanted(&want, &self.on_disk, &self.standings) {
            let serves = self.standings.get(&number) == Some(&Standing::Ready);
            if serves && !self.opening.contains_key(&number) && !self.is_tried(number) {
                jobs.extend(self.reload(number));
            }
        }
    }

    fn load(&mut self, number: u64) -> Job {
        self.standings.insert(number, Standing::Loading);
        self.states.insert(number, State::Loading);
        self.tried.insert(number, self.subject(number));
        self.job(number)
    }

    /// Opens the changed files of a version that serves on meanwhile.
    fn reload(&mut self, number: u64) -> Option<Job> {
        let Some(State::Ready(version)) = self.states.get(&number) else { return None };
        let same = same_but_versions(&version.options, &self.options);
        let unless = same.then(|| version.sha256.clone());
        let predecessor = Some(version.clone());
        self.tried.insert(number, self.subject(number));
        Some(Job { unless, predecessor, ..self.job(number) })
    }

    fn job(&mut self, number: u64) -> Job {
        let ticket = Ticket::default();
        self.opening.insert(number, ticket.clone());
        Job {
            model: self.name.clone(),
            number,
            repository: self.repository.clone(),
            file: self.found.versions.get(&number).cloned().unwrap_or_default(),
            bytes: self.estimate(number),
            options: self.options.clone(),
            reopens: None,
            wide: false,
            unless: None,
            // An older version takes nobody over.
            predecessor: self.current().filter(|version| version.number <= number),
            ticket,
        }
    }

    /// Takes a version out for good, ready or still being opened.
    fn unload(&mut self, number: u64) {
        if let Some(version) = self.take_out(number) {
            self.states.insert(number, State::Draining);
            self.retire(version);
        }
    }

    /// Forgets a version, and gives it if it served.
    fn take_out(&mut self, number: u64) -> Option<Arc<Version>> {
        self.standings.remove(&number);
        self.opening.remove(&number);
        self.tried.remove(&number);
        self.refused.remove(&number);
        match self.states.remove(&number) {
            Some(State::Ready(version)) => Some(version),
            _ => None,
        }
    }

    /// A run of the version panicked at `now`: it is opened again, and fails for good when it happens too often.
    pub fn panicked(&mut self, number: u64, what: &str, now: Instant) -> Remedy {
        let Some(State::Ready(version)) = self.states.get(&number) else { return Remedy::Nothing };
        let (sha256, wide) = (version.sha256.clone(), version.served.widely());
        let lately = self.panics.entry(number).or_default();
        lately.retain(|at| now.saturating_duration_since(*at) < PANIC_WINDOW);
        lately.push(now);
        if lately.len() >= MOST_PANICS {
            let window = PANIC_WINDOW.as_secs();
            let reason = format!("{MOST_PANICS} panics within {window} s, the last: {what}");
            self.panics.remove(&number);
            self.opening.remove(&number);
            self.opened(number, Err(reason));
            return Remedy::Failed;
        }
        if self.opening.contains_key(&number) {
            return Remedy::Nothing;
        }
        Remedy::Reopen(Job { reopens: Some(sha256), wide, predecessor: None, ..self.job(number) })
    }

    /// Opened again with a session for every thread, where it serves and is not being opened.
    pub fn widened(&mut self, number: u64) -> Option<Job> {
        let Some(State::Ready(version)) = self.states.get(&number) else { return None };
        let reopens = Some(version.sha256.clone());
        let idle = !self.opening.contains_key(&number);
        idle.then(|| Job { reopens, wide: true, predecessor: None, ..self.job(number) })
    }

    /// What came of a job. What was not waited for changes nothing.
    pub fn finished(&mut self, job: &Job, result: Result<Outcome, String>) {
        if !self.waits_for(job) {
            if let Some(version) = result.ok().and_then(Outcome::version) {
                self.retire(version);
            }
            return;
        }
        let number = job.number;
        self.opening.remove(&number);
        let serves = self.standings.get(&number) == Some(&Standing::Ready);
        match result {
            // Where it was not opened again, what serves goes on.
            Err(_) if job.reopens.is_some() => {}
            Ok(Outcome::Opened(version)) if job.reopens.is_some() => self.take_over(version),
            Ok(Outcome::Same) => drop(self.refused.remove(&number)),
            Ok(Outcome::Opened(version)) => match &mut self.staged {
                Some(staged) => drop(staged.insert(number, version)),
                None => self.opened(number, Ok(version)),
            },
            Err(why) if serves => {
                self.refusals.push((number, why.clone()));
                self.refused.insert(number, why);
            }
            Err(why) => {
                self.refusals.push((number, why.clone()));
                self.opened(number, Err(why));
            }
        }
    }

    /// The same version opened again, in place of the one that serves.
    fn take_over(&mut self, version: Arc<Version>) {
        let number = version.number;
        if let Some(State::Ready(serving)) = self.states.get(&number).cloned() {
            self.states.insert(number, State::Ready(version));
            self.retire(serving);
        } else {
            self.retire(version);
        }
    }

    /// A version was opened, or was not.
    pub fn opened(&mut self, number: u64, result: Result<Arc<Version>, String>) {
        let (standing, state) = match result {
            Ok(version) => (Standing::Ready, State::Ready(version)),
            Err(reason) => (Standing::Failed, State::Failed(reason)),
        };
        if standing == Standing::Ready {
            self.served = true;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.ready_at = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        }
        self.refused.remove(&number);
        self.standings.insert(number, standing);
        if let Some(State::Ready(before)) = self.states.insert(number, state) {
            self.retire(before);
        }
    }

    /// As `opened`, where nothing serves (`onnxd check`).
    pub fn tried(&mut self, number: u64, result: Result<(), String>) {
        self.opening.remove(&number);
        match result {
            Ok(()) => drop(self.standings.insert(number, Standing::Ready)),
            Err(reason) => self.opened(number, Err(reason)),
        }
    }

    /// Whether this job's result would still change something.
    pub fn waits_for(&self, job: &Job) -> bool {
        self.opening.get(&job.number).is_some_and(|ticket| Arc::ptr_eq(ticket, &job.ticket))
    }

    /// Whether everything that can be tried has been.
    pub fn settled(&self) -> bool {
        let want = self.want();
        self.opening.is_empty()
            && (!self.active()
                || self.parked
                || lifecycle::settled(&want, &self.on_disk, &self.standings))
    }

    /// Whether the server's readiness no longer waits for this model.
    pub fn done(&self, readiness: Readiness) -> bool {
        let serves = self.current_number().is_some();
        !self.wanted()
            || self.parked
            || (self.settled() && (serves || readiness == Readiness::Lenient))
    }

    /// Whether it has served, is still wanted, and has no version left.
    pub fn lost(&self) -> bool {
        self.served
            && self.wanted()
            && !self.parked
            && self.settled()
            && self.current_number().is_none()
    }

    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The version that answers by default.
    fn current(&self) -> Option<Arc<Version>> {
        match self.states.get(&self.current_number()?) {
            Some(State::Ready(version)) => Some(version.clone()),
            _ => None,
        }
    }

    /// Its row in the table.
    pub fn row(&self) -> Arc<Model> {
        let current = self.current();
        let problem = self.problem.clone().or_else(|| self.routed.notice(current.as_deref()));
        let out = self.parked || (self.awaited && current.is_none());
        let (failed, notice) = match current {
            Some(_) => (None, problem),
            None => (self.problem.clone(), None),
        };
        let routes = self.routes(current.as_ref());
        Arc::new(Model {
            name: self.name.clone(),
            failed,
            notice,
            versions: self.states.clone(),
            refused: self.refused.clone(),
            parked: out && self.wanted() && self.problem.is_none(),
            by_call: self.by_call,
            current,
            routes,
        })
    }
}

/// Whether sessions opened with one are as those opened with the other.
fn same_but_versions(a: &Arc<ModelOptions>, b: &Arc<ModelOptions>) -> bool {
    if Arc::ptr_eq(a, b) || a == b {
        return true;
    }
    let b = ModelOptions { versions: a.versions.clone(), ..ModelOptions::clone(b) };
    **a == b
}

/// `versions` may name what is not there: that fails the model only where nothing named is.
fn missing(options: &ModelOptions, found: &FoundModel) -> Option<String> {
    let Versions::Only(listed) = &options.versions else { return None };
    if found.versions.is_empty() || listed.iter().any(|n| found.versions.contains_key(n)) {
        return None;
    }
    let there: Vec<String> = found.versions.keys().map(u64::to_string).collect();
    Some(format!(
        "none of its 'versions: {}' is on disk, which has {}",
        options.versions,
        there.join(", ")
    ))
}
