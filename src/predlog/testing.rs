//! What the tests of this room share: a model, its records, and a disk that forgets what was not synced.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    disk::{Disk, DiskFile, Real},
    options::{LogOptions, StoreOptions},
    record::{CacheUse, Fields, Record, Route, Texts},
    subject::{Parts, Subject},
};
use crate::{
    telemetry::stats::Spans,
    types::{
        datatype::Datatype,
        model::{Dim, Signature, TensorSpec},
        tensor::{Dims, Tensor},
        time::Tick,
    },
};

pub fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
    let dims = dims.iter().map(|&n| if n < 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(n) });
    let dims = Some(dims.collect());
    TensorSpec { name: name.into(), datatype, dims, optional: false, labels: None }
}

/// `x` of three floats a row to `label` and `probabilities`.
pub fn classifier() -> Arc<Signature> {
    let inputs = vec![spec("x", Datatype::Fp32, &[-1, 3])];
    let outputs = vec![
        spec("label", Datatype::Int64, &[-1]),
        spec("probabilities", Datatype::Fp32, &[-1, 2]),
    ];
    Arc::new(Signature { can_batch: Signature::batchable(&inputs, &outputs), inputs, outputs })
}

pub fn subject(signature: &Arc<Signature>, options: &LogOptions) -> Arc<Subject> {
    let subject = Subject::new(Parts {
        model: &"m".into(),
        version: &"1".into(),
        digest: "d",
        signature,
        metadata: &Default::default(),
        options,
        device: "cpu".into(),
        node: "n".into(),
        key: super::redact::Key::new(b"0123456789abcdef"),
    });
    Arc::new(subject.expect("a subject"))
}

pub fn tensor(datatype: Datatype, dims: &[i64], data: Vec<u8>) -> Tensor {
    Tensor { datatype, dims: Dims::from_slice(dims), data: data.into() }
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A record without tensors.
pub fn bare(subject: &Arc<Subject>, id: &str, rows: usize) -> Record {
    let signature = &subject.signature;
    let mut record = Record::from(Fields {
        subject: subject.clone(),
        received: Tick(1_000_000),
        code: None,
        spans: Spans::default(),
        batch: Some((4, 7)),
        cache: CacheUse::Bypass,
        route: Route::default(),
        protocol: "http",
        rows,
        sample_p: 1.0,
        texts: Texts { request_id: id.into(), ..Texts::default() },
        tensors: (0..signature.inputs.len() + signature.outputs.len()).map(|_| None).collect(),
        data: Vec::new(),
        waiter: None,
        charge: 0,
    });
    record.charge = record.weight();
    record
}

/// A record of the classifier, whose first feature is `n`.
pub fn classified(subject: &Arc<Subject>, n: f32) -> Record {
    let mut record = bare(subject, &format!("r{n}"), 1);
    record.hold(0, &tensor(Datatype::Fp32, &[1, 3], floats(&[n, n + 0.5, f32::NAN])));
    record.hold(1, &tensor(Datatype::Int64, &[1], (n as i64).to_le_bytes().to_vec()));
    record.hold(2, &tensor(Datatype::Fp32, &[1, 2], floats(&[0.25, 0.75])));
    record.charge = record.weight();
    record
}

pub fn store(dir: &Path) -> StoreOptions {
    StoreOptions {
        dir: dir.join("predictions"),
        node: "n".into(),
        flush_ms: 2,
        fsync_ms: 10,
        ..StoreOptions::default()
    }
}

/// What a thread comes to that does something with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    Hang,
    Panic,
}

/// The real disk, but that it can refuse, hang, and lose at once all that was not synced, as a power cut does.
#[derive(Clone, Default)]
pub struct Frail(Arc<State>);

#[derive(Default)]
struct State {
    refuses: AtomicBool,
    hangs: AtomicBool,
    /// For one thread, by its name.
    trap: Mutex<Option<(&'static str, Trap)>>,
    /// Bytes of each file that are synced.
    synced: Mutex<HashMap<PathBuf, u64>>,
    /// Files whose names are not.
    unnamed: Mutex<HashMap<PathBuf, Option<PathBuf>>>,
    /// Directories that were synced, in that order.
    folders: Mutex<Vec<PathBuf>>,
    /// Names that files were given while they were open, by those that they were made with.
    renamed: Mutex<HashMap<PathBuf, PathBuf>>,
}

impl Frail {
    pub fn refuse(&self, refuses: bool) {
        self.0.refuses.store(refuses, Ordering::SeqCst);
    }

    pub fn hang(&self, hangs: bool) {
        self.0.hangs.store(hangs, Ordering::SeqCst);
    }

    pub fn trap(&self, trap: Option<(&'static str, Trap)>) {
        *self.0.trap.lock() = trap;
    }

    fn trapped(&self) -> bool {
        let trap = *self.0.trap.lock();
        let own = trap.filter(|(name, _)| thread::current().name() == Some(name));
        assert_ne!(own.map(|(_, trap)| trap), Some(Trap::Panic), "as the test wants it");
        own.is_some()
    }

    /// What a power cut leaves: of every file what was synced, and no name that was not.
    pub fn cut(&self) {
        for (path, synced) in self.0.synced.lock().iter() {
            if let Ok(file) = OpenOptions::new().write(true).open(path)
                && file.metadata().is_ok_and(|data| data.len() > *synced)
            {
                file.set_len(*synced).expect("cut");
            }
        }
        for (path, before) in self.0.unnamed.lock().drain() {
            match before {
                Some(before) => fs::rename(&path, before).expect("renamed back"),
                None => drop(fs::remove_file(&path)),
            }
        }
    }

    /// Whether every directory above a file, up to `root`, was synced after its own was for the first time.
    pub fn holds(&self, root: &Path, file: &Path) -> bool {
        let folders = self.0.folders.lock();
        let first = folders.iter().position(|dir| file.parent() == Some(dir));
        let since = first.and_then(|first| folders.get(first..)).unwrap_or_default();
        let above = file.ancestors().skip(1).take_while(|dir| dir.starts_with(root));
        above.into_iter().all(|dir| since.iter().any(|synced| synced == dir))
    }

    fn check(&self) -> io::Result<()> {
        while self.0.hangs.load(Ordering::SeqCst) || self.trapped() {
            thread::sleep(Duration::from_millis(1));
        }
        match self.0.refuses.load(Ordering::SeqCst) {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        }
    }
}

impl Disk for Frail {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.check()?;
        fs::create_dir_all(path.parent().expect("a parent"))?;
        let file = File::create(path)?;
        self.0.synced.lock().insert(path.into(), 0);
        self.0.unnamed.lock().insert(path.into(), None);
        self.0.renamed.lock().remove(path);
        Ok(Box::new(FrailFile { file, path: path.into(), frail: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        Real.rename(from, to)?;
        let mut synced = self.0.synced.lock();
        let length = synced.remove(from).unwrap_or(0);
        synced.insert(to.into(), length);
        self.0.renamed.lock().insert(from.into(), to.into());
        let mut unnamed = self.0.unnamed.lock();
        unnamed.remove(from);
        unnamed.insert(to.into(), Some(from.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        self.0.folders.lock().push(path.into());
        self.0.unnamed.lock().retain(|file, _| file.parent() != Some(path));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        Real.remove(path)
    }
}

struct FrailFile {
    file: File,
    path: PathBuf,
    frail: Frail,
}

impl Write for FrailFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frail.check()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DiskFile for FrailFile {
    fn sync(&mut self) -> io::Result<()> {
        self.frail.check()?;
        let length = self.file.metadata()?.len();
        let renamed = self.frail.0.renamed.lock().get(&self.path).cloned();
        let path = renamed.unwrap_or_else(|| self.path.clone());
        self.frail.0.synced.lock().insert(path, length);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        DiskFile::truncate(&mut self.file, length)
    }
}
