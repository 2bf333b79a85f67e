//! What may be asked of the manager while the server runs, and the order in which it is done: one call after another for
//! one model.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::types::{
    error::{Code, Error},
    traffic::Traffic,
};

/// Calls that wait or are under way; one more is refused.
pub const MOST_CALLS: usize = 256;
/// When one who was refused may come again: loads take about that long.
const AGAIN: Duration = Duration::from_secs(1);

/// A model, or one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub model: String,
    /// `None`: what its directory and model.yaml say.
    pub version: Option<u64>,
}

/// What a call asks for. Several models change as one: all of them, or none.
#[derive(Clone, Debug)]
pub enum Command {
    /// Look at the directories at once, and serve what they hold.
    Load(Vec<Target>),
    Unload(Vec<Target>),
    /// Look at the whole repository at once; the models that are named are given back to their directories.
    Rescan(Vec<String>),
    /// Traffic rules of a model are about to be written (`asked`: what they name is loaded, and the rules come into effect
    /// once the file has them), or have been.
    Traffic {
        model: String,
        asked: Option<Arc<Traffic>>,
    },
    /// Load a model that is out of memory: somebody asks for it. `done` is dropped when there is nothing more to wait for.
    Demand {
        model: String,
        done: watch::Sender<()>,
    },
}

impl Command {
    /// The models that wait for nothing else meanwhile.
    pub fn models(&self) -> Vec<String> {
        let mut models: Vec<String> = match self {
            Command::Load(targets) | Command::Unload(targets) => {
                targets.iter().map(|target| target.model.clone()).collect()
            }
            Command::Rescan(models) => models.clone(),
            Command::Traffic { model, .. } | Command::Demand { model, .. } => vec![model.clone()],
        };
        models.sort_unstable();
        models.dedup();
        models
    }
}

/// A command, and where its answer goes.
pub struct Call {
    pub command: Command,
    pub reply: oneshot::Sender<Result<(), Error>>,
}

/// Reaches the manager from any thread.
#[derive(Clone)]
pub struct Control {
    calls: Sender<Call>,
    /// Models that are being loaded because somebody asked for them, and when that ends.
    demanded: Arc<Mutex<HashMap<String, watch::Receiver<()>>>>,
}

/// A control, and the calls that come by it.
pub fn channel() -> (Control, Receiver<Call>) {
    let (send, receive) = bounded(MOST_CALLS);
    (Control { calls: send, demanded: Arc::default() }, receive)
}

impl Control {
    /// Has the command done, and waits until it is. Whoever stops waiting does not stop it.
    ///
    /// # Errors
    /// `NotFound` for what is not in the repository, `InvalidArgument` with the reason for what is refused, `Overloaded`
    /// where too many calls wait, `Unavailable` once the server stops.
    pub async fn ask(&self, command: Command) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Call { command, reply })?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    fn send(&self, call: Call) -> Result<(), Error> {
        self.calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => too_many(),
            TrySendError::Disconnected(_) => stopping(),
        })
    }

    /// Has a model loaded that is out of memory, and waits until it was tried: the table says what came of it. However many
    /// ask at once, it is loaded once; who stops waiting stops nobody else.
    ///
    /// # Errors
    /// As `ask`.
    pub async fn demand(&self, model: &str) -> Result<(), Error> {
        let mut ends = {
            let mut demanded = self.demanded.lock();
            match demanded.get(model) {
                Some(ends) if ends.has_changed().is_ok() => ends.clone(),
                _ => {
                    let (done, ends) = watch::channel(());
                    let command = Command::Demand { model: model.to_owned(), done };
                    // Whoever is told has the table to look at.
                    self.send(Call { command, reply: oneshot::channel().0 })?;
                    demanded.insert(model.to_owned(), ends.clone());
                    ends
                }
            }
        };
        // Nothing is ever sent: the end is the sender's.
        let _ = ends.changed().await;
        let mut demanded = self.demanded.lock();
        if demanded.get(model).is_some_and(|ends| ends.has_changed().is_err()) {
            demanded.remove(model);
        }
        Ok(())
    }
}

/// As many calls wait as may.
pub fn too_many() -> Error {
    Error::overloaded(format!("{MOST_CALLS} calls to load and unload are under way"), AGAIN)
}

fn stopping() -> Error {
    Error::new(Code::Unavailable, "the server stops: it loads and unloads no more")
}

/// Names a call for as long as it is here.
pub type CallId = u64;

/// The order of the calls. A call stands in the line of each of its models, and is under way once it is the first of all of
/// them; since it enters all its lines at once, no two calls ever wait for each other.
#[derive(Default)]
pub struct Lines {
    next: CallId,
    lines: HashMap<String, VecDeque<CallId>>,
    members: BTreeMap<CallId, Vec<String>>,
}

impl Lines {
    /// Puts a call at the end of its models' lines; `None` where too many wait already. It may begin if `may_begin`.
    pub fn enter(&mut self, models: Vec<String>) -> Option<CallId> {
        if self.members.len() >= MOST_CALLS {
            return None;
        }
        let id = self.next;
        self.next += 1;
        for model in &models {
            self.lines.entry(model.clone()).or_default().push_back(id);
        }
        self.members.insert(id, models);
        Some(id)
    }

    /// Whether it is the first in all its lines.
    pub fn may_begin(&self, id: CallId) -> bool {
        let first = |model: &String| self.lines.get(model).and_then(VecDeque::front) == Some(&id);
        self.members.get(&id).is_some_and(|models| models.iter().all(first))
    }

    /// Takes a call out that has ended; gives those that may begin now.
    pub fn leave(&mut self, id: CallId) -> Vec<CallId> {
        let mut next = Vec::new();
        for model in self.members.remove(&id).unwrap_or_default() {
            let Some(line) = self.lines.get_mut(&model) else { continue };
            line.retain(|other| *other != id);
            match line.front() {
                None => drop(self.lines.remove(&model)),
                Some(first) => next.push(*first),
            }
        }
        next.sort_unstable();
        next.dedup();
        next.retain(|id| self.may_begin(*id));
        next
    }

    /// Whether a call for this model waits or is under way.
    pub fn has(&self, model: &str) -> bool {
        self.lines.contains_key(model)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// Whatever the models of each call: never two under way for one model, every call has its turn, and for one model
        /// they have it in the order in which they came.
        #[test]
        fn calls_are_serialised_by_model_and_all_end(
            calls in vec(vec(0u8..5, 0..4), 1..40),
            mut pick in any::<u64>(),
        ) {
            let mut lines = Lines::default();
            let mut waiting = calls.iter().enumerate().collect::<VecDeque<_>>();
            let mut names: BTreeMap<CallId, (usize, BTreeSet<u8>)> = BTreeMap::new();
            let (mut under_way, mut ended) = (Vec::<CallId>::new(), Vec::<usize>::new());
            while ended.len() < calls.len() {
                pick = pick.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let come = (pick >> 33) % 2 == 0 || under_way.is_empty();
                let next = if come { waiting.pop_front() } else { None };
                if let Some((at, models)) = next {
                    let targets = models.iter().map(|m| Target { model: m.to_string(), version: None });
                    let id = lines.enter(Command::Load(targets.collect()).models()).unwrap();
                    names.insert(id, (at, models.iter().copied().collect()));
                    under_way.extend(lines.may_begin(id).then_some(id));
                } else {
                    prop_assert!(!under_way.is_empty(), "everybody waits for somebody");
                    let id = under_way.swap_remove((pick >> 40) as usize % under_way.len());
                    ended.push(names[&id].0);
                    under_way.extend(lines.leave(id));
                }
                let held: Vec<u8> = under_way.iter().flat_map(|id| names[id].1.clone()).collect();
                let distinct: BTreeSet<u8> = held.iter().copied().collect();
                prop_assert_eq!(held.len(), distinct.len(), "two calls for one model");
            }
            for model in 0u8..5 {
                let order: Vec<usize> =
                    ended.iter().copied().filter(|at| calls[*at].contains(&model)).collect();
                prop_assert!(order.is_sorted(), "{order:?}");
            }
            prop_assert!(lines.lines.is_empty() && lines.members.is_empty());
        }
    }

    #[test]
    fn there_is_an_end_to_waiting_calls() {
        let mut lines = Lines::default();
        let ids: Vec<_> = (0..MOST_CALLS).map(|_| lines.enter(vec!["m".into()]).unwrap()).collect();
        assert_eq!(lines.enter(vec!["n".into()]), None);
        assert!(lines.has("m") && !lines.has("n"));
        assert_eq!(lines.leave(ids[0]), [ids[1]]);
        assert!(lines.enter(vec!["n".into()]).is_some());
    }
}
