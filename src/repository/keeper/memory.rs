//! The memory budget of models: room before a version is loaded, who goes for it, and loading what somebody asks for.

use tokio::sync::watch;

use super::Keeper;
use crate::{
    repository::{
        entry::Entry,
        job::Job,
        options::Versions,
        residency::{Resident, Room, Usage, Victim, room},
    },
    telemetry::registry::registry,
};

/// What a job is to do now.
pub enum Turn {
    Load(Job),
    /// Not yet, nor anything behind it.
    Wait(Job),
    /// Not at all.
    Dropped,
}

impl Keeper {
    /// Leaves out of memory what does not fit at the start, by what the files say, in the order of the names.
    pub(super) fn park_surplus(&mut self) {
        let budget = self.options.lifecycle.model_memory_bytes;
        if budget == 0 {
            return;
        }
        let mut taken = 0u64;
        for entry in self.entries.values_mut().filter(|entry| entry.wanted()) {
            let need = entry.first_estimate();
            match taken.saturating_add(need) <= budget {
                true => taken += need,
                false => entry.park(),
            }
        }
    }

    /// Whether a job may be handed to a loader; makes room for it where that can be made.
    pub(super) fn turn(&mut self, job: Job) -> Turn {
        if self.options.lifecycle.model_memory_bytes == 0 || job.reopens.is_some() {
            return Turn::Load(job);
        }
        match self.room_for(job.bytes, &job.model) {
            Room::There => Turn::Load(job),
            Room::Wait => Turn::Wait(job),
            // Nobody waits for it: it takes nobody's place.
            Room::Free(_) | Room::Never if !self.is_urgent(&job) => {
                self.park(&job.model);
                Turn::Dropped
            }
            Room::Free(victims) => {
                self.evict(victims);
                Turn::Wait(job)
            }
            Room::Never => {
                self.refuse(&job);
                Turn::Dropped
            }
        }
    }

    /// Whether somebody waits for the job, or its model serves already.
    fn is_urgent(&self, job: &Job) -> bool {
        let serves = self.entries.get(&*job.model).is_some_and(|entry| entry.resident().0 > 0);
        serves || self.calls.has(&job.model) || self.demanded.contains_key(&*job.model)
    }

    fn usage(&self) -> Usage {
        let gone: u64 = self.gone.iter().map(|version| version.weight_bytes).sum();
        Usage {
            budget: self.options.lifecycle.model_memory_bytes,
            resident: self.resident,
            coming: self.coming,
            leaving: self.leaving + gone,
        }
    }

    fn room_for(&self, need: u64, of: &str) -> Room {
        let usage = self.usage();
        if let Room::There = room(usage, need, of, &[]) {
            return Room::There;
        }
        let residents: Vec<Resident<'_>> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| {
                let (serving, kept) = entry.resident();
                let waited = self.calls.has(name) || self.demanded.contains_key(name);
                let (last_used, busy) = (entry.last_used(), waited || entry.busy());
                (serving + kept > 0).then_some(Resident { name, kept, serving, last_used, busy })
            })
            .collect();
        room(usage, need, of, &residents)
    }

    /// What was loaded may take more than its files said.
    pub(super) fn keep_within(&mut self, model: &str) {
        if self.options.lifecycle.model_memory_bytes == 0 {
            return;
        }
        if let Room::Free(victims) = self.room_for(0, model) {
            self.evict(victims);
        }
    }

    fn evict(&mut self, victims: Vec<Victim>) {
        for victim in victims {
            match victim {
                Victim::Kept(name) => {
                    if let Some(entry) = self.entries.get_mut(&name) {
                        entry.let_go(None);
                    }
                    self.changed(&name);
                }
                Victim::Model(name) => self.park(&name),
            }
        }
    }

    fn park(&mut self, name: &str) {
        tracing::info!(model = name, "out of memory: the model waits until somebody asks for it");
        if let Some(entry) = self.entries.get_mut(name) {
            entry.park();
        }
        self.changed(name);
    }

    fn refuse(&mut self, job: &Job) {
        let budget = self.options.lifecycle.model_memory_bytes;
        let why = format!(
            "{}: it takes about {} bytes, for which there is no room within model_memory_bytes ({budget})",
            job.file, job.bytes
        );
        tracing::error!(model = &*job.model, version = job.number, why, "the version cannot serve");
        registry().load_refused(&job.model, &job.number.to_string());
        if let Some(entry) = self.entries.get_mut(&*job.model) {
            entry.finished(job, Err(why));
        }
        self.changed(&job.model);
        self.progressed(&job.model);
        self.supplied(&job.model);
    }

    /// Somebody asks for a model that is out of memory, and is told by `done`'s end.
    pub(super) fn demand(&mut self, model: String, done: watch::Sender<()>) {
        let Some(entry) = self.entries.get_mut(&model) else { return };
        entry.unpark();
        let waiting = self.queue.len();
        self.demanded.entry(model.clone()).or_default().push(done);
        self.changed(&model);
        // Before what loads by itself.
        self.queue.rotate_left(waiting.min(self.queue.len()));
        self.supplied(&model);
    }

    /// Tells those who asked for a model, once there is nothing more to wait for.
    pub(super) fn supplied(&mut self, model: &str) {
        if self.entries.get(model).is_none_or(Entry::settled)
            && let Some(done) = self.demanded.remove(model)
        {
            self.told.extend(done);
            if let Some(entry) = self.entries.get_mut(model) {
                entry.supplied();
            }
            self.changed(model);
        }
    }
}

impl Entry {
    /// Bytes of the versions that would be loaded first.
    fn first_estimate(&self) -> u64 {
        let numbers = self.numbers();
        let first: Vec<u64> = match &self.options.versions {
            Versions::Latest(count) => numbers.iter().rev().take(*count).copied().collect(),
            Versions::All => numbers.iter().copied().collect(),
            Versions::Only(listed) => listed.clone(),
        };
        first.into_iter().map(|number| self.estimate(number)).sum()
    }
}
