//! What a mirror lacks of an object store, and what it has too much: a listing and the mirror's state in, work out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    manifest,
    remote_list::{Listed, ListedModel, Object},
    traffic,
};

/// What a mirror holds.
pub type Mirrored = BTreeMap<String, MirroredModel>;

/// A model in the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirroredModel {
    pub versions: BTreeMap<u64, Mark>,
    /// The tag of each file beside the versions, by its path inside the model's folder.
    pub files: BTreeMap<String, String>,
}

/// What a version in the mirror was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Of the objects: another print is another content.
    pub print: String,
    pub bytes: u64,
}

/// Files to be read for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// The model is new to the mirror: all of it, shown at once.
    Model { model: String, files: BTreeMap<String, Object>, versions: Vec<Version> },
    /// A version of a model that the mirror has.
    Version { model: String, version: Version },
    /// A file beside its versions.
    File { model: String, path: String, object: Object },
}

impl Job {
    pub fn model(&self) -> &str {
        let (Job::Model { model, .. } | Job::Version { model, .. } | Job::File { model, .. }) =
            self;
        model
    }
}

/// A version to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: u64,
    pub print: String,
    /// By path inside the version's folder.
    pub objects: BTreeMap<String, Object>,
    /// The mirror has another content under this number.
    pub replaces: bool,
}

/// Something that the store does not have any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Surplus {
    Model(String),
    Version(String, u64),
    File(String, String),
}

impl Surplus {
    pub fn model(&self) -> &str {
        let (Surplus::Model(model) | Surplus::Version(model, _) | Surplus::File(model, _)) = self;
        model
    }
}

/// What is to be done, and what is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub jobs: Vec<Job>,
    /// To be taken away once the model's jobs are done.
    pub surplus: Vec<Surplus>,
    /// Versions that are not read, with the reason.
    pub refused: Vec<(String, u64, String)>,
}

impl Plan {
    /// Leaves only what concerns traffic rules of models that the mirror has.
    pub fn keep_rules(&mut self) {
        let is_rules = |path: &str| path == traffic::FILE;
        self.jobs.retain(|job| matches!(job, Job::File { path, .. } if is_rules(path)));
        self.surplus.retain(|gone| matches!(gone, Surplus::File(_, path) if is_rules(path)));
    }
}

/// What is known from the listings before.
pub struct Planner {
    /// A version without a manifest must look the same for so long.
    settle: Duration,
    most_bytes: u64,
    /// Versions of a model; 0: all.
    newest: usize,
    /// Versions that differ from the mirror's, how they looked, and since when.
    seen: BTreeMap<(String, u64), (String, Duration)>,
    /// Contents that were read and are wrong: not read again until they change.
    wrong: BTreeMap<(String, u64), (String, String)>,
    /// What there is at the start is complete, as on a local path.
    first: bool,
}

impl Planner {
    pub fn new(settle: Duration, most_bytes: u64, newest: usize) -> Planner {
        let (seen, wrong) = (BTreeMap::new(), BTreeMap::new());
        Planner { settle, most_bytes, newest, seen, wrong, first: true }
    }

    /// The version's content is another than it should be, and shall stay out of the mirror.
    pub fn wrong(&mut self, model: &str, number: u64, print: &str, why: &str) {
        self.wrong.insert((model.to_owned(), number), (print.to_owned(), why.to_owned()));
    }

    /// When the first of what is changing will be complete, if it changes no more.
    pub fn next(&self) -> Option<Duration> {
        self.seen.values().map(|(_, since)| *since + self.settle).min()
    }

    /// Compares, as of `now` (since any fixed moment). `hurry`: somebody asked, and says that all of it is complete.
    pub fn plan(&mut self, listed: &Listed, mirror: &Mirrored, now: Duration, hurry: bool) -> Plan {
        let hurry = hurry || std::mem::take(&mut self.first);
        let mut plan = Plan::default();
        let wanted = self.wanted(listed, mirror, &mut plan);
        let is_wanted = |key: &(String, u64)| wanted.contains(key);
        self.seen.retain(|key, _| is_wanted(key));
        self.wrong.retain(|key, _| is_wanted(key));
        for (name, model) in &listed.models {
            let due = |number: &u64| wanted.contains(&(name.clone(), *number));
            let known = mirror.get(name);
            let versions = model.versions.iter().filter(|(number, _)| due(number));
            let versions: Vec<Version> = versions
                .filter_map(|(number, objects)| {
                    let has = known.and_then(|known| known.versions.get(number));
                    self.version((name, *number), objects, has, (now, hurry), &mut plan)
                })
                .collect();
            self.jobs(name, model, known, versions, &mut plan);
        }
        for (name, known) in mirror {
            surplus(name, listed.models.get(name), known, &wanted, &mut plan.surplus);
        }
        plan
    }

    /// The versions that the mirror shall have, by number and size.
    fn wanted(
        &self,
        listed: &Listed,
        mirror: &Mirrored,
        plan: &mut Plan,
    ) -> BTreeSet<(String, u64)> {
        let most = if self.newest == 0 { usize::MAX } else { self.newest };
        let ranked = listed.models.iter().flat_map(|(name, model)| {
            model.versions.iter().rev().take(most).enumerate().map(move |(rank, (number, o))| {
                let has = mirror.get(name).and_then(|known| known.versions.get(number));
                let same = has.is_some_and(|mark| mark.print == print(o));
                // The newest ones of each model come first.
                (rank, name, *number, bytes(o), has.map(|mark| mark.bytes), same)
            })
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort();
        // What is there already keeps its room.
        let mut total = ranked.iter().filter_map(|(.., has, _)| *has).fold(0, u64::saturating_add);
        let mut wanted = BTreeSet::new();
        for (_, name, number, bytes, has, same) in ranked {
            let with = total.saturating_sub(has.unwrap_or(0)).saturating_add(bytes);
            let fits = same || with <= self.most_bytes;
            if !fits {
                let most = self.most_bytes;
                let why = format!(
                    "its {bytes} bytes would make {with} of the mirror, at most {most} are allowed (store.max_bytes)"
                );
                plan.refused.push((name.clone(), number, why));
            } else if !same {
                total = with;
            }
            if fits || has.is_some() {
                wanted.insert((name.clone(), number));
            }
        }
        wanted
    }

    fn version(
        &mut self,
        (model, number): (&str, u64),
        objects: &BTreeMap<String, Object>,
        has: Option<&Mark>,
        (now, hurry): (Duration, bool),
        plan: &mut Plan,
    ) -> Option<Version> {
        let (print, key) = (print(objects), (model.to_owned(), number));
        if has.is_some_and(|mark| mark.print == print) {
            self.seen.remove(&key);
            return None;
        }
        if plan.refused.iter().any(|(name, n, _)| (&**name, *n) == (model, number)) {
            return None;
        }
        if let Some((_, why)) = self.wrong.get(&key).filter(|(wrong, _)| *wrong == print) {
            plan.refused.push((model.to_owned(), number, why.clone()));
            return None;
        }
        let since = match self.seen.get(&key) {
            Some((before, since)) if *before == print => *since,
            _ => now,
        };
        let complete = hurry || objects.contains_key(manifest::FILE);
        if !complete && now.saturating_sub(since) < self.settle {
            self.seen.insert(key, (print, since));
            return None;
        }
        self.seen.remove(&key);
        Some(Version { number, print, objects: objects.clone(), replaces: has.is_some() })
    }

    fn jobs(
        &self,
        name: &str,
        model: &ListedModel,
        known: Option<&MirroredModel>,
        versions: Vec<Version>,
        plan: &mut Plan,
    ) {
        let Some(known) = known else {
            // A model without a version is no use to anybody, and may be on its way.
            if !versions.is_empty() {
                let (model, files) = (name.to_owned(), model.files.clone());
                plan.jobs.push(Job::Model { model, files, versions });
            }
            return;
        };
        // One without a version goes.
        for (path, object) in model.files.iter().filter(|_| !model.versions.is_empty()) {
            if known.files.get(path) != Some(&object.tag) {
                let (model, path, object) = (name.to_owned(), path.clone(), object.clone());
                plan.jobs.push(Job::File { model, path, object });
            }
        }
        let jobs =
            versions.into_iter().map(|version| Job::Version { model: name.to_owned(), version });
        plan.jobs.extend(jobs);
    }
}

fn surplus(
    name: &str,
    model: Option<&ListedModel>,
    known: &MirroredModel,
    wanted: &BTreeSet<(String, u64)>,
    all: &mut Vec<Surplus>,
) {
    // One without a version would stand there as broken.
    let Some(model) = model.filter(|model| !model.versions.is_empty()) else {
        return all.push(Surplus::Model(name.to_owned()));
    };
    let gone = known.versions.keys().filter(|n| !wanted.contains(&(name.to_owned(), **n)));
    all.extend(gone.map(|number| Surplus::Version(name.to_owned(), *number)));
    let gone = known.files.keys().filter(|path| !model.files.contains_key(*path));
    all.extend(gone.map(|path| Surplus::File(name.to_owned(), path.clone())));
}

/// Of a version's objects.
pub fn print(objects: &BTreeMap<String, Object>) -> String {
    let mut hasher = Sha256::new();
    for (path, object) in objects {
        hasher.update(format!("{path}\0{:?}\0{}\0", object.bytes, object.tag));
    }
    hex::encode(hasher.finalize())
}

/// Bytes of a version's objects, as far as the store says.
pub fn bytes(objects: &BTreeMap<String, Object>) -> u64 {
    objects.values().filter_map(|object| object.bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
#[path = "remote_plan_tests.rs"]
mod tests;
