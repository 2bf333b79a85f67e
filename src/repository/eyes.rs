//! Looks at the repository on a thread of its own, so that a slow disk holds up nobody else: when it is asked to, and, where
//! it shall watch, again and again.

use std::{
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
    /// Said already that the place cannot be seen.
    blind: bool,
}

impl Eyes {
    /// `place` is the repository as it was found at the start.
    pub fn new(
        place: Arc<Repository>,
        looks: Receiver<Look>,
        sights: Sender<Sight>,
        options: &LifecycleOptions,
    ) -> Eyes {
        let settle = Settle::new(Duration::from_millis(options.settle_ms), &place.models);
        let poll = Duration::from_millis(options.poll_ms);
        let watch = options.watch;
        Eyes { place, looks, sights, start: Instant::now(), settle, watch, poll, blind: false }
    }

    /// Looks until nobody asks any more.
    pub fn run(mut self) {
        if self.watch == Watch::Off {
            while let Ok(look) = self.looks.recv() {
                if !self.look(look) {
                    return;
                }
            }
            return;
        }
        let (sign, signs) = bounded(1);
        // Dropped at the end: it holds a thread.
        let _watcher = match self.watch {
            Watch::Notify => watcher(self.place.given(), sign.clone()),
            _ => None,
        };
        let mut next = Instant::now() + self.poll;
        loop {
            let looks = self.looks.clone();
            select! {
                recv(looks) -> look => match look {
                    Ok(look) => if !self.look(look) {
                        return;
                    },
                    Err(_) => return,
                },
                recv(signs) -> _ => next = next.min(Instant::now() + GATHER),
                recv(crossbeam_channel::at(next)) -> _ => {
                    // What comes from here on is another change.
                    let _ = signs.try_recv();
                    match self.watch_once() {
                        Some(at) => next = at,
                        None => return,
                    }
                }
            }
        }
    }

    /// Looks at what somebody asked for; false where nobody wants to know any more.
    fn look(&mut self, look: Look) -> bool {
        let Look { call, models } = look;
        let found = match &models {
            Some(models) => self.place.look(models.iter().map(String::as_str)),
            None => self.place.again(),
        };
        let sight = Sight { call: Some(call), whole: models.is_none(), found: found.map(Arc::new) };
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
                    let found = Ok(Arc::new(found));
                    self.sights.send(Sight { call: None, whole: true, found }).ok()?;
                }
            }
            Err(error) if !self.blind => {
                // Once, not with every look. What serves goes on.
                self.blind = true;
                self.sights.send(Sight { call: None, whole: true, found: Err(error) }).ok()?;
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
