//! Looks at the repository on a thread of its own, so that a slow disk holds up nobody else: when it is asked to, and, where
//! it shall watch, again and again.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{
    calls::CallId,
    lifecycle_options::{LifecycleOptions, Watch},
    settle::Settle,
    store::Repository,
    traffic::{Said, Watched},
};

/// Looking takes one part in so many of a processor's time at most, however often something changes.
const LOOK_SHARE: u32 = 20;
/// After a sign of a change, so long for the rest of it: a copy is many changes.
const GATHER: Duration = Duration::from_millis(50);

/// What is to be looked at.
pub struct Look {
    pub call: CallId,
    /// `None`: the whole repository.
    pub models: Option<Vec<String>>,
}

/// What was seen.
pub struct Sight {
    /// The call that wants to know.
    pub call: Option<CallId>,
    /// Models that are not in it are not there any more.
    pub whole: bool,
    /// With `whole: false`, only what was looked for. The error is one of the place.
    pub found: Result<Arc<Repository>, String>,
    /// What the traffic.yaml of some models says, where it has changed.
    pub traffic: Vec<(String, Said)>,
}

/// What it takes to look.
pub struct Eyes {
    place: Arc<Repository>,
    looks: Receiver<Look>,
    sights: Sender<Sight>,
    start: Instant,
    settle: Settle,
    watch: Watch,
    poll: Duration,
    traffic: Watched,
    /// The models whose traffic.yaml is looked at: all that were ever seen.
    names: BTreeSet<String>,
    /// Between two looks at the traffic.yaml of all models; zero: none.
    traffic_poll: Duration,
    /// Said already that the place cannot be seen.
    blind: bool,
    /// Signs of a change.
    signs: (Sender<()>, Receiver<()>),
}

impl Eyes {
    /// `place` is the repository as it was found at the start.
    pub fn new(
        place: Arc<Repository>,
        traffic: Watched,
        looks: Receiver<Look>,
        sights: Sender<Sight>,
        options: &LifecycleOptions,
    ) -> Eyes {
        let settle = Settle::new(Duration::from_millis(options.settle_ms), &place.models);
        let poll = Duration::from_millis(options.poll_ms);
        let (watch, start) = (options.watch, Instant::now());
        let traffic_poll = Duration::from_millis(options.traffic_poll_ms);
        let names = place.models.keys().cloned().collect();
        Eyes {
            place,
            looks,
            sights,
            start,
            settle,
            watch,
            poll,
            traffic,
            names,
            traffic_poll,
            blind: false,
            signs: bounded(1),
        }
    }

    /// Who knows of a change says so here, and it is looked at soon; `None` where nobody watches.
    pub fn sign(&self) -> Option<Sender<()>> {
        (self.watch != Watch::Off).then(|| self.signs.0.clone())
    }

    /// Looks until nobody asks any more.
    pub fn run(mut self) {
        let (sign, signs) = self.signs.clone();
        // Dropped at the end: it holds a thread.
        let _watcher = match self.watch {
            Watch::Notify => watcher(self.place.given(), sign.clone()),
            _ => None,
        };
        let mut next = (self.watch != Watch::Off).then(|| Instant::now() + self.poll);
        let polls = !self.traffic_poll.is_zero();
        let mut traffic = polls.then(|| Instant::now() + self.traffic_poll);
        loop {
            let looks = self.looks.clone();
            select! {
                recv(looks) -> look => match look {
                    Ok(look) => if !self.look(look) {
                        return;
                    },
                    Err(_) => return,
                },
                recv(signs) -> _ => next = next.map(|at| at.min(Instant::now() + GATHER)),
                recv(ring(next)) -> _ => {
                    // What comes from here on is another change.
                    let _ = signs.try_recv();
                    next = self.watch_once();
                    if next.is_none() {
                        return;
                    }
                }
                recv(ring(traffic)) -> _ => {
                    traffic = self.look_at_traffic();
                    if traffic.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Looks at every model's traffic.yaml, and tells what has changed. Gives when to look again; `None` where nobody wants to
    /// know any more.
    fn look_at_traffic(&mut self) -> Option<Instant> {
        let begun = Instant::now();
        let traffic = self.traffic.changed(self.names.iter());
        if !traffic.is_empty() {
            let found = Ok(self.place.clone());
            self.sights.send(Sight { call: None, whole: false, found, traffic }).ok()?;
        }
        Some(Instant::now() + self.traffic_poll.max(begun.elapsed() * LOOK_SHARE))
    }

    /// The same for models that were just seen.
    fn traffic_of(&mut self, found: &Result<Repository, String>) -> Vec<(String, Said)> {
        let Ok(found) = found else { return Vec::new() };
        self.names.extend(found.models.keys().cloned());
        self.traffic.changed(found.models.keys())
    }

    /// Looks at what somebody asked for; false where nobody wants to know any more.
    fn look(&mut self, look: Look) -> bool {
        let Look { call, models } = look;
        let found = match &models {
            Some(models) => self.place.look(models.iter().map(String::as_str)),
            None => self.place.again(),
        };
        let traffic = self.traffic_of(&found);
        let (call, whole) = (Some(call), models.is_none());
        let sight = Sight { call, whole, found: found.map(Arc::new), traffic };
        self.sights.send(sight).is_ok()
    }

    /// Looks at everything, and tells what is complete of it. Gives when to look again.
    fn watch_once(&mut self) -> Option<Instant> {
        let begun = Instant::now();
        let mut changed = false;
        match self.place.again() {
            Ok(mut found) => {
                self.blind = false;
                changed = self.settle.see(&found.models, begun - self.start);
                if changed {
                    found.models = self.settle.shown().clone();
                    self.names.extend(found.models.keys().cloned());
                    let traffic = self.traffic.changed(found.models.keys());
                    let found = Ok(Arc::new(found));
                    self.sights.send(Sight { call: None, whole: true, found, traffic }).ok()?;
                }
            }
            Err(error) if !self.blind => {
                // Once, not with every look. What serves goes on.
                self.blind = true;
                let (found, traffic) = (Err(error), Vec::new());
                self.sights.send(Sight { call: None, whole: true, found, traffic }).ok()?;
            }
            Err(_) => {}
        }
        let took = begun.elapsed();
        tracing::trace!(?took, changed, "looked at the repository");
        let now = Instant::now();
        let rest = now + took * LOOK_SHARE;
        let settled = self.settle.next().map(|at| self.start + at);
        Some(settled.unwrap_or(now + self.poll).min(now + self.poll).max(rest))
    }
}

/// Rings at that time, if there is one.
fn ring(at: Option<Instant>) -> Receiver<Instant> {
    at.map_or_else(crossbeam_channel::never, crossbeam_channel::at)
}

/// Has the system tell of changes. Where it cannot, there still is the look now and then.
fn watcher(place: &Path, sign: Sender<()>) -> Option<RecommendedWatcher> {
    let told = move |event: notify::Result<notify::Event>| {
        // That something is read is our own doing.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            let _ = sign.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
        watcher.watch(place, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            tracing::warn!(%error, "the system tells of no changes in the repository: it is looked at now and then");
        })
        .ok()
}
