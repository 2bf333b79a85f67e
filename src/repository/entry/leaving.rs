//! How versions leave: at once, or kept warm for a while; and when they are gone.

use std::{mem, sync::Arc, time::Instant};

use super::{Entry, Tried};
use crate::repository::table::{State, Version};

/// A predecessor that stays warm.
pub struct Kept {
    version: Arc<Version>,
    tried: Option<Tried>,
    until: Instant,
}

impl Entry {
    /// Has a version freed that serves no longer.
    pub(super) fn retire(&mut self, version: Arc<Version>) {
        *self.draining.entry(version.number).or_default() += 1;
        self.gone.push(version);
    }

    /// Takes a version out that has successors. The last one stays warm for a while, in place of the one before.
    pub(super) fn replace(&mut self, number: u64, now: Instant) {
        if self.rollback_ttl.is_zero() {
            return self.unload(number);
        }
        let tried = self.tried.get(&number).cloned();
        let Some(version) = self.take_out(number) else { return };
        self.let_go(None);
        self.states.insert(number, State::Kept(version.clone()));
        self.kept = Some(Kept { version, tried, until: now + self.rollback_ttl });
    }

    /// The predecessor that stayed warm, if it is this version as it is on disk.
    pub(super) fn take_kept(&mut self, number: u64) -> Option<Arc<Version>> {
        let kept = self.kept.take_if(|kept| kept.version.number == number)?;
        self.tried.extend(kept.tried.map(|tried| (number, tried)));
        if self.is_tried(number) {
            return Some(kept.version);
        }
        self.states.insert(number, State::Draining);
        self.retire(kept.version);
        None
    }

    /// Lets the kept predecessor go, if its time is over; without a time, at once. Says whether there was one to go.
    pub fn let_go(&mut self, now: Option<Instant>) -> bool {
        let over = |kept: &mut Kept| now.is_none_or(|now| kept.until <= now);
        let Some(kept) = self.kept.take_if(over) else { return false };
        self.states.insert(kept.version.number, State::Draining);
        self.retire(kept.version);
        true
    }

    /// Until when a predecessor stays warm.
    pub fn kept_until(&self) -> Option<Instant> {
        self.kept.as_ref().map(|kept| kept.until)
    }

    /// The versions that serve no longer, since the last time.
    pub fn take_gone(&mut self) -> Vec<Arc<Version>> {
        mem::take(&mut self.gone)
    }

    /// The last request of a version that served has its answer, and its memory is free.
    pub fn freed(&mut self, number: u64) {
        let left = self.draining.get_mut(&number).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left > 0 {
            return;
        }
        self.draining.remove(&number);
        if matches!(self.states.get(&number), Some(State::Draining)) {
            self.states.remove(&number);
            self.refresh();
        }
    }

    /// Takes the model out of memory until somebody asks for it.
    pub fn park(&mut self) {
        self.parked = true;
    }

    /// Bytes of what serves, and of the predecessor that stays warm.
    pub fn resident(&self) -> (u64, u64) {
        let serving = self.states.values().map(|state| match state {
            State::Ready(version) => version.weight_bytes,
            _ => 0,
        });
        let staged = self.staged.iter().flatten().map(|(_, version)| version.weight_bytes);
        (
            serving.chain(staged).sum(),
            self.kept.as_ref().map_or(0, |kept| kept.version.weight_bytes),
        )
    }

    /// When a request was answered last, or the first version became ready: milliseconds since the Unix epoch.
    pub fn last_used(&self) -> u64 {
        let used = self.states.values().map(|state| match state {
            State::Ready(version) => version.stats.last_run(),
            _ => 0,
        });
        used.max().unwrap_or_default().max(self.ready_at)
    }

    /// Whether something of it is being opened.
    pub fn busy(&self) -> bool {
        !self.opening.is_empty()
    }

    /// Bytes that a version will take, as far as its files tell.
    pub fn estimate(&self, number: u64) -> u64 {
        self.found.bytes.get(&number).copied().unwrap_or_default()
    }
}
