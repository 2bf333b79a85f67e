//! Keeps a local mirror as the object store is that models come from. What decides is `remote_plan`; what is served is the
//! mirror, which the manager looks at as at any directory.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, Sender, select};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::{
    eyes::Look,
    mirror::Mirror,
    remote_fetch::{self, Fetch, Trouble},
    remote_list::Listed,
    remote_options::{RemoteOptions, Rollouts},
    remote_plan::{Job, Mirrored, Plan, Planner},
    remote_source::Source,
    remote_status::StoreStatus,
};
use crate::objects::shown;

/// Models and versions that are read at once.
const AT_ONCE: usize = 8;

/// Whether `models` names an object store, not a local path.
pub fn is_url(models: &str) -> bool {
    models.contains("://")
}

/// Reads an object store into a mirror.
pub struct Syncer {
    source: Arc<Source>,
    mirror: Mirror,
    state: Mirrored,
    planner: Planner,
    options: RemoteOptions,
    status: Arc<StoreStatus>,
    /// Times of listings are counted from here.
    start: Instant,
    /// Said already: the same once, not with every listing.
    said: BTreeSet<String>,
    runtime: tokio::runtime::Runtime,
}

/// How far a comparison goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything, and somebody says that it is complete.
    Asked,
    /// Everything that is complete.
    Watched,
    /// Traffic rules alone.
    Rules,
}

/// What came of one comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// The mirror is another than before.
    pub changed: bool,
    /// Jobs that failed, and will be tried again.
    pub failed: usize,
}

impl Syncer {
    /// Opens the store that `url` names, and its mirror. Nothing is asked of the store yet. `settle`: for so long a version
    /// without a manifest must be listed unchanged.
    pub fn open(
        url: &str,
        options: &RemoteOptions,
        state: Option<&Path>,
        settle: Duration,
    ) -> Result<Syncer, String> {
        let source = Arc::new(Source::open(url, Duration::from_millis(options.timeout_ms))?);
        let root = place(url, options, state)?;
        let mirror = Mirror::open(&root, &source.url)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no event loop: {error}"))?;
        Ok(Syncer {
            state: mirror.read(),
            planner: Planner::new(settle, options.max_bytes, options.newest),
            options: options.clone(),
            status: Arc::default(),
            start: Instant::now(),
            said: BTreeSet::new(),
            source,
            mirror,
            runtime,
        })
    }

    /// The repository to be looked at.
    pub fn place(&self) -> PathBuf {
        self.mirror.tree()
    }

    pub fn status(&self) -> Arc<StoreStatus> {
        self.status.clone()
    }

    /// Where changes of traffic rules are written, if that is the store.
    pub fn rules(&self) -> Option<Arc<Source>> {
        let wanted = self.options.rollouts == Rollouts::Store;
        (wanted && self.source.takes_objects()).then(|| self.source.clone())
    }

    /// The first comparison. The error is one that should end a start: there is nothing to serve.
    pub fn begin(&mut self) -> Result<(), String> {
        let url = &self.source.url;
        tracing::info!(url, mirror = %self.mirror.tree().display(), "models come from an object store");
        match self.sync(Reach::Watched) {
            Ok(_) => Ok(()),
            Err(error) if self.state.is_empty() => Err(format!(
                "models: '{}': {error}; and nothing of it is mirrored yet in '{}'",
                shown(&self.source.url),
                self.mirror.tree().display()
            )),
            Err(_) => {
                let models = self.state.len();
                tracing::warn!(models, "the start goes on with what the mirror holds");
                Ok(())
            }
        }
    }

    /// Compares again and again: when somebody asks to look at the repository, before that is done; and, where `watch` is
    /// given, every `poll_ms`, with a sign there when something changed. Where it is not, only traffic rules are followed so
    /// often, for all replicas are to go by the same. Ends with `looks`.
    pub fn run(mut self, looks: &Receiver<Look>, onward: &Sender<Look>, watch: Option<Sender<()>>) {
        let mut next = Instant::now() + self.pause();
        loop {
            let due = crossbeam_channel::at(next);
            let mut asked = Vec::new();
            select! {
                recv(looks) -> look => match look {
                    Ok(look) => asked.push(look),
                    Err(_) => return,
                },
                recv(due) -> _ => {}
            }
            // Those who ask meanwhile are served by the next one.
            asked.extend(looks.try_iter());
            let reach = match (asked.is_empty(), &watch) {
                (false, _) => Reach::Asked,
                (true, Some(_)) => Reach::Watched,
                (true, None) => Reach::Rules,
            };
            let changed = self.sync(reach).is_ok_and(|pass| pass.changed);
            for look in asked {
                if onward.send(look).is_err() {
                    return;
                }
            }
            if let Some(sign) = watch.as_ref().filter(|_| changed) {
                // Full: told already.
                let _ = sign.try_send(());
            }
            next = Instant::now() + self.pause();
        }
    }

    fn pause(&self) -> Duration {
        let poll = Duration::from_millis(self.options.poll_ms);
        let now = self.start.elapsed();
        let settled = self.planner.next().map(|at| at.saturating_sub(now));
        // A listing costs somebody money.
        settled.map_or(poll, |settled| poll.min(settled.max(poll / 10)))
    }

    /// Compares once, and does what follows. The error: the store cannot be listed, and nothing changed.
    pub fn sync(&mut self, reach: Reach) -> Result<Pass, String> {
        match self.listed() {
            Ok(listed) => {
                let (planner, now) = (&mut self.planner, self.start.elapsed());
                let hurry = reach == Reach::Asked;
                let mut plan = planner.plan(&listed, &self.state, now, hurry);
                if reach == Reach::Rules {
                    plan.keep_rules();
                }
                Ok(self.carry_out(plan, &listed))
            }
            Err(error) => {
                self.status.down();
                self.say(format!("down {error}"), |url| {
                    tracing::error!(
                        url,
                        error,
                        "the object store cannot be read: its mirror stays as it is"
                    );
                });
                Err(error)
            }
        }
    }

    fn listed(&self) -> Result<Listed, String> {
        let objects = self.runtime.block_on(self.source.list())?;
        let listed = Listed::of(objects, &self.source.name)?;
        // A prefix that was misspelt or emptied by mistake must not take every model from its callers.
        match listed.models.values().any(|model| !model.versions.is_empty()) {
            true => Ok(listed),
            false => Err("it lists no model there: expected <model>/<version>/model.onnx".into()),
        }
    }

    /// Says something once, until all is well again.
    fn say(&mut self, key: String, say: impl FnOnce(&str)) {
        if self.said.insert(key) {
            say(&self.source.url);
        }
    }

    fn carry_out(&mut self, plan: Plan, listed: &Listed) -> Pass {
        let mut pass = Pass::default();
        let mut said = BTreeSet::new();
        for (key, why) in &listed.refused {
            said.insert(format!("key {key}"));
            self.say(format!("key {key}"), |_| {
                tracing::warn!(key = %key.escape_debug(), why, "an object of the store is left out");
            });
        }
        for (model, version, why) in &plan.refused {
            let key = format!("refused {model} {version} {why}");
            said.insert(key.clone());
            self.say(key, |_| {
                tracing::error!(model, version, why, "a version of the store is not mirrored");
            });
        }
        let mut refused = plan.refused.len() as u64;
        let troubled = self.fetch_all(plan.jobs, &mut pass, &mut refused);
        for surplus in plan.surplus.iter().filter(|s| !troubled.contains(s.model())) {
            match remote_fetch::remove(&self.mirror, &mut self.state, surplus) {
                Ok(()) => pass.changed = true,
                Err(error) => {
                    pass.failed += 1;
                    tracing::error!(what = ?surplus, error, "what is gone from the store stays");
                }
            }
        }
        match pass.failed {
            0 => {
                // What is well again is said anew when it is not.
                self.said.retain(|key| said.contains(key));
                self.status.synced(SystemTime::now(), refused);
            }
            _ => self.status.partly(refused),
        }
        pass
    }

    /// Reads what is missing, and shows each part as soon as it is whole. Gives the models of which something failed.
    fn fetch_all(
        &mut self,
        jobs: Vec<Job>,
        pass: &mut Pass,
        refused: &mut u64,
    ) -> BTreeSet<String> {
        let mut troubled = BTreeSet::new();
        let Syncer { runtime, source, mirror, state, planner, status, options, .. } = self;
        let (source, mirror) = (&**source, &*mirror);
        let fetch = Fetch { source, mirror, most: options.max_bytes };
        runtime.block_on(async {
            let fetches = jobs.into_iter().map(|job| fetch.job(job));
            let mut fetches = futures_util::stream::iter(fetches).buffer_unordered(AT_ONCE);
            while let Some((job, fetched, mut troubles)) = fetches.next().await {
                let model = job.model();
                if let Some(fetched) = fetched {
                    status.fetched(fetched.bytes);
                    match remote_fetch::show(mirror, state, &job, fetched) {
                        Ok(()) => pass.changed = true,
                        Err(error) => troubles.push(Trouble::Failed(error)),
                    }
                }
                for trouble in troubles {
                    match trouble {
                        Trouble::Wrong { number, print, why } => {
                            *refused += 1;
                            tracing::error!(
                                model,
                                version = number,
                                why,
                                "a version of the store is not mirrored"
                            );
                            planner.wrong(model, number, &print, &why);
                            continue;
                        }
                        Trouble::Incomplete(why) => {
                            tracing::info!(model, why, "a version is not complete in the store");
                        }
                        Trouble::Failed(error) => {
                            pass.failed += 1;
                            tracing::error!(model, error, "part of the store is not mirrored");
                        }
                    }
                    troubled.insert(model.to_owned());
                }
            }
        });
        troubled
    }
}

/// Where the mirror of a URL lies.
fn place(url: &str, options: &RemoteOptions, state: Option<&Path>) -> Result<PathBuf, String> {
    if !options.mirror.as_os_str().is_empty() {
        return Ok(options.mirror.clone());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = || {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
        cache.map(|cache| cache.join("onnxd"))
    };
    let above = state.map(Path::to_path_buf).or_else(cache);
    let above = above.ok_or(
        "store.mirror: expected a directory for the copy of the models: there is no home directory to put it in",
    )?;
    let digest = hex::encode(Sha256::digest(url.trim_end_matches('/')));
    Ok(above.join("mirrors").join(&digest[..16]))
}
