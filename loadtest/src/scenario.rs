//! The scenario file: what load to put on which server, and what is asked of it. Read, laid under the flags, checked, and turned into phases.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    events::{self, Event, Planned},
    pattern::Pattern,
    plan::{Phase, Protocol, Until},
    prepare::entry::Entry,
    slo::Slo,
    units::Span,
    yaml,
};

/// The format that is known here; a file without `format` has it.
const FORMAT: u32 = 1;

/// A scenario, as a file says it. Every key may be absent; flags are laid over it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    pub format: Option<u32>,
    /// What reports call the run.
    pub name: Option<String>,
    pub target: Target,
    /// Decides arrivals, generated values and the mix: the same seed, the same load.
    pub seed: Option<u64>,
    /// Threads of the generator.
    pub threads: Option<usize>,
    /// What is asked for. One entry, or several with weights.
    pub mix: Vec<Entry>,
    pub phases: Vec<PhaseSpec>,
    /// Objectives of every phase that is no warm-up; a phase's own come before these.
    pub slo: Slo,
    /// Commands that are called while the load goes on.
    pub events: Vec<Event>,
}

/// The server, and how it is reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// `grpc://HOST:PORT`, `http://HOST:PORT`, with an `s` for TLS, or `unix:PATH`.
    pub url: Option<String>,
    pub protocol: Option<Protocol>,
    /// The server's metrics page, `http://HOST:PORT/metrics`, or `off`. By default the usual port is tried.
    pub metrics: Option<String>,
    /// Process ids of the server, where it runs on this machine.
    pub pids: Vec<u32>,
    pub tls: Tls,
    /// Connections to it.
    pub connections: Option<usize>,
    /// Requests under way on one connection, over gRPC.
    pub streams: Option<usize>,
    /// After this a request counts as failed.
    pub timeout: Option<Span>,
    /// Headers (gRPC metadata) of every request, such as a key.
    pub headers: std::collections::BTreeMap<String, String>,
}

/// TLS to the server; PEM files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Authorities that are trusted in place of the system's.
    pub authority: Option<PathBuf>,
    /// Our own certificate, with its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The server's certificate is not checked.
    pub insecure: bool,
}

/// A phase, as a file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseSpec {
    /// Default: `phase 1`, and so on.
    pub name: Option<String>,
    pub arrivals: Pattern,
    pub duration: Option<Span>,
    pub requests: Option<u64>,
    /// Its answers count for nothing.
    #[serde(default)]
    pub warm_up: bool,
    #[serde(default)]
    pub slo: Slo,
}

/// What a scenario comes to: checked, with everything that was left open decided, but for what only the server can tell.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub phases: Vec<Phase>,
    /// By phase.
    pub slos: Vec<Slo>,
    pub events: Vec<Planned>,
}

impl Scenario {
    /// Reads a file; paths in it count from its directory. The error names the file, and the line where one is to blame.
    pub fn read(path: &Path) -> Result<Scenario, String> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|e| format!("{name}: cannot be read: {e}"))?;
        let mut scenario = Scenario::parse(&name, &text)?;
        let base = path.parent().unwrap_or(Path::new(""));
        scenario.files().for_each(|file| *file = base.join(&*file));
        Ok(scenario)
    }

    /// As `read`, from the text of a file of this name.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = yaml::parse(name, text)?;
        match scenario.format {
            None | Some(FORMAT) => Ok(scenario),
            Some(other) => {
                Err(format!("{name}: format {other} is not known here, expected {FORMAT}"))
            }
        }
    }

    /// Every file that it names.
    fn files<'a>(&'a mut self) -> impl Iterator<Item = &'a mut PathBuf> {
        let Tls { authority, certificate, key, insecure: _ } = &mut self.target.tls;
        let tls = [authority, certificate, key].into_iter().flatten();
        let entry = |entry: &'a mut Entry| {
            let logs = entry.log.iter_mut().flat_map(|log| &mut log.paths);
            [&mut entry.input, &mut entry.golden].into_iter().flatten().chain(logs)
        };
        let mix = self.mix.iter_mut().flat_map(entry);
        let traces = self.phases.iter_mut().filter_map(|phase| match &mut phase.arrivals {
            Pattern::Trace(path) => Some(path),
            _ => None,
        });
        tls.chain(mix).chain(traces)
    }

    /// Checks it and decides what was left open. Reads the traces that it names.
    pub fn resolve(&self) -> Result<Resolved, String> {
        if self.phases.is_empty() {
            return Err("phases: expected at least one".into());
        }
        self.slo.check().map_err(|e| format!("slo: {e}"))?;
        let mut phases = Vec::with_capacity(self.phases.len());
        let mut slos = Vec::with_capacity(self.phases.len());
        let mut names = BTreeSet::new();
        for (at, spec) in self.phases.iter().enumerate() {
            let phase = spec.resolve(at)?;
            if !names.insert(phase.name.clone()) {
                return Err(format!(
                    "phase '{}' is there twice; expected names of their own",
                    phase.name
                ));
            }
            let slo = spec.slo.over(&self.slo);
            slo.check().map_err(|e| format!("phase '{}': slo: {e}", phase.name))?;
            if phase.warm_up && !spec.slo.is_empty() {
                return Err(format!("phase '{}': a warm-up has no objectives", phase.name));
            }
            slos.push(if phase.warm_up { Slo::default() } else { slo });
            phases.push(phase);
        }
        if phases.iter().all(|phase| phase.warm_up) {
            return Err("phases: expected at least one that is no warm-up".into());
        }
        let events = events::plan(&self.events, &phases)?;
        self.check_mix()?;
        Ok(Resolved { phases, slos, events })
    }

    fn check_mix(&self) -> Result<(), String> {
        if self.mix.is_empty() {
            return Err("no model to ask; expected --model NAME, or `mix` in the scenario".into());
        }
        for entry in &self.mix {
            let wrong = |what: String| Err(format!("mix: {}: {what}", entry.model));
            if entry.model.is_empty() {
                return Err("mix: model: expected a name, got nothing".into());
            }
            if !(entry.weight.is_finite() && entry.weight >= 0.0) {
                return wrong(format!("weight: expected 0 or more, got {}", entry.weight));
            }
            if let Some(log) = &entry.log {
                if entry.input.is_some() || entry.golden.is_some() {
                    return wrong(
                        "log: the requests are the log's; expected neither input nor golden".into(),
                    );
                }
                if log.paths.is_empty() {
                    return wrong("log: paths: expected the log's folder, or files of it".into());
                }
            }
            if entry.rows == 0 || entry.distinct == 0 {
                return wrong("rows and distinct: expected at least 1, got 0".into());
            }
        }
        let recorded =
            self.phases.iter().any(|phase| matches!(phase.arrivals, Pattern::Recorded(_)));
        if let Some(entry) = self.mix.iter().find(|entry| recorded && entry.log.is_none()) {
            return Err(format!(
                "mix: {}: arrivals are those of a log; expected `log` here as well",
                entry.model
            ));
        }
        if self.mix.iter().all(|entry| entry.weight == 0.0) {
            return Err("mix: every weight is 0; expected one above".into());
        }
        Ok(())
    }
}

impl PhaseSpec {
    fn resolve(&self, at: usize) -> Result<Phase, String> {
        let name = self.name.clone().unwrap_or_else(|| format!("phase {}", at + 1));
        let fail = |why: String| format!("phase '{name}': {why}");
        let arrivals = self.arrivals.resolve().map_err(fail)?;
        let duration =
            self.duration.map(|Span(duration)| duration).or_else(|| self.arrivals.own_duration());
        let until = Until { duration, requests: self.requests };
        if duration == Some(Duration::ZERO) || self.requests == Some(0) {
            return Err(fail("it has no time or no requests; expected more than 0".into()));
        }
        if duration.is_none() && self.requests.is_none() && !self.arrivals.ends() {
            return Err(fail("expected duration or requests, to say when it is over".into()));
        }
        Ok(Phase { name, arrivals, until, warm_up: self.warm_up })
    }
}

/// Limits that keep slips of the finger from becoming plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    pub connections: usize,
    pub streams: usize,
    pub threads: usize,
}

impl Sizes {
    /// Checked: at least one of each, a thread for at least one connection, and no more than any machine has.
    pub fn check(self) -> Result<Sizes, String> {
        for (name, value, most) in [
            ("connections", self.connections, 100_000),
            ("streams", self.streams, 100_000),
            ("threads", self.threads, 1024),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name}: expected 1 to {most}, got {value}"));
            }
        }
        if self.threads > self.connections {
            return Err(format!(
                "threads: expected at most one for each of the {} connections, got {}",
                self.connections, self.threads
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
