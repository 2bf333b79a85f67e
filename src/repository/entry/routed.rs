//! A model's traffic rules as its entry keeps them: as they are written, as somebody is about to write them, and in effect.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use super::Entry;
use crate::{
    repository::{
        breaker::Breaker,
        lifecycle::Want,
        options::Defaults,
        routes::Routes,
        store::{FoundModel, Repository},
        table::{State, Version},
        traffic,
    },
    types::traffic::Traffic,
};

/// The rules of one model.
#[derive(Default)]
pub struct Routed {
    /// As the file had them last, when it could be read.
    written: Option<Arc<Traffic>>,
    /// Why the file as it is now is not followed.
    problem: Option<String>,
    /// The file could be read once, or there was none.
    known: bool,
    /// Somebody wants to write these: what they name has to serve first.
    asked: Option<Arc<Traffic>>,
    breaker: Arc<Mutex<Breaker>>,
}

impl Routed {
    /// What a person should know of them.
    pub fn notice(&self, current: Option<&Version>) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(problem.clone());
        }
        let primary = self.written.as_ref()?.primary?;
        let current = current.filter(|version| version.number != primary)?;
        Some(format!(
            "{}: the primary is version {primary}, which does not serve: version {} does in its place",
            traffic::FILE,
            current.number
        ))
    }

    fn named(&self) -> BTreeSet<u64> {
        let both = [&self.written, &self.asked].into_iter().flatten();
        both.flat_map(|traffic| traffic.versions()).collect()
    }
}

impl Entry {
    /// What is wanted of its versions, by its directory, calls and traffic rules.
    pub fn want(&self) -> Want {
        let primary = self.routed.written.as_ref().and_then(|written| written.primary);
        Want { versions: self.policy(), primary, named: self.routed.named() }
    }

    /// Takes over what its traffic.yaml says now; false where that is nothing new.
    pub fn see_traffic(&mut self, said: &traffic::Said) -> bool {
        let routed = &mut self.routed;
        let (written, problem) = match said {
            Ok(written) => (written.clone(), None),
            // What was in effect stays so; after a restart, what the last command made.
            Err(broken) => {
                let rules = if routed.known { &routed.written } else { &broken.last };
                (rules.clone(), Some(broken.why.clone()))
            }
        };
        routed.known = true;
        let generation =
            |traffic: &Option<Arc<Traffic>>| traffic.as_ref().map_or(0, |t| t.generation);
        let done = generation(&routed.asked) <= generation(&written);
        if routed.written == written
            && routed.problem == problem
            && (!done || routed.asked.is_none())
        {
            return false;
        }
        (routed.written, routed.problem) = (written, problem);
        if done {
            routed.asked = None;
        }
        true
    }

    /// A call is about to write traffic rules, or has: what they name is to serve.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn call_traffic(
        &mut self,
        asked: Option<&Arc<Traffic>>,
        found: &FoundModel,
        repository: &Arc<Repository>,
        defaults: &Defaults,
    ) -> Result<(), String> {
        if !self.wanted() {
            return Err("the model is not loaded: load it first".into());
        }
        self.see(found, repository, defaults);
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        self.parked = false;
        self.routed.asked = asked.cloned();
        self.try_again();
        Ok(())
    }

    /// What came of `call_traffic`, once the model has settled: what does not serve is named, and forgotten.
    ///
    /// # Errors
    /// The versions that do not serve, and why.
    pub fn traffic_ended(&mut self) -> Result<(), String> {
        let Some(asked) = &self.routed.asked else { return Ok(()) };
        let fails = |number: u64| match self.states.get(&number) {
            Some(State::Ready(_)) => None,
            Some(state) => Some(format!("version {number} does not serve: {}", state.reason())),
            None => Some(format!("version {number} is not there")),
        };
        let failed: Vec<String> = asked.versions().into_iter().filter_map(fails).collect();
        if failed.is_empty() {
            return Ok(());
        }
        self.routed.asked = None;
        Err(failed.join("; "))
    }

    /// The rules in effect, where there are any.
    pub(super) fn routes(&self, current: Option<&Arc<Version>>) -> Option<Arc<Routes>> {
        let traffic = self.routed.written.as_ref().filter(|traffic| !traffic.is_plain())?;
        let breaker = &self.routed.breaker;
        Some(Arc::new(Routes::new(&self.name, traffic, current, &self.states, breaker)))
    }
}
