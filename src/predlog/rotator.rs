//! The thread behind the writer: has Parquet made of segments, puts in order what an earlier start left, removes what is too old, and
//! writes down the account.
//!
//! Invariant: Parquet is made aside, with what serving leaves of the processors, until so much waits that it cannot.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvError, Sender, select};
use serde_json::{Map, Value, json};

use super::{
    aside::{Aside, Done, Maker, Task, Worker},
    capture,
    compact::{self, Merge, background::Background},
    disk,
    inventory::Inventory,
    layout,
    reader::Log,
    retention,
    rotate::Rotated,
    store::Shared,
    upload::book::Book,
    writer::Sealed,
};
use crate::telemetry::predictions::{Cause, Reason};

/// Between two tries of a segment that could not be made Parquet.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two looks at what is too old, and two accounts.
const SWEEP: Duration = Duration::from_secs(60);
const ACCOUNT: Duration = Duration::from_secs(10);

/// Bytes of segments that may wait for what serving leaves of the processors, and of what there may be written ahead at all, the part.
const MAY_WAIT: u64 = 512 << 20;
const MAY_WAIT_PART: u64 = 4;

pub struct Rotator {
    shared: Arc<Shared>,
    segments: Receiver<Sealed>,
    waiting: Vec<Sealed>,
    maker: Arc<Maker>,
    aside: Aside,
    /// Rows in files, and those left out since their subject is erased, by model.
    rows: BTreeMap<String, (u64, u64)>,
    complained: bool,
    /// Tells the uploader, where there is one, that there are files.
    news: Sender<()>,
}

/// What happened.
#[derive(PartialEq, Eq)]
enum Heard {
    /// There is a segment to make files of, or somebody free to do it.
    Work,
    /// Nothing for a while; or small files have become one, so that there may be more of them.
    Rest,
    /// The writer has ended.
    End,
}

impl Rotator {
    /// With what the thread runs that works aside.
    pub fn new(
        shared: Arc<Shared>,
        segments: Receiver<Sealed>,
        news: Sender<()>,
    ) -> (Rotator, Worker) {
        let (root, options) = (shared.place.root.clone(), &shared.options.compact);
        let grace = i64::try_from(options.grace_seconds).unwrap_or(i64::MAX);
        let small = compact::Options {
            small_bytes: options.small_bytes,
            target_bytes: options.target_bytes,
            grace_us: grace.saturating_mul(1_000_000),
        };
        let place = &shared.place;
        let inventory = Inventory::of(&root, &format!("{}-{}", place.node, place.boot));
        let compaction = options.enabled.then(|| Background::new(root, small));
        let maker = Arc::new(Maker { shared: shared.clone(), inventory });
        let (aside, worker) = Aside::new(maker.clone(), compaction);
        let rotator = Rotator {
            shared,
            segments,
            waiting: Vec::new(),
            maker,
            aside,
            rows: BTreeMap::new(),
            complained: false,
            news,
        };
        (rotator, worker)
    }

    /// Works until the writer has ended and its last segment is done, or cannot be.
    pub fn run(mut self) {
        self.recover();
        let (mut swept, mut accounted, mut tried) =
            (None::<Instant>, Instant::now(), Instant::now());
        loop {
            let heard = self.hear();
            let closing = heard == Heard::End;
            if closing {
                self.hand_out(true);
                self.call_back();
            }
            if heard != Heard::Rest || tried.elapsed() >= AGAIN {
                tried = Instant::now();
                self.hand_out(closing);
            }
            // Not while files that may be too old are put together.
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) && !self.aside.compacts() {
                swept = Some(Instant::now());
                self.expire();
            }
            if heard == Heard::Rest && self.waiting.is_empty() {
                let _ = self.aside.offer(Task::Compact);
            }
            if closing || accounted.elapsed() >= ACCOUNT {
                accounted = Instant::now();
                self.account(closing);
            }
            if closing {
                self.leave();
                return;
            }
        }
    }

    fn hear(&mut self) -> Heard {
        select! {
            recv(self.segments) -> sealed => match sealed {
                Ok(sealed) => {
                    self.waiting.push(sealed);
                    Heard::Work
                }
                Err(_) => Heard::End,
            },
            recv(self.aside.done()) -> done => self.over(done),
            default(Duration::from_secs(1)) => Heard::Rest,
        }
    }

    /// Takes what came of something that was done aside.
    fn over(&mut self, done: Result<Done, RecvError>) -> Heard {
        match self.aside.take(done) {
            Some(Done::Rotated(sealed, rotated)) => match self.take(sealed, rotated) {
                true => Heard::Work,
                // In a while.
                false => Heard::Rest,
            },
            Some(Done::Compacted(Ok(Some(merge)))) => {
                self.compacted(&merge);
                Heard::Rest
            }
            Some(Done::Compacted(Ok(None))) | None => Heard::Work,
            Some(Done::Compacted(Err(error))) => {
                self.shared.numbers.failed_compactions.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "files of the prediction log are not put together: they stay as they are");
                Heard::Work
            }
        }
    }

    /// Waits until nothing is done aside any more.
    fn call_back(&mut self) {
        while self.aside.is_busy() {
            let done = self.aside.done().recv();
            self.over(done);
        }
    }

    /// Each segment that waits to whoever is free, or it is made Parquet here: at the end, where too much waits, and where nobody
    /// else is left to do it.
    fn hand_out(&mut self, closing: bool) {
        let most = MAY_WAIT.min(self.shared.options.wal_max_bytes / MAY_WAIT_PART);
        let mut waits: u64 = self.waiting.iter().map(|sealed| sealed.bytes).sum();
        for sealed in mem::take(&mut self.waiting) {
            if closing || waits > most || self.aside.is_gone() {
                waits -= sealed.bytes;
                let rotated = self.maker.make(&sealed);
                self.take(sealed, rotated);
            } else if let Some(Task::Rotate(sealed)) = self.aside.offer(Task::Rotate(sealed)) {
                self.waiting.push(sealed);
            }
        }
    }

    /// Takes what came of a segment: whether that was files.
    fn take(&mut self, sealed: Sealed, rotated: Result<Rotated, String>) -> bool {
        match rotated {
            Ok(rotated) => {
                self.done_with(&sealed.path, rotated.torn_bytes);
                self.shared.numbers.wal_bytes.fetch_sub(sealed.bytes, Ordering::Relaxed);
                self.count(&rotated);
                self.complained = false;
                true
            }
            Err(error) => {
                if !mem::replace(&mut self.complained, true) {
                    tracing::error!(
                        error,
                        "the prediction log's files cannot be written: rows stay in the write-ahead log until they can"
                    );
                }
                self.waiting.push(sealed);
                false
            }
        }
    }

    /// A segment of this very start has no torn end unless somebody else wrote in it, or the disk lost something: it stays, for
    /// whoever looks into that.
    fn done_with(&self, path: &Path, torn_bytes: u64) {
        if torn_bytes == 0 {
            return self.remove(path);
        }
        let kept = path.with_extension("torn");
        let shown = kept.display();
        tracing::error!(
            torn_bytes,
            "a segment of the prediction log does not read as it was written: what could not be read stays in {shown}"
        );
        if let Err(error) = self.shared.place.disk.rename(path, &kept) {
            tracing::error!(%error, path = %path.display(), "it cannot be renamed");
        }
    }

    fn remove(&self, path: &Path) {
        if let Err(error) = self.shared.place.disk.remove(path) {
            tracing::warn!(%error, path = %path.display(), "a segment of the prediction log that is Parquet already cannot be removed");
        }
    }

    fn count(&mut self, rotated: &Rotated) {
        let numbers = &self.shared.numbers;
        numbers.files.fetch_add(rotated.files.len() as u64, Ordering::Relaxed);
        numbers.file_rows.fetch_add(rotated.rows, Ordering::Relaxed);
        numbers.torn_bytes.fetch_add(rotated.torn_bytes, Ordering::Relaxed);
        numbers.erased_rows.fetch_add(rotated.erased, Ordering::Relaxed);
        if let Some(model) = &rotated.model {
            let (rows, erased) = self.rows.entry(model.clone()).or_default();
            (*rows, *erased) = (*rows + rotated.rows, *erased + rotated.erased);
        }
        // Full: it will look in any case. Nobody there: nothing goes up.
        let _ = self.news.try_send(());
    }

    /// Makes Parquet of what servers left that did not end well.
    fn recover(&mut self) {
        let own = self.shared.place.wal();
        let Ok(folders) = fs::read_dir(layout::wal(&self.shared.place.root)) else { return };
        for folder in folders.flatten().map(|entry| entry.path()).filter(|path| *path != own) {
            // Held by whoever still writes there.
            let Ok(lock) = File::open(folder.join("lock")) else {
                // Empty, where somebody was killed while removing it; else it stays.
                let _ = fs::remove_dir(folder);
                continue;
            };
            if lock.try_lock().is_err() {
                continue;
            }
            self.recover_one(&folder);
        }
    }

    fn recover_one(&mut self, folder: &Path) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((node, boot)) = name.rsplit_once('-') else { return };
        let mut segments = segments(folder);
        segments.sort();
        let (mut rows, mut torn, mut whole) = (0, 0, true);
        let any = !segments.is_empty();
        for (segment, path) in segments {
            match self.maker.make_of(&path, (node, boot, segment)) {
                Ok(rotated) => {
                    (rows, torn) = (rows + rotated.rows, torn + rotated.torn_bytes);
                    self.remove(&path);
                    let numbers = &self.shared.numbers;
                    numbers.recovered_rows.fetch_add(rotated.rows, Ordering::Relaxed);
                    self.count(&rotated);
                }
                Err(error) => {
                    whole = false;
                    tracing::error!(
                        error,
                        "what an earlier start wrote ahead cannot be made Parquet: the next start tries again"
                    );
                }
            }
        }
        if any {
            tracing::warn!(
                rows,
                torn_bytes = torn,
                from = name,
                "rows of a server that did not end well are in the prediction log now"
            );
        }
        if whole {
            // What else lies there is the lock, which we hold: whoever waits for it sees that it is gone, and makes another.
            let _ = fs::remove_file(folder.join("lock")).and_then(|()| fs::remove_dir(folder));
        }
    }

    fn expire(&self) {
        let (root, upload) = (&self.shared.place.root, &self.shared.options.upload);
        let log = Log { root: root.clone() };
        let books: Vec<Book> =
            upload.is_on().then(|| Book::of(root, &upload.uri)).into_iter().collect();
        for model in self.shared.models() {
            let policy = *model.retention.lock();
            let files = match retention::files(&log, &model.name, &books) {
                Ok(files) => files,
                Err(error) => {
                    tracing::warn!(%error, "the files of the prediction log cannot be listed, to remove what is too old");
                    continue;
                }
            };
            let mut gone: BTreeMap<Cause, (u64, u64)> = BTreeMap::new();
            for (file, cause) in retention::expired(&files, capture::wall().wall_us, policy) {
                match retention::remove(root, file, &self.maker.inventory) {
                    Ok(()) => {
                        let sum = gone.entry(cause).or_default();
                        *sum = (sum.0 + 1, sum.1 + file.bytes);
                    }
                    Err(error) => {
                        tracing::warn!(%error, path = %file.path.display(), "a file of the prediction log that is too old cannot be removed");
                    }
                }
            }
            for (cause, (files, bytes)) in gone {
                let model = &*model.name;
                self.shared.numbers.expired_files[cause as usize]
                    .fetch_add(files, Ordering::Relaxed);
                match cause {
                    Cause::NotUp => tracing::warn!(
                        model,
                        files,
                        bytes,
                        "retention removed files of the prediction log that are not in the object store: max_bytes leaves no room for them"
                    ),
                    Cause::Age | Cause::Size => {
                        let cause = cause.label();
                        tracing::info!(
                            model,
                            files,
                            bytes,
                            cause,
                            "retention removed files of the prediction log"
                        );
                    }
                }
            }
        }
    }

    fn compacted(&self, merge: &Merge) {
        let numbers = &self.shared.numbers;
        numbers.compactions.fetch_add(1, Ordering::Relaxed);
        numbers.compacted_files.fetch_add(merge.inputs.len() as u64, Ordering::Relaxed);
        let _ = self.news.try_send(());
    }

    /// Writes down what has become of all rows since the start.
    fn account(&self, closed: bool) {
        let models = self.shared.models();
        if models.iter().all(|model| model.ring.account().received == 0) {
            return;
        }
        let mut accounts = Map::new();
        for model in models {
            let account = model.ring.account();
            let dropped: Map<String, Value> = Reason::ALL
                .iter()
                .map(|reason| (reason.label().to_owned(), account.dropped[*reason as usize].into()))
                .collect();
            let (rows, erased) = self.rows.get(&*model.name).copied().unwrap_or_default();
            let own = json!({
                "received": account.received,
                "written": account.written,
                "dropped": dropped,
                "in_flight": account.in_flight,
                "in_files": rows,
                "erased": erased,
            });
            accounts.insert(model.name.to_string(), own);
        }
        let place = &self.shared.place;
        let manifest = json!({
            // From 2 on every file is listed beside it.
            "format": 2,
            "node": &*place.node,
            "boot": &*place.boot,
            "closed": closed,
            "at_us": capture::wall().wall_us,
            "models": accounts,
        });
        let path =
            layout::manifests(&place.root).join(format!("{}-{}.json", place.node, place.boot));
        // Where this fails, so does all else, and that is told.
        let _ = disk::replace(&*place.disk, &path, manifest.to_string().as_bytes());
    }

    fn leave(&self) {
        // Where the thread aside has ended, the segment that it had is still there, for the next start.
        if self.waiting.is_empty() && !self.aside.is_gone() {
            let own = self.shared.place.wal();
            let _ = fs::remove_file(own.join("lock")).and_then(|()| fs::remove_dir(own));
        }
    }
}

/// The segments in a directory, by their numbers.
fn segments(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let numbered = |path: PathBuf| {
        let wal = path.extension().is_some_and(|extension| extension == "wal");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        number.filter(|_| wal).map(|number| (number, path))
    };
    entries.flatten().filter_map(|entry| numbered(entry.path())).collect()
}
