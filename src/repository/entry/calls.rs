//! What calls do to a model: load, unload, and several models changed as one.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{BY_CALL, Before, Entry, NOT_ASKED_FOR, Wish, missing};
use crate::repository::{
    lifecycle::Standing,
    options::Defaults,
    store::{FoundModel, Repository},
    table::State,
};

impl Entry {
    /// A call asks for what `found` has of the model, or for one version of it. Everything that failed is tried anew. The
    /// error is why none of it can serve; what serves goes on.
    pub fn call_load(
        &mut self,
        version: Option<u64>,
        found: &FoundModel,
        repository: &Arc<Repository>,
        defaults: &Defaults,
    ) -> Result<(), String> {
        self.before = Some(Box::new(self.snapshot()));
        self.refusals.clear();
        let wish = match version {
            None => Wish::Directory,
            Some(number) => {
                let mut numbers = self.serving();
                numbers.insert(number);
                Wish::Only(numbers)
            }
        };
        self.see(found, repository, defaults);
        let only = matches!(wish, Wish::Only(_));
        // `versions:` does not hold against a call that names one.
        let missing = only && missing(&self.options, found) == self.problem;
        if let Some(problem) = self.problem.clone().filter(|_| !missing) {
            return Err(problem);
        }
        self.problem = None;
        (self.wish, self.by_call, self.parked) = (wish, true, false);
        self.try_again();
        Ok(())
    }

    /// The call ends before anything was opened for it.
    pub fn call_failed(&mut self) {
        let Some(before) = self.before.take() else { return };
        (self.wish, self.by_call) = (before.wish, before.by_call);
        self.refusals.clear();
    }

    /// A call asks for the model, or one version of it, not to serve.
    pub fn call_unload(&mut self, version: Option<u64>) {
        let mut left = match version {
            None => BTreeSet::new(),
            Some(_) => self.serving(),
        };
        left.retain(|number| Some(*number) != version);
        self.by_call = true;
        self.wish = match left.is_empty() {
            true => Wish::Nothing(BY_CALL),
            false => Wish::Only(left),
        };
    }

    /// Calls have no say any more: its directory has.
    pub fn call_follow(&mut self, wanted: bool) {
        self.by_call = false;
        self.wish = if wanted { Wish::Directory } else { Wish::Nothing(NOT_ASKED_FOR) };
        self.try_again();
    }

    /// Forgets what was refused.
    pub(super) fn try_again(&mut self) {
        self.standings.retain(|_, standing| *standing != Standing::Failed);
        for number in self.refused.keys() {
            self.tried.remove(number);
        }
    }

    /// Somebody asks for a model that is out of memory.
    pub fn unpark(&mut self) {
        if self.parked {
            (self.parked, self.awaited) = (false, true);
            self.try_again();
        }
    }

    /// Nobody waits any more: what came of it is known.
    pub fn supplied(&mut self) {
        self.awaited = false;
    }

    /// The versions that serve, or are about to.
    pub fn serving(&self) -> BTreeSet<u64> {
        let numbers = self.standings.iter().filter(|(_, s)| **s != Standing::Failed);
        numbers.map(|(n, _)| *n).collect()
    }

    /// From now on nothing of the model changes before `commit` or `abort`.
    pub fn stage(&mut self) {
        self.staged = Some(BTreeMap::new());
    }

    /// Whether all that is staged has been opened or refused.
    pub fn is_staged(&self) -> bool {
        self.opening.is_empty()
    }

    /// Whether a version was refused since the call began.
    pub fn refuses(&self) -> bool {
        !self.refusals.is_empty()
    }

    /// What is staged serves.
    pub fn commit(&mut self) {
        for (number, version) in self.staged.take().unwrap_or_default() {
            self.opened(number, Ok(version));
        }
    }

    /// Everything is as it was before the call; what was refused says why.
    pub fn abort(&mut self) {
        let staged = self.staged.take().unwrap_or_default();
        let Some(before) = self.before.take() else { return };
        let serves = |n: &u64| self.standings.get(n) == Some(&Standing::Ready);
        let touched: Vec<u64> = self
            .standings
            .keys()
            .chain(before.standings.keys())
            .copied()
            .filter(|n| !serves(n))
            .collect();
        for number in touched {
            self.opening.remove(&number);
            match before.standings.get(&number) {
                Some(standing) => self.standings.insert(number, *standing),
                None => self.standings.remove(&number),
            };
            match before.states.get(&number) {
                Some(state) => self.states.insert(number, state.clone()),
                None => self.states.remove(&number),
            };
        }
        staged.into_values().for_each(|version| self.retire(version));
        self.tried = before.tried;
        (self.options, self.problem) = (before.options, before.problem);
        (self.repository, self.found) = (before.repository, before.found);
        (self.on_disk, self.wish, self.by_call) = (before.on_disk, before.wish, before.by_call);
        for (number, why) in &self.refusals {
            if self.standings.get(number) != Some(&Standing::Ready) && self.on_disk.contains(number)
            {
                self.tried.insert(*number, self.subject(*number));
                self.standings.insert(*number, Standing::Failed);
                self.states.insert(*number, State::Failed(why.clone()));
            }
        }
        self.refresh();
    }

    /// What came of a call to load, once the model has settled: each version that was refused, with the reason, and what
    /// serves in its place. Where nothing serves, the model is wanted as it was before.
    pub fn call_ended(&mut self) -> Result<(), String> {
        let before = self.before.take();
        let refusals = mem::take(&mut self.refusals);
        if refusals.is_empty() {
            return Ok(());
        }
        if let Some(before) = before
            && (self.current().is_none() || matches!(self.wish, Wish::Only(_)))
        {
            (self.wish, self.by_call) = (before.wish, before.by_call);
        }
        let said = refusals.iter().map(|(n, why)| format!("version {n}: {why}"));
        let mut said = said.collect::<Vec<_>>().join("; ");
        if let Some(current) = self.current() {
            said.push_str(&format!("; version {} serves", current.number));
        }
        Err(said)
    }

    fn snapshot(&self) -> Before {
        Before {
            options: self.options.clone(),
            problem: self.problem.clone(),
            repository: self.repository.clone(),
            found: self.found.clone(),
            on_disk: self.on_disk.clone(),
            tried: self.tried.clone(),
            wish: self.wish.clone(),
            by_call: self.by_call,
            standings: self.standings.clone(),
            states: self.states.clone(),
        }
    }
}
