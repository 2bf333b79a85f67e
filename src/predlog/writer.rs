//! The thread that takes rows out of the rings, makes columns of them and writes those ahead; in `durable` mode, answers wait for
//! its syncs, of which one serves all that came meanwhile.

use std::{
    collections::HashMap,
    fs::File,
    mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use super::{
    blobs::keep::Keeper,
    capture,
    disk::DiskFile,
    encode::{Ids, encode},
    large::Larges,
    record::{Lost, Record},
    store::{ModelLog, Shared},
    subject::Subject,
    wal,
};
use crate::telemetry::predictions::Reason;

/// Bytes of records that make one frame at most.
const FRAME_BYTES: usize = 8 << 20;

/// A segment that nobody writes any more.
pub struct Sealed {
    pub path: PathBuf,
    pub number: u64,
    pub bytes: u64,
}

/// A segment that is being written: the rows of one version.
struct Open {
    subject: Arc<Subject>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    number: u64,
    bytes: u64,
    synced: u64,
    since: Instant,
}

/// Rows that are written and wait to be synced.
struct Commit {
    model: Arc<ModelLog>,
    segment: usize,
    rows: u64,
    bytes: usize,
    waiters: Vec<Waiter>,
}

pub struct Writer {
    shared: Arc<Shared>,
    sealed: Sender<Sealed>,
    /// By the subject's place in memory, which its `Arc` here keeps.
    open: HashMap<usize, Open>,
    commits: Vec<Commit>,
    ids: Ids,
    blobs: Keeper,
    next: u64,
    synced: Instant,
    /// Held for as long as this runs, so that nobody takes our segments for left behind.
    lock: Option<File>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, sealed: Sender<Sealed>) -> Writer {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let seed = seed as u64 ^ (u64::from(std::process::id()) << 40);
        Writer {
            shared,
            sealed,
            open: HashMap::new(),
            commits: Vec::new(),
            ids: Ids::new(seed),
            blobs: Keeper::default(),
            next: 0,
            synced: Instant::now(),
            lock: None,
        }
    }

    /// Writes until the log is closed and everything is written.
    pub fn run(mut self) {
        let mut taken = Vec::new();
        loop {
            let closing = self.shared.is_closing();
            let models = self.shared.models();
            for model in &models {
                model.ring.take(&mut taken);
                self.write_all(model, &mut taken);
            }
            self.commit();
            self.keep();
            if closing && models.iter().all(|model| model.ring.account().in_flight == 0) {
                break;
            }
            let patience = match models.is_empty() {
                true => Duration::from_secs(3600),
                false => Duration::from_millis(self.shared.options.flush_ms),
            };
            if !self.shared.is_closing() {
                thread::park_timeout(patience);
            }
        }
        for (_, open) in mem::take(&mut self.open) {
            self.seal(open);
        }
    }

    /// Writes records of one model, those of each version together.
    fn write_all(&mut self, model: &Arc<ModelLog>, records: &mut Vec<Record>) {
        let place = |record: &Record| Arc::as_ptr(&record.subject) as usize;
        if !records.is_sorted_by_key(place) {
            records.sort_by_key(place);
        }
        let mut from = 0;
        while let Some(first) = records.get(from) {
            let (subject, mut bytes, mut to) = (place(first), 0, from);
            while let Some(record) = records.get(to)
                && place(record) == subject
                && (to == from || bytes + record.charge <= FRAME_BYTES)
            {
                bytes += record.charge;
                to += 1;
            }
            if let Some(records) = records.get_mut(from..to) {
                self.write(model, records, bytes);
            }
            from = to;
        }
        records.clear();
    }

    fn write(&mut self, model: &Arc<ModelLog>, records: &mut [Record], bytes: usize) {
        let rows = records.iter().map(|record| record.rows as u64).sum();
        let waiters: Vec<_> =
            records.iter_mut().filter_map(|record| record.waiter.take()).collect();
        match self.append(records) {
            Ok(_) if waiters.is_empty() => model.ring.wrote(rows, bytes),
            Ok(segment) => {
                let model = model.clone();
                self.commits.push(Commit { model, segment, rows, bytes, waiters });
            }
            Err(reason) => {
                model.ring.lost(rows, bytes, reason);
                notify(waiters, Err(Lost));
            }
        }
    }

    /// Puts records of one version behind its segment, and says which that is.
    fn append(&mut self, records: &[Record]) -> Result<usize, Reason> {
        let Some(first) = records.first() else { return Err(Reason::Encoding) };
        if self.shared.numbers.wal_bytes.load(Ordering::Relaxed) > self.shared.options.wal_max_bytes
        {
            return Err(Reason::WalFull);
        }
        let anchor = capture::wall();
        let key = Arc::as_ptr(&first.subject) as usize;
        let begins = !self.open.contains_key(&key);
        let footer = begins.then(|| first.subject.footer.text());
        let larges = Larges::of(records, anchor);
        self.keep_blobs(&larges).map_err(|error| self.unwritable(&error))?;
        let frame = encode(records, &larges, &mut self.ids, anchor)
            .and_then(|batch| wal::frame(&batch, footer.as_deref()));
        let frame = frame.map_err(|error| {
            let model = &*first.subject.model;
            tracing::error!(model, error, "rows of the prediction log cannot be written");
            Reason::Encoding
        })?;
        if begins {
            let open = self.begin(&first.subject).map_err(|error| self.unwritable(&error))?;
            self.open.insert(key, open);
        }
        let Some(open) = self.open.get_mut(&key) else { return Err(Reason::Disk) };
        if let Err(error) = open.file.write_all(&frame) {
            self.cut_back(key, false);
            return Err(self.unwritable(&error));
        }
        open.bytes += frame.len() as u64;
        self.shared.numbers.wal_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        if self.shared.numbers.unwritable.swap(false, Ordering::Relaxed) {
            tracing::info!("the prediction log is written again");
        }
        Ok(key)
    }

    fn keep_blobs(&mut self, larges: &Larges<'_>) -> std::io::Result<()> {
        let (blobs, bytes) = self.blobs.keep(&self.shared.place, larges)?;
        self.shared.numbers.blobs.fetch_add(blobs, Ordering::Relaxed);
        self.shared.numbers.blob_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A new segment.
    fn begin(&mut self, subject: &Arc<Subject>) -> std::io::Result<Open> {
        let place = &self.shared.place;
        if self.lock.is_none() {
            self.lock = Some(locked(&place.wal())?);
        }
        let number = self.next;
        let path = place.segment(number);
        let file = place.disk.create(&path)?;
        self.next += 1;
        let wal = place.wal();
        for folder in [Some(&*wal), wal.parent(), Some(&*place.root)].into_iter().flatten() {
            place.disk.sync_dir(folder)?;
        }
        let (subject, since) = (subject.clone(), Instant::now());
        Ok(Open { subject, file, path, number, bytes: 0, synced: 0, since })
    }

    /// After a write or sync that failed: what stands behind the last good byte goes; where it does not, nothing follows it.
    fn cut_back(&mut self, key: usize, to_synced: bool) {
        let Some(open) = self.open.get_mut(&key) else { return };
        let good = if to_synced { open.synced } else { open.bytes };
        let lost = open.bytes - good;
        if open.file.truncate(good).is_ok() && good > 0 {
            open.bytes = good;
            self.shared.numbers.wal_bytes.fetch_sub(lost, Ordering::Relaxed);
        } else if let Some(open) = self.open.remove(&key) {
            self.seal(open);
        }
    }

    fn unwritable(&self, error: &std::io::Error) -> Reason {
        if !self.shared.numbers.unwritable.swap(true, Ordering::Relaxed) {
            let place = self.shared.place.root.display();
            tracing::error!(%error, "the prediction log cannot be written to {place}: rows are dropped and counted until it can");
        }
        Reason::Disk
    }

    /// Syncs what answers wait for, and lets them go.
    fn commit(&mut self) {
        let commits = mem::take(&mut self.commits);
        let mut outcomes: HashMap<usize, bool> = HashMap::new();
        for commit in commits {
            let synced = match outcomes.get(&commit.segment) {
                Some(outcome) => *outcome,
                None => self.sync(commit.segment),
            };
            outcomes.insert(commit.segment, synced);
            let outcome = match synced {
                true => {
                    commit.model.ring.wrote(commit.rows, commit.bytes);
                    Ok(())
                }
                false => {
                    commit.model.ring.lost(commit.rows, commit.bytes, Reason::Disk);
                    Err(Lost)
                }
            };
            notify(commit.waiters, outcome);
        }
    }

    fn sync(&mut self, key: usize) -> bool {
        let Some(open) = self.open.get_mut(&key) else { return false };
        // What rows refer to, before them.
        match self.blobs.sync(&*self.shared.place.disk).and_then(|()| open.file.sync()) {
            Ok(()) => {
                open.synced = open.bytes;
                true
            }
            Err(error) => {
                self.unwritable(&error);
                self.cut_back(key, true);
                false
            }
        }
    }

    /// What time asks for: syncs, and segments that are large or old enough.
    fn keep(&mut self) {
        let options = &self.shared.options;
        let (most, oldest) = (options.rotate_bytes, Duration::from_secs(options.rotate_seconds));
        let due = self.synced.elapsed() >= Duration::from_millis(options.fsync_ms);
        let keys: Vec<usize> = self.open.keys().copied().collect();
        for key in keys {
            let Some(open) = self.open.get_mut(&key) else { continue };
            if due && open.synced < open.bytes {
                let blobs = self.blobs.sync(&*self.shared.place.disk);
                match blobs.and_then(|()| open.file.sync()) {
                    Ok(()) => open.synced = open.bytes,
                    Err(error) => {
                        // What was written is counted as written; what the disk has of it, the rotator finds.
                        self.unwritable(&error);
                        if let Some(open) = self.open.remove(&key) {
                            self.seal(open);
                        }
                        continue;
                    }
                }
            }
            let Some(open) = self.open.get(&key) else { continue };
            let abandoned = Arc::strong_count(&open.subject) == 1;
            let full = open.bytes >= most || open.since.elapsed() >= oldest || abandoned;
            if full
                && !self.sealed.is_full()
                && let Some(open) = self.open.remove(&key)
            {
                self.seal(open);
            }
        }
        if due {
            self.synced = Instant::now();
        }
    }

    fn seal(&mut self, mut open: Open) {
        let blobs = self.blobs.sync(&*self.shared.place.disk);
        if let Err(error) = blobs.and_then(|()| open.file.sync()) {
            self.unwritable(&error);
        }
        let Open { path, number, bytes, .. } = open;
        // Gone: only where the rotator has ended, and then the next start does it.
        let _ = self.sealed.send(Sealed { path, number, bytes });
    }
}

/// How often a lock is tried for: whoever looks for what was left may hold it for a moment, or remove it.
const LOCK_TRIES: usize = 20;

/// Makes a directory of ours, and its lock, which stays ours for as long as the result lives.
fn locked(folder: &Path) -> std::io::Result<File> {
    let mut last = std::io::Error::from(std::io::ErrorKind::WouldBlock);
    for _ in 0..LOCK_TRIES {
        match try_to_lock(folder) {
            Ok(lock) => return Ok(lock),
            Err(error) => last = error,
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(last)
}

fn try_to_lock(folder: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("lock");
    let lock = File::create(&path)?;
    lock.try_lock().map_err(std::io::Error::from)?;
    // Not one that was removed between the two.
    match lock.metadata()?.ino() == std::fs::metadata(&path)?.ino() {
        true => Ok(lock),
        false => Err(std::io::Error::from(std::io::ErrorKind::WouldBlock)),
    }
}

type Waiter = oneshot::Sender<Result<(), Lost>>;

/// Lets answers go. Who has left meanwhile is not told.
fn notify(waiters: Vec<Waiter>, outcome: Result<(), Lost>) {
    for waiter in waiters {
        let _ = waiter.send(outcome);
    }
}
