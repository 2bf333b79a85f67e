//! One model as the manager keeps it: what is on disk, what is wanted, how each version stands, and its row in the
//! table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    lifecycle::{self, Action, Standing, Standings},
    options::{Defaults, Load, ModelOptions, Options, Readiness},
    store::{FoundModel, Repository},
    table::{Model, State, Version},
};

/// So many panics of a version within `PANIC_WINDOW` fail it.
pub const MOST_PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// A model in the manager's book.
pub struct Entry {
    pub name: Arc<str>,
    pub options: Arc<ModelOptions>,
    /// Whether this server was told to load it.
    pub wanted: bool,
    /// Why none of it can serve, where that is so.
    problem: Option<String>,
    /// The file of each version on disk, relative to the repository.
    files: BTreeMap<u64, String>,
    on_disk: BTreeSet<u64>,
    standings: Standings,
    states: BTreeMap<u64, State>,
    /// When a run of each version panicked lately, and whether it is being opened again.
    panics: BTreeMap<u64, Vec<Instant>>,
    reopening: BTreeSet<u64>,
    /// A version has served.
    served: bool,
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

/// A version to open.
#[derive(Clone, Debug)]
pub struct Job {
    pub model: Arc<str>,
    pub number: u64,
    /// Relative to the repository.
    pub file: String,
    pub options: Arc<ModelOptions>,
    /// The version serves, and is opened again after a panic: the digest that its files must still have.
    pub reopens: Option<String>,
}

/// Every model of the repository, those that shall not be loaded too. The error is one of the whole start: a name in
/// `load` that is not there.
pub fn entries(
    repository: &Repository,
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
        let wanted = options.load.wants(name);
        (name.clone(), Entry::new(name, found, repository, wanted, &options.defaults))
    };
    Ok(repository.models.iter().map(entry).collect())
}

impl Entry {
    fn new(
        name: &str,
        found: &FoundModel,
        repository: &Repository,
        wanted: bool,
        defaults: &Defaults,
    ) -> Entry {
        let read = |file: &String| {
            let text = repository.read_options(file)?;
            ModelOptions::read(&text, file, defaults)
        };
        let (options, problem) = match found.options.as_ref().map(read) {
            None => (ModelOptions::from(defaults), None),
            Some(Ok(options)) => (options, None),
            Some(Err(problem)) => (ModelOptions::from(defaults), Some(problem)),
        };
        let problem = found.problem.clone().or(problem).or_else(|| missing(&options, found));
        let mut entry = Entry {
            name: name.into(),
            options: Arc::new(options),
            wanted,
            problem,
            files: found.versions.clone(),
            on_disk: found.numbers(),
            standings: Standings::new(),
            states: BTreeMap::new(),
            panics: BTreeMap::new(),
            reopening: BTreeSet::new(),
            served: false,
        };
        let idle = entry.idle_state();
        entry.states = entry.on_disk.iter().map(|n| (*n, idle.clone())).collect();
        entry
    }

    /// What a version is that nothing is done about.
    fn idle_state(&self) -> State {
        match &self.problem {
            Some(problem) => State::Failed(problem.clone()),
            None if !self.wanted => State::Unloaded("not loaded: not among those to load".into()),
            None => State::Unloaded(format!("not loaded: 'versions: {}'", self.options.versions)),
        }
    }

    fn active(&self) -> bool {
        self.wanted && self.problem.is_none()
    }

    /// Takes the next steps, and returns the versions to open for them.
    pub fn advance(&mut self) -> Vec<Job> {
        if !self.active() {
            return Vec::new();
        }
        let mut jobs = Vec::new();
        for action in lifecycle::next(&self.options.versions, &self.on_disk, &self.standings) {
            match action {
                Action::Load(number) => {
                    self.standings.insert(number, Standing::Loading);
                    self.states.insert(number, State::Loading);
                    jobs.push(self.job(number, None));
                }
                Action::Unload(number) => {
                    self.standings.remove(&number);
                    self.states.insert(number, self.idle_state());
                }
            }
        }
        jobs
    }

    fn job(&self, number: u64, reopens: Option<String>) -> Job {
        Job {
            model: self.name.clone(),
            number,
            file: self.files.get(&number).cloned().unwrap_or_default(),
            options: self.options.clone(),
            reopens,
        }
    }

    /// A run of the version panicked at `now`: it is opened again, and fails for good when it happens too often.
    pub fn panicked(&mut self, number: u64, what: &str, now: Instant) -> Remedy {
        let Some(State::Ready(version)) = self.states.get(&number) else { return Remedy::Nothing };
        let sha256 = version.sha256.clone();
        let lately = self.panics.entry(number).or_default();
        lately.retain(|at| now.saturating_duration_since(*at) < PANIC_WINDOW);
        lately.push(now);
        if lately.len() >= MOST_PANICS {
            let window = PANIC_WINDOW.as_secs();
            let reason = format!("{MOST_PANICS} panics within {window} s, the last: {what}");
            self.panics.remove(&number);
            self.reopening.remove(&number);
            self.opened(number, Err(reason));
            return Remedy::Failed;
        }
        match self.reopening.insert(number) {
            true => Remedy::Reopen(self.job(number, Some(sha256))),
            false => Remedy::Nothing,
        }
    }

    /// A version that serves was opened again after a panic. Where it was not, what serves goes on; where it has
    /// failed meanwhile, it stays so.
    pub fn reopened(&mut self, number: u64, result: Result<Arc<Version>, String>) {
        if self.reopening.remove(&number)
            && let (Ok(version), Some(State::Ready(_))) = (result, self.states.get(&number))
        {
            self.states.insert(number, State::Ready(version));
        }
    }

    /// A version was opened, or was not.
    pub fn opened(&mut self, number: u64, result: Result<Arc<Version>, String>) {
        let (standing, state) = match result {
            Ok(version) => (Standing::Ready, State::Ready(version)),
            Err(reason) => (Standing::Failed, State::Failed(reason)),
        };
        self.served |= standing == Standing::Ready;
        self.standings.insert(number, standing);
        self.states.insert(number, state);
    }

    /// As `opened`, where nothing serves (`onnxd check`).
    pub fn tried(&mut self, number: u64, result: Result<(), String>) {
        match result {
            Ok(()) => drop(self.standings.insert(number, Standing::Ready)),
            Err(reason) => self.opened(number, Err(reason)),
        }
    }

    /// Whether everything that can be tried has been.
    pub fn settled(&self) -> bool {
        !self.active() || lifecycle::settled(&self.options.versions, &self.on_disk, &self.standings)
    }

    /// Whether the server's readiness no longer waits for this model.
    pub fn done(&self, readiness: Readiness) -> bool {
        let serves = lifecycle::current(&self.standings).is_some();
        !self.wanted || (self.settled() && (serves || readiness == Readiness::Lenient))
    }

    /// Whether it has served, is still wanted, and has no version left.
    pub fn lost(&self) -> bool {
        self.served
            && self.wanted
            && self.settled()
            && lifecycle::current(&self.standings).is_none()
    }

    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Its row in the table.
    pub fn row(&self) -> Arc<Model> {
        let current = lifecycle::current(&self.standings).and_then(|n| match self.states.get(&n) {
            Some(State::Ready(version)) => Some(version.clone()),
            _ => None,
        });
        Arc::new(Model {
            name: self.name.clone(),
            failed: self.problem.clone(),
            versions: self.states.clone(),
            current,
        })
    }
}

/// `versions` may name what is not there: that fails the model only where nothing named is.
fn missing(options: &ModelOptions, found: &FoundModel) -> Option<String> {
    let super::options::Versions::Only(listed) = &options.versions else { return None };
    if listed.iter().any(|n| found.versions.contains_key(n)) {
        return None;
    }
    let there: Vec<String> = found.versions.keys().map(u64::to_string).collect();
    Some(format!(
        "none of its 'versions: {}' is on disk, which has {}",
        options.versions,
        there.join(", ")
    ))
}
