//! The snapshot that requests see: every model with its versions and their states, published in one atomic swap.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use serde_json::Value;

use super::{options::ModelOptions, routes::Routes};
use crate::{
    batcher::served::Served,
    cache::ask::Cached,
    predlog::capture::VersionLog,
    telemetry::stats::VersionStats,
    types::{
        error::{Code, Error},
        model::Signature,
        traffic::ROUTE,
    },
};

/// The one place where versions are published. Readers load, clone the version's `Arc` and let go before they wait.
pub type SharedTable = Arc<ArcSwap<Table>>;

/// All models, by name. Immutable; a change is a new table.
#[derive(Default)]
pub struct Table {
    pub models: HashMap<Arc<str>, Arc<Model>, foldhash::fast::RandomState>,
    /// Headers that decide where requests of some models go, or what is logged of them: often none.
    pub heads: Vec<Arc<str>>,
}

/// One model: its versions, and which of them answers a request that names none.
#[derive(Default)]
pub struct Model {
    pub name: Arc<str>,
    /// Why the model as a whole does not serve (a broken model.yaml), where that is so.
    pub failed: Option<String>,
    /// Why the last change of its directory was not taken over, where versions serve on.
    pub notice: Option<String>,
    pub versions: BTreeMap<u64, State>,
    /// Versions whose changed files were refused, with the reason: what was loaded before serves on.
    pub refused: BTreeMap<u64, String>,
    /// Not in memory, where there is a budget, or on its way there: whoever asks for it has it loaded, and waits.
    pub parked: bool,
    /// Calls decide which versions serve, not the directory.
    pub by_call: bool,
    /// Answers requests that name no version, but those that `routes` sends elsewhere.
    pub current: Option<Arc<Version>>,
    /// Where traffic rules say more than that everything goes to the current version.
    pub routes: Option<Arc<Routes>>,
}

/// Where one version stands.
#[derive(Clone)]
pub enum State {
    Loading,
    Warming,
    Ready(Arc<Version>),
    Draining,
    /// Its successor serves; it stays warm for a while, for the way back.
    Kept(Arc<Version>),
    Unloaded(String),
    /// With the reason, for index, readiness, metrics and log.
    Failed(String),
}

impl State {
    /// The repository index's word for it.
    pub fn index_name(&self) -> &'static str {
        match self {
            State::Loading | State::Warming => "LOADING",
            State::Ready(_) => "READY",
            State::Draining | State::Kept(_) | State::Unloaded(_) | State::Failed(_) => {
                "UNAVAILABLE"
            }
        }
    }

    /// The value of the metrics' `state` label.
    pub fn label(&self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Warming => "warming",
            State::Ready(_) => "ready",
            State::Draining => "draining",
            State::Kept(_) => "kept",
            State::Unloaded(_) => "unloaded",
            State::Failed(_) => "failed",
        }
    }

    /// Why it does not serve; empty where it does.
    pub fn reason(&self) -> &str {
        match self {
            State::Unloaded(why) | State::Failed(why) => why,
            State::Draining => "draining",
            State::Kept(_) => "not loaded for requests: kept warm for a rollback",
            _ => "",
        }
    }
}

/// A version that serves.
pub struct Version {
    pub model: Arc<str>,
    pub number: u64,
    /// The number as text.
    pub label: Arc<str>,
    pub signature: Arc<Signature>,
    pub served: Arc<Served>,
    pub stats: Arc<VersionStats>,
    /// Answers that are kept, where they are.
    pub cache: Option<Cached>,
    /// Where its predictions are logged, where they are.
    pub log: Option<Arc<VersionLog>>,
    /// The protocol's platform, as in `onnxruntime_onnx` or `tract_onnx`.
    pub platform: &'static str,
    /// `ort` or `tract`.
    pub backend: &'static str,
    /// Execution providers in effect.
    pub providers: Vec<String>,
    /// Deadline for requests that bring none; `None`: none.
    pub default_timeout: Option<std::time::Duration>,
    /// What its model.yaml and the defaults say.
    pub options: Arc<ModelOptions>,
    /// Bytes that the weights take in all its sessions, as far as the files tell.
    pub weight_bytes: u64,
    /// SHA-256 of all its files, in hex.
    pub sha256: String,
    /// What `onnxd explain` prints: the probe's table, each decision and why.
    pub explanation: Value,
}

impl Table {
    /// The version that a request for `model` and `version` (empty: the current one) gets.
    pub fn resolve(&self, model: &str, version: &str) -> Result<Arc<Version>, Error> {
        self.model(model)?.resolve(version)
    }

    /// The headers that the models' traffic rules and their logs look at.
    pub fn heads_of<'a>(models: impl Iterator<Item = &'a Arc<Model>>) -> Vec<Arc<str>> {
        let mut heads: Vec<Arc<str>> = Vec::new();
        let mut add = |head: &str| {
            if !heads.iter().any(|known| **known == *head) {
                heads.push(head.into());
            }
        };
        for model in models {
            if let Some(routes) = &model.routes {
                let sticky = routes.traffic.sticky.as_ref();
                sticky.and_then(|sticky| sticky.header.as_deref()).into_iter().for_each(&mut add);
                routes.traffic.force.then_some(ROUTE).into_iter().for_each(&mut add);
            }
            let logs = model.versions.values().filter_map(|state| match state {
                State::Ready(version) => version.log.as_ref(),
                _ => None,
            });
            for log in logs {
                log.heads().for_each(&mut add);
            }
        }
        heads
    }

    pub fn model(&self, name: &str) -> Result<&Arc<Model>, Error> {
        self.models.get(name).ok_or_else(|| {
            Error::new(Code::NotFound, format!("there is no model '{}'", printable(name)))
        })
    }
}

impl Model {
    /// The version that a request for `version` (empty: the current one) gets, whatever the traffic rules.
    pub fn resolve(&self, version: &str) -> Result<Arc<Version>, Error> {
        if version.is_empty() {
            return self.current.clone().ok_or_else(|| self.unavailable());
        }
        match self.state(version)? {
            State::Ready(version) => Ok(version.clone()),
            state => Err(Error::new(
                Code::Unavailable,
                format!(
                    "version {version} of model '{}' does not serve: {}",
                    self.name,
                    if state.reason().is_empty() { "loading" } else { state.reason() }
                ),
            )),
        }
    }

    /// The share of the requests that name no version which a version gets, from 0 to 1.
    pub fn share_of(&self, number: u64) -> f64 {
        match (&self.routes, &self.current) {
            (Some(routes), _) => routes.share_of(number),
            (None, Some(current)) if current.number == number => 1.0,
            (None, _) => 0.0,
        }
    }

    /// What there is to say about a version: why it does not serve, or why it serves on in place of changed files.
    pub fn reason<'a>(&'a self, number: u64, state: &'a State) -> &'a str {
        let changed = || self.refused.get(&number).or(self.notice.as_ref());
        match state {
            State::Ready(_) => changed().map_or("", String::as_str),
            state => state.reason(),
        }
    }

    /// The state of a version named in a request; NotFound for what is no version of this model.
    pub fn state(&self, version: &str) -> Result<&State, Error> {
        let digits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
        let number: Option<u64> = if digits { version.parse().ok() } else { None };
        number.and_then(|n| self.versions.get(&n)).ok_or_else(|| {
            let known: Vec<String> = self.versions.keys().map(u64::to_string).collect();
            Error::new(
                Code::NotFound,
                format!(
                    "model '{}' has no version '{}' (it has {})",
                    self.name,
                    printable(version),
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                ),
            )
        })
    }

    fn unavailable(&self) -> Error {
        let reason = self.failed.clone().or_else(|| {
            let (number, state) = self.versions.iter().next_back()?;
            let why = if state.reason().is_empty() { "loading" } else { state.reason() };
            Some(format!("version {number}: {why}"))
        });
        let reason = reason.unwrap_or_else(|| "it has no version".into());
        Error::new(Code::Unavailable, format!("model '{}' does not serve: {reason}", self.name))
    }
}

/// A name from a client for an error message: control characters escaped, length capped.
fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(128).flat_map(char::escape_debug).collect();
    if name.chars().nth(128).is_some() {
        text.push('…');
    }
    text
}
