//! Calls on their way: each waits for its models' turn, has their directories looked at, and is answered once what it asks
//! for is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use tokio::sync::oneshot;

use super::Keeper;
use crate::{
    repository::{
        calls::{Call, CallId, Command, Lines, Target, too_many},
        entry::Entry,
        eyes::{Look, Sight},
        options::{Load, Options},
        store::{Repository, check_name},
        traffic::Said,
    },
    types::{
        error::{Code, Error},
        traffic::Traffic,
    },
};

type Reply = oneshot::Sender<Result<(), Error>>;

/// The calls that wait or are under way.
#[derive(Default)]
pub struct Calls {
    lines: Lines,
    open: BTreeMap<CallId, Call>,
    /// By model, those whose versions are being opened.
    opening: BTreeMap<String, CallId>,
    /// What is said once it is true for everybody.
    answers: Vec<(Reply, Result<(), Error>)>,
}

impl Calls {
    /// Whether a call for this model waits or is under way.
    pub fn has(&self, model: &str) -> bool {
        self.lines.has(model)
    }

    /// Whether somebody is to be told something.
    pub fn answer_waits(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Tells everybody what has become true.
    pub fn answer(&mut self) {
        for (reply, result) in mem::take(&mut self.answers) {
            // Nobody waits any more: so be it.
            let _ = reply.send(result);
        }
    }
}

impl Keeper {
    /// Puts a call in line.
    pub(super) fn receive(&mut self, call: Call) {
        let call = match call.command {
            Command::Demand { model, done } => return self.demand(model, done),
            command => Call { command, ..call },
        };
        if let Err(error) = sound(&call.command) {
            let _ = call.reply.send(Err(error));
            return;
        }
        let Some(id) = self.calls.lines.enter(call.command.models()) else {
            let _ = call.reply.send(Err(too_many()));
            return;
        };
        self.calls.open.insert(id, call);
        if self.calls.lines.may_begin(id) {
            self.start(id);
        }
    }

    fn start(&mut self, id: CallId) {
        let Some(call) = self.calls.open.get(&id) else { return };
        let models = match &call.command {
            Command::Demand { .. } => return,
            Command::Load(_) | Command::Traffic { .. } => Some(call.command.models()),
            Command::Rescan(_) => None,
            Command::Unload(targets) => {
                let targets = targets.clone();
                let result = self.unload(&targets);
                return self.end(id, result);
            }
        };
        // There is room for as many as there can be calls.
        if self.outside.looks.try_send(Look { call: id, models }).is_err() {
            self.end(id, Err(Error::internal("nobody looks at the repository any more")));
        }
    }

    fn unload(&mut self, targets: &[Target]) -> Result<(), Error> {
        for Target { model, version } in targets {
            let row = self.rows.get(&**model).ok_or_else(|| unknown(model))?;
            version.map_or(Ok(()), |number| row.state(&number.to_string()).map(drop))?;
        }
        for Target { model, version } in targets {
            tracing::info!(model, version, "unloaded by a call");
            if let Some(entry) = self.entries.get_mut(model) {
                entry.call_unload(*version);
            }
            self.changed(model);
        }
        Ok(())
    }

    /// The eyes have looked.
    pub(super) fn seen(&mut self, mut sight: Sight) {
        let traffic = mem::take(&mut sight.traffic);
        // Before, since calls go by it; and after, for models that are new.
        self.route(&traffic);
        self.look_at(sight);
        self.route(&traffic);
    }

    /// Takes over what traffic.yaml says.
    pub(super) fn route(&mut self, traffic: &[(String, Said)]) {
        for (model, said) in traffic {
            let Some(entry) = self.entries.get_mut(model) else { continue };
            if !entry.see_traffic(said) {
                continue;
            }
            match said {
                Ok(Some(traffic)) => {
                    tracing::info!(model, generation = traffic.generation, "traffic rules");
                }
                Ok(None) => tracing::info!(model, "no traffic rules"),
                Err(broken) => {
                    tracing::error!(
                        model,
                        reason = broken.why,
                        "traffic.yaml cannot be read: what it said before goes on"
                    );
                }
            }
            self.changed(model);
        }
    }

    fn look_at(&mut self, sight: Sight) {
        let Some(id) = sight.call else {
            match sight.found {
                Ok(seen) if sight.whole => self.observe(&seen, &[]),
                Ok(_) => {}
                Err(error) => tracing::warn!(error, "the repository cannot be looked at"),
            }
            return;
        };
        let Some(call) = self.calls.open.get(&id) else { return };
        let command = call.command.clone();
        match (sight.found, command) {
            // For a person: where the place is on this machine stands in the log.
            (Err(error), _) => {
                tracing::error!(error, "the repository cannot be looked at");
                self.end(id, Err(Error::invalid("the model repository cannot be read")));
            }
            (Ok(seen), Command::Load(targets)) => self.load(id, &targets, &seen),
            (Ok(seen), Command::Rescan(models)) => {
                let result = self.follow(&models, &seen);
                self.end(id, result);
            }
            (Ok(seen), Command::Traffic { model, asked }) => {
                self.traffic(id, &model, asked.as_ref(), &seen);
            }
            (Ok(_), Command::Unload(_) | Command::Demand { .. }) => {}
        }
    }

    /// Gives models back to their directories, and takes over what those hold.
    fn follow(&mut self, models: &[String], seen: &Arc<Repository>) -> Result<(), Error> {
        let there = |m: &&String| !seen.models.contains_key(*m) && !self.entries.contains_key(*m);
        if let Some(model) = models.iter().find(there) {
            return Err(unknown(model));
        }
        for model in models {
            if let Some(entry) = self.entries.get_mut(model) {
                entry.call_follow(self.options.load.wants(model));
            }
            self.changed(model);
        }
        self.observe(seen, models);
        Ok(())
    }

    fn load(&mut self, id: CallId, targets: &[Target], seen: &Arc<Repository>) {
        if let Err(error) = there(targets, seen) {
            return self.end(id, Err(error));
        }
        let mut problems = Vec::new();
        for Target { model, version } in targets {
            let Some(found) = seen.models.get(model) else { continue };
            // A model that is new: wanted if the call succeeds.
            let unwanted = || Options { load: Load::None, ..self.options.clone() };
            let entry = self
                .entries
                .entry(model.clone())
                .or_insert_with(|| Entry::new(model, found, seen, &unwanted()));
            let asked = entry.call_load(*version, found, seen, &self.options.defaults);
            problems.extend(asked.err().map(|why| format!("model '{model}': {why}")));
        }
        if !problems.is_empty() {
            for Target { model, .. } in targets {
                match self.entries.get_mut(model) {
                    Some(entry) if targets.len() > 1 => entry.abort(),
                    Some(entry) => entry.call_failed(),
                    None => {}
                }
                self.changed(model);
            }
            return self.end(id, Err(Error::invalid(problems.join("; "))));
        }
        let together = targets.len() > 1;
        for Target { model, version } in targets {
            tracing::info!(model, version, together, "to be loaded by a call");
            let waiting = self.queue.len();
            self.changed(model);
            // Before what loads by itself: somebody waits for this one.
            self.queue.rotate_left(waiting);
            if together && let Some(entry) = self.entries.get_mut(model) {
                entry.stage();
            }
            self.calls.opening.insert(model.clone(), id);
        }
        if let Some(Target { model, .. }) = targets.first() {
            self.progressed(&model.clone());
        }
    }

    /// Has everything loaded that traffic rules name.
    fn traffic(
        &mut self,
        id: CallId,
        model: &str,
        asked: Option<&Arc<Traffic>>,
        seen: &Arc<Repository>,
    ) {
        let versions = asked.map(|traffic| traffic.versions()).unwrap_or_default();
        let target = |number| Target { model: model.to_owned(), version: Some(number) };
        let targets: Vec<Target> = versions.into_iter().map(target).collect();
        let (Some(found), Some(entry)) = (seen.models.get(model), self.entries.get_mut(model))
        else {
            return self.end(id, Err(unknown(model)));
        };
        let defaults = &self.options.defaults;
        let ready = there(&targets, seen).and_then(|()| {
            entry.call_traffic(asked, found, seen, defaults).map_err(Error::invalid)
        });
        if let Err(error) = ready {
            self.changed(model);
            return self.end(id, Err(error));
        }
        self.changed(model);
        self.calls.opening.insert(model.to_owned(), id);
        self.progressed(model);
    }

    /// Something was opened, or refused, of a model: whether its call has come to its end.
    pub(super) fn progressed(&mut self, model: &str) {
        let Some(id) = self.calls.opening.get(model).copied() else { return };
        let Some(call) = self.calls.open.get(&id) else { return };
        let models = call.command.models();
        let ended = match &models[..] {
            [alone] => self.entries.get(alone).is_none_or(Entry::settled),
            together => together.iter().all(|m| self.entries.get(m).is_none_or(Entry::is_staged)),
        };
        if !ended {
            return;
        }
        let routes = matches!(call.command, Command::Traffic { .. });
        let result = match &models[..] {
            [alone] if routes => self.entries.get_mut(alone).map_or(Ok(()), Entry::traffic_ended),
            [alone] => self.entries.get_mut(alone).map_or(Ok(()), |entry| {
                let ended = entry.call_ended();
                ended.map_err(|why| format!("model '{alone}' was not loaded: {why}"))
            }),
            together => self.together(together),
        };
        for model in &models {
            self.calls.opening.remove(model);
            self.changed(model);
        }
        self.end(id, result.map_err(Error::invalid));
    }

    /// All of several models change in the next publication, or none.
    fn together(&mut self, models: &[String]) -> Result<(), String> {
        let refuses = |model: &String| self.entries.get(model).is_some_and(Entry::refuses);
        let refused = models.iter().any(refuses);
        let mut said = Vec::new();
        for model in models {
            let Some(entry) = self.entries.get_mut(model) else { continue };
            match refused {
                true => entry.abort(),
                false => entry.commit(),
            }
            if let Err(why) = entry.call_ended() {
                said.push(format!("model '{model}': {why}"));
            }
        }
        match refused {
            true => Err(format!("none of the models was changed: {}", said.join("; "))),
            false => Ok(()),
        }
    }

    /// Has the call answered once everybody sees what it did, and begins those that waited for it.
    fn end(&mut self, id: CallId, result: Result<(), Error>) {
        if let Some(call) = self.calls.open.remove(&id) {
            if let Err(error) = &result {
                tracing::warn!(reason = &*error.message, "a call to load or unload was refused");
            }
            self.calls.answers.push((call.reply, result));
            self.dirty = true;
        }
        for next in self.calls.lines.leave(id) {
            self.start(next);
        }
    }
}

/// Whether a command is one at all.
fn sound(command: &Command) -> Result<(), Error> {
    let models = match command {
        Command::Load(targets) | Command::Unload(targets) if targets.is_empty() => {
            return Err(Error::invalid("the call names no model"));
        }
        Command::Load(targets) | Command::Unload(targets) => {
            targets.iter().map(|target| &target.model).collect()
        }
        Command::Rescan(models) => models.iter().collect::<Vec<_>>(),
        Command::Traffic { model, .. } | Command::Demand { model, .. } => vec![model],
    };
    for model in &models {
        check_name(model).map_err(Error::invalid)?;
    }
    let mut once = BTreeSet::new();
    match models.iter().find(|model| !once.insert(**model)) {
        Some(twice) => Err(Error::invalid(format!("the call names model '{twice}' twice"))),
        None => Ok(()),
    }
}

/// Whether the repository has what a call asks for.
fn there(targets: &[Target], seen: &Repository) -> Result<(), Error> {
    for Target { model, version } in targets {
        let found = seen.models.get(model).ok_or_else(|| unknown(model))?;
        let Some(number) = version.filter(|number| !found.versions.contains_key(number)) else {
            continue;
        };
        let known: Vec<String> = found.versions.keys().map(u64::to_string).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(Error::new(
            Code::NotFound,
            format!("model '{model}' has no version '{number}' in the repository (it has {known})"),
        ));
    }
    Ok(())
}

fn unknown(model: &str) -> Error {
    Error::new(Code::NotFound, format!("there is no model '{model}' in the repository"))
}
