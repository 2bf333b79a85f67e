//! The log of this process: which models have one, where it lies, and the threads that write it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use super::{
    capture::VersionLog,
    disk::{self, Disk, Real},
    labels::{
        folder::{Files, Folder},
        intake::{Counts, Intake},
    },
    layout,
    options::{LogOptions, Retention, StoreOptions},
    redact::Key,
    ring::{Memory, Ring},
    rotate::Place,
    rotator::Rotator,
    sampling,
    subject::{Parts, Subject},
    upload::Uploader,
    writer::Writer,
};
use crate::{
    telemetry::{
        predictions::{
            Cause, CompactionReading, ModelReading, Reading, UploadFailure, UploadReading,
        },
        registry::registry,
    },
    types::model::Signature,
};

/// Segments that wait to become Parquet.
const SEALED: usize = 4096;

/// The log of one model, whichever version.
pub struct ModelLog {
    pub name: Arc<str>,
    pub ring: Ring,
    pub retention: Mutex<Retention>,
}

/// What the request path, the writer and the rotator share.
pub struct Shared {
    pub options: StoreOptions,
    pub place: Place,
    memory: Arc<Memory>,
    key: Option<Key>,
    models: Mutex<BTreeMap<Arc<str>, Arc<ModelLog>>>,
    closing: AtomicBool,
    writer: OnceLock<Thread>,
    pub numbers: Numbers,
}

/// What is counted of the log as a whole.
#[derive(Default)]
pub struct Numbers {
    pub wal_bytes: AtomicU64,
    pub unwritable: AtomicBool,
    pub files: AtomicU64,
    pub file_rows: AtomicU64,
    pub recovered_rows: AtomicU64,
    pub torn_bytes: AtomicU64,
    /// Blobs that were written, and their bytes.
    pub blobs: AtomicU64,
    pub blob_bytes: AtomicU64,
    /// By `Cause as usize`.
    pub expired_files: [AtomicU64; Cause::ALL.len()],
    pub erased_rows: AtomicU64,
    pub labels: Counts,
    pub label_files: Files,
    pub upload: UploadNumbers,
    pub compactions: AtomicU64,
    pub compacted_files: AtomicU64,
    pub failed_compactions: AtomicU64,
}

/// What is counted of the files that go to an object store.
#[derive(Default)]
pub struct UploadNumbers {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    /// Objects that had to go.
    pub removed: AtomicU64,
    /// Files, and objects, that something is to be done about.
    pub waiting: AtomicU64,
    /// Since when the first of them waits, in seconds since 1970; 0 where none does.
    pub oldest_seconds: AtomicU64,
    failures: [AtomicU64; UploadFailure::ALL.len()],
}

impl UploadNumbers {
    pub fn failed(&self, kind: UploadFailure) {
        self.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn failures_of(&self, kind: UploadFailure) -> u64 {
        self.failures[kind as usize].load(Ordering::Relaxed)
    }

    fn reading(&self) -> UploadReading {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let lag = match count(&self.oldest_seconds) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        UploadReading {
            files: count(&self.files),
            bytes: count(&self.bytes),
            removed: count(&self.removed),
            waiting: count(&self.waiting),
            lag_seconds: lag,
            failures: self.failures.each_ref().map(count),
        }
    }
}

impl Shared {
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Has the writer come at once.
    pub fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// The models that have a log.
    pub fn models(&self) -> Vec<Arc<ModelLog>> {
        self.models.lock().values().cloned().collect()
    }

    /// Whether there are predictions of this model, or going to be.
    pub fn keeps(&self, model: &str) -> bool {
        self.models.lock().contains_key(model) || layout::versions(&self.place.root, model).is_dir()
    }

    fn reading(&self) -> Reading {
        let numbers = &self.numbers;
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let models = self.models().into_iter().map(|model| ModelReading {
            model: model.name.to_string(),
            account: model.ring.account(),
            queue_bytes: model.ring.bytes() as u64,
        });
        Reading {
            models: models.collect(),
            wal_bytes: count(&numbers.wal_bytes),
            writable: !numbers.unwritable.load(Ordering::Relaxed),
            files: count(&numbers.files),
            file_rows: count(&numbers.file_rows),
            recovered_rows: count(&numbers.recovered_rows),
            torn_bytes: count(&numbers.torn_bytes),
            blobs: count(&numbers.blobs),
            blob_bytes: count(&numbers.blob_bytes),
            expired_files: numbers.expired_files.each_ref().map(count),
            compaction: self.options.compact.enabled.then(|| CompactionReading {
                done: count(&numbers.compactions),
                failed: count(&numbers.failed_compactions),
                files: count(&numbers.compacted_files),
            }),
            upload: self.options.upload.is_on().then(|| numbers.upload.reading()),
            erased_rows: count(&numbers.erased_rows),
            labels: numbers.labels.read(),
            label_files: numbers.label_files.read(),
        }
    }
}

/// The log of this process.
pub struct Logs {
    shared: Arc<Shared>,
    /// Versions have a log whether or not it is on: for who only looks.
    always: bool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Ends with them, or is left: the next start goes on.
    uploader: Mutex<Option<JoinHandle<()>>>,
}

/// A version whose predictions may be logged.
pub struct Subjected<'a> {
    pub model: &'a Arc<str>,
    pub version: &'a Arc<str>,
    pub digest: &'a str,
    pub signature: &'a Arc<Signature>,
    /// The model's `metadata_props`.
    pub metadata: &'a BTreeMap<String, String>,
    pub device: String,
    /// The profile of the rows that it was made of, if it came with one.
    pub reference: Option<Vec<u8>>,
}

impl Logs {
    /// Starts the threads. Nothing is made on the disk before the first row; what an earlier start left is put in order.
    ///
    /// # Errors
    /// The key cannot be read, or a thread does not start.
    pub fn start(options: &StoreOptions) -> Result<Logs, String> {
        Logs::start_on(options, Arc::new(Real))
    }

    pub(super) fn start_on(options: &StoreOptions, disk: Arc<dyn Disk>) -> Result<Logs, String> {
        let logs = Logs::idle_on(options, disk)?;
        let (sealed, segments) = bounded(SEALED);
        let writer = Writer::new(logs.shared.clone(), sealed);
        let upload = &options.upload;
        let uploader = match upload.is_on() {
            true => Some(Uploader::new(logs.shared.clone(), upload)?),
            false => None,
        };
        // One word is enough: whoever hears it looks at everything.
        let (tell, news) = bounded(1);
        let (rotator, aside) = Rotator::new(logs.shared.clone(), segments, tell);
        let failed = |error| format!("a thread of the prediction log does not start: {error}");
        let write = thread::Builder::new().name("onnxd-predlog".into()).spawn(|| writer.run());
        let write = write.map_err(failed)?;
        let _ = logs.shared.writer.set(write.thread().clone());
        let rotate = thread::Builder::new().name("onnxd-rotate".into()).spawn(|| rotator.run());
        let aside = thread::Builder::new().name("onnxd-aside".into()).spawn(|| aside.run());
        logs.threads.lock().extend([write, rotate.map_err(failed)?, aside.map_err(failed)?]);
        if !options.labels_folder.as_os_str().is_empty() {
            let folder = Folder::new(logs.shared.clone());
            let look = thread::Builder::new().name("onnxd-labels".into()).spawn(|| folder.run());
            logs.threads.lock().push(look.map_err(failed)?);
        }
        if let Some(uploader) = uploader {
            let run = move || uploader.run(&news);
            let upload = thread::Builder::new().name("onnxd-upload".into()).spawn(run);
            *logs.uploader.lock() = Some(upload.map_err(failed)?);
        }
        let shared = Arc::downgrade(&logs.shared);
        registry().set_predictions(move || shared.upgrade().map(|shared| shared.reading()));
        Ok(logs)
    }

    /// What the threads share, without the threads.
    #[cfg(test)]
    pub(super) fn idle_for_tests(options: &StoreOptions) -> Arc<Shared> {
        Logs::idle_on(options, Arc::new(Real)).expect("options that hold").shared.clone()
    }

    /// For who opens models without serving them: options are checked, and nothing is written.
    ///
    /// # Errors
    /// The key cannot be read.
    pub fn idle(options: &StoreOptions) -> Result<Logs, String> {
        let mut logs = Logs::idle_on(options, Arc::new(Real))?;
        logs.always = true;
        Ok(logs)
    }

    fn idle_on(options: &StoreOptions, disk: Arc<dyn Disk>) -> Result<Logs, String> {
        options.check().map_err(|error| format!("prediction_log.{error}"))?;
        let node = match options.node.as_str() {
            "" => host(),
            node => node.to_owned(),
        };
        let place =
            Place { disk, root: options.dir.clone(), node: node.into(), boot: boot().into() };
        let shared = Arc::new(Shared {
            options: options.clone(),
            place,
            memory: Memory::new(options.memory_bytes),
            key: key(&options.key_file)?,
            models: Mutex::default(),
            closing: AtomicBool::new(false),
            writer: OnceLock::new(),
            numbers: Numbers::default(),
        });
        let (threads, uploader) = (Mutex::default(), Mutex::default());
        Ok(Logs { shared, always: false, threads, uploader })
    }

    /// The log of a version; `None` where its options say so.
    ///
    /// # Errors
    /// The options do not fit the model.
    pub fn attach(
        &self,
        subjected: Subjected<'_>,
        options: &LogOptions,
    ) -> Result<Option<Arc<VersionLog>>, String> {
        if !options.enabled && !self.always {
            return Ok(None);
        }
        let subject = match self.subject(&subjected, options) {
            Ok(subject) => subject,
            // Looked at, and not to be logged: no reason not to load.
            Err(_) if !options.enabled => return Ok(None),
            Err(error) => return Err(format!("log.{error}")),
        };
        let model = {
            let mut models = self.shared.models.lock();
            let new = || {
                let memory = self.shared.memory.clone();
                Arc::new(ModelLog {
                    name: subjected.model.clone(),
                    ring: Ring::new(options.ring_bytes, memory),
                    retention: Mutex::default(),
                })
            };
            models.entry(subjected.model.clone()).or_insert_with(new).clone()
        };
        model.ring.set_most(options.ring_bytes);
        *model.retention.lock() = options.retention;
        self.keep_reference(&subjected);
        // It had nothing to wait for.
        self.shared.wake();
        let most = sampling::most(&options.sampling);
        let looks = sampling::looks_at_answers(&options.sampling);
        let samples = options.sampling.rate < 1.0 || looks;
        let (subject, shared) = (Arc::new(subject), self.shared.clone());
        Ok(Some(Arc::new(VersionLog { subject, model, shared, most, samples, looks })))
    }

    /// Keeps the reference that came with a version beside the log, where whoever makes files of its rows finds it, after a restart too.
    fn keep_reference(&self, subjected: &Subjected<'_>) {
        let Some(reference) = &subjected.reference else { return };
        if self.always || !self.shared.options.profile.enabled {
            return;
        }
        let to = layout::reference(&self.shared.place.root, subjected.digest);
        let kept = match fs::read(&to) {
            Ok(there) if there == *reference => Ok(()),
            _ => disk::replace(&*self.shared.place.disk, &to, reference),
        };
        if let Err(error) = kept {
            let model = &**subjected.model;
            tracing::warn!(model, %error, "a reference of the prediction log cannot be kept: its bins are not counted");
        }
    }

    /// What the log of a version would hold, whether or not it is on.
    ///
    /// # Errors
    /// The options do not fit the model.
    pub fn subject(
        &self,
        subjected: &Subjected<'_>,
        options: &LogOptions,
    ) -> Result<Subject, String> {
        Subject::new(Parts {
            model: subjected.model,
            version: subjected.version,
            digest: subjected.digest,
            signature: subjected.signature,
            metadata: subjected.metadata,
            options,
            device: subjected.device.clone(),
            node: self.shared.place.node.clone(),
            key: self.shared.key.clone(),
        })
    }

    /// Where labels of logged predictions are taken in.
    pub fn intake(&self) -> Intake {
        Intake::new(self.shared.clone())
    }

    /// Writes what waits, makes Parquet of it and ends the threads; false where that takes longer than `limit`: then the next
    /// start does the rest.
    pub fn close(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // Whoever has nothing to do sleeps.
            thread.thread().unpark();
            while !thread.is_finished() {
                if Instant::now() >= until {
                    return false;
                }
                thread::sleep(Duration::from_millis(2));
            }
            if thread.join().is_err() {
                return false;
            }
        }
        let uploader = self.uploader.lock().take();
        while uploader.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= until {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // Threads end by themselves; nobody waits for them here.
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// The key in a file; `None` where none is named.
fn key(path: &Path) -> Result<Option<Key>, String> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let shown = path.display();
    let secret = fs::read(path)
        .map_err(|error| format!("prediction_log.key_file: {shown}: cannot be read: {error}"))?;
    let secret = secret.trim_ascii();
    let key = Key::new(secret).ok_or_else(|| {
        let got = secret.len();
        format!("prediction_log.key_file: {shown}: expected at least 16 bytes, got {got}")
    })?;
    Ok(Some(key))
}

/// This start of the server: by its time and process, so that no two on one node are alike.
fn boot() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{millis:x}{:05x}", std::process::id() & 0xf_ffff)
}

/// The host's name, as far as it can stand in a file's.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = name.trim().chars().take(64).map(plain).collect();
    match name.trim_matches(['.', '-']) {
        "" => "node".into(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
