//! The thread that has closed files in an object store as well: each once, under the path that it has here; what compactions and
//! erasures change is changed there (docs/adr/0013).

pub mod book;
pub mod marks;
pub mod remote;
pub mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::json;
use tokio::runtime::Runtime;

use self::{
    book::Book,
    marks::{Action, Content, Line, Marks},
    remote::{Failed, Remote},
    tree::Files,
};
use super::{blobs, capture, digest, options::UploadOptions, store::Shared};
use crate::telemetry::predictions::UploadFailure as Kind;

/// Between two looks at what is there, where nobody says that something is new.
const LOOK: Duration = Duration::from_secs(10);
/// Between two tries of a store that fails: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What is left at a stop is given so long.
const LAST: Duration = Duration::from_secs(2);

/// Puts files into the store.
pub struct Uploader {
    shared: Arc<Shared>,
    uri: String,
    remote: Remote,
    book: Book,
    runtime: Runtime,
    held: Option<File>,
    /// The marks of each directory, and how long their file was: it only grows.
    known: BTreeMap<String, (u64, Marks)>,
    /// What cannot be done and is not tried again before the next start: it was told, and counted.
    given_up: BTreeSet<(String, Action)>,
    complained: bool,
}

/// Something to be done in a directory, for a file that was closed then.
struct Todo {
    since: SystemTime,
    dir: String,
    action: Action,
}

/// How a look at everything ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Nothing is left that can be done.
    Done,
    /// Something was done, of which more may follow.
    More,
    /// The store, or the disk, fails.
    Failed,
    Leaving,
}

impl Uploader {
    /// # Errors
    /// The URI, or the environment that credentials come from, is not as it has to be.
    pub fn new(shared: Arc<Shared>, options: &UploadOptions) -> Result<Uploader, String> {
        let remote = Remote::open(&options.uri, Duration::from_millis(options.timeout_ms))
            .map_err(|why| format!("prediction_log.upload.uri: {why}"))?;
        Uploader::to(shared, options, remote)
    }

    fn to(
        shared: Arc<Shared>,
        options: &UploadOptions,
        remote: Remote,
    ) -> Result<Uploader, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no event loop: {error}"))?;
        Ok(Uploader {
            book: Book::of(&shared.place.root, &options.uri),
            uri: options.uri.clone(),
            shared,
            remote,
            runtime,
            held: None,
            known: BTreeMap::new(),
            given_up: BTreeSet::new(),
            complained: false,
        })
    }

    /// Works until the rotator has ended, and then for a moment more. `news`: there are files.
    pub fn run(mut self, news: &Receiver<()>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = match self.pass(None) {
                Pass::More => Duration::ZERO,
                Pass::Done | Pass::Leaving => {
                    pause = FIRST_PAUSE;
                    LOOK
                }
                Pass::Failed => {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    pause / 2
                }
            };
            if !self.wait(news, wait, pause > FIRST_PAUSE) {
                break;
            }
        }
        let until = Instant::now() + LAST;
        while self.pass(Some(until)) == Pass::More {}
        let waiting = self.shared.numbers.upload.waiting.load(Ordering::Relaxed);
        if waiting > 0 {
            tracing::warn!(
                files = waiting,
                "files of the prediction log are not in the object store yet: the next start goes on"
            );
        }
    }

    /// Until there is something to do; false once the rotator has ended. A store that fails is left alone whatever is new.
    fn wait(&self, news: &Receiver<()>, pause: Duration, failing: bool) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match news.recv_timeout(left) {
                Ok(()) if failing => {}
                Ok(()) | Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Does what there is to do, the oldest file first.
    fn pass(&mut self, until: Option<Instant>) -> Pass {
        let todo = match self.hold().and_then(|held| if held { self.plan() } else { Ok(vec![]) }) {
            Ok(todo) => todo,
            Err(why) => {
                self.fail(Kind::Local, &why);
                return Pass::Failed;
            }
        };
        let mut pass = Pass::Done;
        for (at, Todo { dir, action, .. }) in todo.iter().enumerate() {
            self.note(&todo[at..]);
            if self.given_up.contains(&(dir.clone(), action.clone())) {
                continue;
            }
            match self.act(dir, action, until) {
                Ok(true) => pass = Pass::More,
                Ok(false) => {}
                Err(Failed::Leaving) => return Pass::Leaving,
                Err(Failed::Store(kind @ Kind::Conflict, why)) => {
                    self.shared.numbers.upload.failed(kind);
                    let what = format!("{dir}/{}", action.file());
                    tracing::error!(what, why, "a file of the prediction log stays here alone");
                    self.given_up.insert((dir.clone(), action.clone()));
                }
                Err(Failed::Store(kind, why)) => {
                    self.fail(kind, &format!("{dir}/{}: {why}", action.file()));
                    return Pass::Failed;
                }
            }
        }
        let given_up =
            |todo: &Todo| self.given_up.contains(&(todo.dir.clone(), todo.action.clone()));
        let left: Vec<Todo> = todo.into_iter().filter(given_up).collect();
        self.note(&left);
        if std::mem::take(&mut self.complained) {
            tracing::info!("the prediction log's files go to the object store again");
        }
        pass
    }

    /// Whether it is this process that puts files there; of those that share a directory, one does.
    fn hold(&mut self) -> Result<bool, String> {
        if self.held.is_none() && self.shared.place.root.is_dir() {
            self.held = match self.book.hold(&self.uri) {
                Ok(held) => Some(held),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => return Err(format!("the marks cannot be written: {error}")),
            };
        }
        Ok(self.held.is_some())
    }

    /// Everything that has to be done: what is about blobs, then what is about other files, the oldest first.
    fn plan(&mut self) -> Result<Vec<Todo>, String> {
        let now = SystemTime::now();
        let local =
            tree::closed(&self.shared.place.root, now).map_err(|error| error.to_string())?;
        let mut dirs = self.book.directories().map_err(|error| error.to_string())?;
        dirs.extend(local.keys().cloned());
        let (none, mut todo) = (Files::new(), Vec::new());
        for dir in dirs {
            let files = local.get(&dir).unwrap_or(&none);
            let names = files.keys().cloned().collect();
            let actions = self.marks(&dir).map_err(|error| format!("{dir}: {error}"))?.plan(&names);
            todo.extend(actions.into_iter().map(|action| {
                let since = files.get(action.file()).copied().unwrap_or(now);
                Todo { since, dir: dir.clone(), action }
            }));
        }
        // Blobs before the rows that refer to them, of which some may be older: a start writes a blob again.
        todo.sort_by_key(|todo| (!todo.dir.ends_with(blobs::DIR), todo.since));
        Ok(todo)
    }

    fn marks(&mut self, dir: &str) -> io::Result<&Marks> {
        let length = self.book.length(dir)?;
        let known = self.known.entry(dir.to_owned()).or_default();
        if known.0 != length {
            *known = (length, self.book.read(dir)?);
        }
        Ok(&known.1)
    }

    /// Says whether anything changed.
    fn act(&mut self, dir: &str, action: &Action, until: Option<Instant>) -> Result<bool, Failed> {
        let (file, key) = (action.file().to_owned(), format!("{dir}/{}", action.file()));
        let local = |error: io::Error| Failed::Store(Kind::Local, error.to_string());
        let entry = self.marks(dir).map_err(local)?.of(&file).cloned().unwrap_or_default();
        let shared = self.shared.clone();
        let leaving = move || match until {
            Some(until) => Instant::now() >= until,
            None => shared.is_closing(),
        };
        let before = entry.erasing.as_deref();
        let instead = match action {
            Action::Delete(_, erased) => {
                let older = self.remote.delete(&key, *erased, &leaving);
                let older = self.runtime.block_on(older)?;
                self.book.add(dir, &Line::Gone { file }).map_err(local)?;
                self.shared.numbers.upload.removed.fetch_add(1, Ordering::Relaxed);
                self.bear_witness(&key, before, None, older).map_err(local)?;
                return Ok(true);
            }
            Action::Put(_) => None,
            Action::Anew(_) => entry.up.as_ref(),
        };
        let bytes = match fs::read(self.shared.place.root.join(&key)) {
            Ok(bytes) => bytes,
            // Removed meanwhile: the next plan knows.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(local(error)),
        };
        if instead.is_some() && before == Some(&digest::bytes(&bytes)) {
            // The erasure has not come to it yet.
            return Ok(false);
        }
        let put = self.remote.put(&key, bytes, (instead, before), &leaving);
        let content = self.runtime.block_on(put)?;
        let numbers = &self.shared.numbers.upload;
        numbers.files.fetch_add(1, Ordering::Relaxed);
        numbers.bytes.fetch_add(content.bytes, Ordering::Relaxed);
        if before.is_some_and(|before| before != content.sha256) {
            let older = self.remote.keeps(content.version.as_deref());
            self.bear_witness(&key, before, Some(&content), older).map_err(local)?;
        }
        self.book.add(dir, &Line::Up { file, content }).map_err(local)?;
        Ok(true)
    }

    /// Where rows were ever erased: notes which object is another now, or gone, beside the evidence of that.
    fn bear_witness(
        &self,
        key: &str,
        before: Option<&str>,
        after: Option<&Content>,
        older: Option<bool>,
    ) -> io::Result<()> {
        let dir = self.shared.place.root.join("_erased");
        if !dir.is_dir() {
            return Ok(());
        }
        if before.is_some() && older == Some(true) {
            tracing::warn!(
                key,
                "rows are erased from an object of which the store keeps older versions"
            );
        }
        let line = json!({
            "object": key,
            "done": if after.is_some() { "rewritten" } else { "deleted" },
            "sha256_before": before,
            "sha256_after": after.map(|after| &after.sha256),
            "older_versions_stay": older,
            "at": super::value::time_text(capture::wall().wall_us),
        });
        let path = dir.join("objects.jsonl");
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()
    }

    fn note(&self, todo: &[Todo]) {
        let numbers = &self.shared.numbers.upload;
        numbers.waiting.store(todo.len() as u64, Ordering::Relaxed);
        let oldest = todo.iter().map(|todo| todo.since).min();
        let seconds = oldest.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        numbers.oldest_seconds.store(seconds.map_or(0, |since| since.as_secs()), Ordering::Relaxed);
    }

    fn fail(&mut self, kind: Kind, why: &str) {
        self.shared.numbers.upload.failed(kind);
        if !std::mem::replace(&mut self.complained, true) {
            let store = crate::objects::shown(&self.uri);
            tracing::error!(
                store,
                why,
                "files of the prediction log cannot be put into the object store: they stay here until they can"
            );
        }
    }
}

#[cfg(test)]
#[path = "upload/upload_tests.rs"]
mod tests;
