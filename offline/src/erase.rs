//! Erasure: rows and labels about one subject are written out of the files, and a ledger keeps later ones out.

pub mod folder;
pub mod wal;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use arrow_array::{BooleanArray, RecordBatch, StringArray};
use arrow_select::filter::filter_record_batch;
use onnxd::predlog::{
    blobs,
    compact::{Lock, journal, sync_dir},
    digest,
    erased::{DIR, Ledger, alone},
    export::properties,
    inventory::{self, By, Inventory, There},
    labels::{staging, store::Store},
    layout::{self, LOG_DIR},
    reader::{Filter, Log, Opened, ReadError, failed},
    upload::{book, marks::Line as Mark},
};
use parquet::arrow::ArrowWriter;
use serde::Serialize;

use crate::coverage::column;

/// A file that was written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    pub file: String,
    pub rows_erased: u64,
    /// Bytes that could not be read at the end of a write-ahead log, and went as well.
    #[serde(skip_serializing_if = "is_zero")]
    pub torn_bytes: u64,
    pub sha256_before: String,
    /// None where no row was left, and the file went.
    pub sha256_after: Option<String>,
}

/// What was done: the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    pub format: u32,
    pub at: String,
    pub subject_keys: Vec<String>,
    /// False: it is only said what would be done.
    pub done: bool,
    pub files_looked_at: u64,
    pub log: Vec<Rewritten>,
    pub labels: Vec<Rewritten>,
    /// Data sets that hold rows of the subject, which stay: whoever keeps them decides.
    pub tainted_datasets: Vec<String>,
    /// Versions that were logged for the subject's requests.
    pub versions: Vec<String>,
    /// Objects in the store that files go to (`prediction_log.upload`) that still have to change or to go: the server that uploads does
    /// so, and says when in `_erased/objects.jsonl`.
    pub objects_pending: Vec<String>,
    /// Objects of rows whose files are here no more. Nobody has looked into them: fetch and erase them, or let them go.
    pub objects_not_looked_at: Vec<String>,
    /// Write-ahead logs of servers that have ended.
    pub wal: Vec<Rewritten>,
    /// Those of servers that run: by the ledger, these rows are left out when files are made of them.
    pub wal_open: Vec<wal::Open>,
    /// Files in the folder for labels.
    pub label_files: Vec<folder::File>,
    /// Large tensors that no row of others refers to.
    pub blobs: Vec<Blob>,
}

/// A large tensor that is erased: its name is its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blob {
    pub file: String,
    pub bytes: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// What is to be erased, and when that is.
#[derive(Clone, Debug)]
pub struct Request {
    pub log: Log,
    pub subject_keys: BTreeSet<String>,
    pub datasets: Vec<PathBuf>,
    /// prediction_log.labels_folder of the servers.
    pub labels_folder: Option<PathBuf>,
    pub dry_run: bool,
    /// RFC 3339.
    pub at: String,
}

/// What there is of the subjects, before anything is written.
struct Looked {
    ahead: wal::Found,
    files: u64,
    /// Files with their rows.
    hit: Vec<PathBuf>,
    /// By model.
    label_keys: BTreeMap<String, HashSet<String>>,
    versions: BTreeSet<String>,
    /// What their rows refer to.
    blobs: BTreeSet<String>,
}

/// Enters the subjects into the ledger and looks for them: from then on, no file comes that holds them.
fn look(request: &Request, mut seen: impl FnMut(usize)) -> Result<Looked, ReadError> {
    let Request { log, subject_keys, .. } = request;
    let mut label_keys: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    let (mut versions, mut blobs) = (BTreeSet::new(), BTreeSet::new());
    // Nothing becomes a file between the look at what is written ahead and the ledger.
    let alone = if request.dry_run { None } else { Some(alone(&log.root)?) };
    let ahead = wal::Found::below(&log.root)?;
    ahead.gather(subject_keys, &mut label_keys, (&mut versions, &mut blobs))?;
    if let Some(alone) = alone {
        Ledger::add(&alone, &log.root, subject_keys, &request.at)?;
    }
    let files = log.files(&Filter::default())?;
    let mut hit = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let found = keys_of(&file.path, subject_keys)?;
        if !found.label_keys.is_empty() {
            let of = &file.partition;
            versions.insert(format!("{}/{}", of.model, of.version));
            label_keys.entry(of.model.clone()).or_default().extend(found.label_keys);
            blobs.extend(found.blobs);
            hit.push(file.path.clone());
        }
        seen(n + 1);
    }
    Ok(Looked { ahead, files: files.len() as u64, hit, label_keys, versions, blobs })
}

/// Erases. Killed in between, it is run again: labels and blobs go before the rows that lead to them.
pub fn erase(request: &Request, seen: impl FnMut(usize)) -> Result<Evidence, ReadError> {
    let Request { log, subject_keys, dry_run, .. } = request;
    let _lock = if *dry_run { None } else { Some(lock(log)?) };
    let looked = look(request, seen)?;
    let rewrite = Rewrite { root: &log.root, dry_run: *dry_run };
    let labels = rewrite.labels(&looked.label_keys)?;
    let blobs = blobs::release(&log.root, looked.blobs, &Ledger::of(subject_keys), *dry_run)?;
    let folder = request.labels_folder.as_deref();
    let label_files = folder.map(|dir| folder::erase(dir, &looked.label_keys, *dry_run));
    let label_files = label_files.transpose()?.unwrap_or_default();
    let mut rows = Vec::new();
    for path in &looked.hit {
        rows.extend(rewrite.without(path, "subject_key", |key| subject_keys.contains(key))?);
    }
    let mut tainted_datasets = Vec::new();
    for dir in &request.datasets {
        if holds(dir, subject_keys)? {
            tainted_datasets.push(dir.display().to_string());
        }
    }
    let wal = looked.ahead.rewrite(&log.root, subject_keys, *dry_run)?;
    let (objects_pending, objects_not_looked_at) =
        book::beyond(&log.root).map_err(|error| failed(&log.root, error))?;
    let evidence = Evidence {
        format: 1,
        at: request.at.clone(),
        subject_keys: subject_keys.iter().cloned().collect(),
        done: !dry_run,
        files_looked_at: looked.files,
        log: rows,
        labels,
        tainted_datasets,
        versions: looked.versions.into_iter().collect(),
        objects_pending,
        objects_not_looked_at,
        wal_open: looked.ahead.open(&log.root, subject_keys)?,
        wal,
        label_files,
        blobs: blobs.into_iter().map(|(file, bytes)| Blob { file, bytes }).collect(),
    };
    if !dry_run {
        keep(&log.root, &evidence)?;
    }
    Ok(evidence)
}

/// Holds off compactions, where there is no file yet as well.
fn lock(log: &Log) -> Result<Lock, ReadError> {
    let dir = log.root.join(LOG_DIR);
    fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
    let lock = Lock::wait(log)?;
    // What compactions have put together has rows of the subjects as well.
    journal::recover_all(log, &Filter::default())?;
    Ok(lock)
}

/// What rows about the subjects lead to.
#[derive(Debug, Default)]
struct Found {
    label_keys: Vec<String>,
    blobs: BTreeSet<String>,
}

/// Of a file's rows about these subjects.
fn keys_of(path: &Path, subjects: &BTreeSet<String>) -> Result<Found, ReadError> {
    let opened = Opened::at(path)?;
    // A data set has no roles.
    let refer = match &opened.footer {
        Some(_) => blobs::columns(&opened.roles()?),
        None => Vec::new(),
    };
    let mut possible = false;
    for subject in subjects {
        possible |= !opened.surely_without("subject_key", subject)?;
    }
    let mut found = Found::default();
    if possible {
        let columns = [&["subject_key", "label_key"].map(str::to_owned)[..], &refer].concat();
        let about = Ledger::of(subjects);
        for batch in opened.batches(Some(&columns))? {
            let rows = about.only(&batch?).map_err(|why| failed(path, why))?;
            let keys: &StringArray = column(&rows, "label_key").map_err(|why| failed(path, why))?;
            found.label_keys.extend(keys.iter().flatten().map(str::to_owned));
            found.blobs.extend(blobs::references(&rows, &refer).map(str::to_owned));
        }
    }
    Ok(found)
}

struct Rewrite<'a> {
    root: &'a Path,
    dry_run: bool,
}

impl Rewrite<'_> {
    /// Says what becomes of a file of rows, before it does: whoever is killed in between does it again.
    fn list(&self, path: &Path, there: Option<There>) -> Result<(), ReadError> {
        if !path.starts_with(self.root.join(LOG_DIR)) {
            return Ok(());
        }
        let line = inventory::Line::new(self.root, path, By::Erase, there);
        let noted = line.and_then(|line| Inventory::of_command(self.root).note(&[line]));
        noted.map_err(|error| failed(path, error))
    }

    /// The labels of these keys, by model.
    fn labels(
        &self,
        keys: &BTreeMap<String, HashSet<String>>,
    ) -> Result<Vec<Rewritten>, ReadError> {
        let mut rewritten = Vec::new();
        for (model, keys) in keys {
            let store = Store::at(self.root);
            let dir = store.model_dir(model);
            let waits = !self.dry_run && dir.is_dir();
            let _lock = waits.then(|| staging::Lock::take(&dir)).transpose()?;
            for path in store.files(model)? {
                rewritten.extend(self.without(&path, "label_key", |key| keys.contains(key))?);
            }
        }
        Ok(rewritten)
    }

    /// Writes a file anew without the rows whose `name` is among those to go. None where there is no such row.
    fn without(
        &self,
        path: &Path,
        name: &str,
        goes: impl Fn(&str) -> bool,
    ) -> Result<Option<Rewritten>, ReadError> {
        let opened = Opened::at(path)?;
        let (schema, footer, before) = (opened.schema.clone(), opened.footer.clone(), opened.rows);
        let mut kept: Vec<RecordBatch> = Vec::new();
        for batch in opened.batches(None)? {
            let batch = batch?;
            let keys: &StringArray = column(&batch, name).map_err(|why| failed(path, why))?;
            let keep: BooleanArray = keys.iter().map(|key| Some(!key.is_some_and(&goes))).collect();
            kept.push(filter_record_batch(&batch, &keep).map_err(|error| failed(path, error))?);
        }
        let rows: u64 = kept.iter().map(|batch| batch.num_rows() as u64).sum();
        if rows == before {
            return Ok(None);
        }
        let mut rewritten = Rewritten {
            file: path.strip_prefix(self.root).unwrap_or(path).display().to_string(),
            rows_erased: before - rows,
            torn_bytes: 0,
            sha256_before: digest::file(path)?,
            sha256_after: None,
        };
        if self.dry_run {
            return Ok(Some(rewritten));
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        let profile = layout::profile(path);
        for path in [path, &profile].into_iter().filter(|path| path.is_file()) {
            let sha256 = digest::file(path)?;
            let mark = |file| Mark::Erasing { file, sha256: sha256.clone() };
            book::note(self.root, path, mark).map_err(|error| failed(path, error))?;
        }
        if rows == 0 {
            self.list(path, None)?;
            fs::remove_file(path).map_err(|error| failed(path, error))?;
        } else {
            let hidden = dir.join(format!(
                ".erase-{}",
                path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default()
            ));
            let bad = |error: parquet::errors::ParquetError| failed(&hidden, error);
            let file = File::create(&hidden).map_err(|error| failed(&hidden, error))?;
            let properties = properties(footer.as_deref());
            let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(bad)?;
            for batch in &kept {
                writer.write(batch).map_err(bad)?;
            }
            let file = writer.into_inner().map_err(bad)?;
            file.sync_all().map_err(|error| failed(&hidden, error))?;
            let there = inventory::written(&hidden)?;
            rewritten.sha256_after = Some(there.sha256.clone());
            self.list(path, Some(there))?;
            fs::rename(&hidden, path).map_err(|error| failed(path, error))?;
        }
        // What was worked out from the rows that are gone.
        match fs::remove_file(&profile) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&profile, error));
            }
            _ => {}
        }
        sync_dir(dir)?;
        Ok(Some(rewritten))
    }
}

/// Whether a data set, or what is withheld beside it, has rows of these subjects.
fn holds(dir: &Path, subjects: &BTreeSet<String>) -> Result<bool, ReadError> {
    if !dir.join("manifest.json").is_file() {
        return Err(failed(dir, "no data set is here (there is no manifest.json)"));
    }
    for dir in [dir.to_owned(), crate::dataset::build::withheld(dir)] {
        for slice in ["train", "valid", "test"] {
            let path = dir.join(slice).join("part-0.parquet");
            let there = path.is_file() && Opened::at(&path)?.schema.index_of("subject_key").is_ok();
            if there && !keys_of(&path, subjects)?.label_keys.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn keep(root: &Path, evidence: &Evidence) -> Result<(), ReadError> {
    let dir = root.join(DIR);
    let text = serde_json::to_string_pretty(evidence).map_err(|error| failed(&dir, error))? + "\n";
    let path = dir.join(format!("evidence-{}.json", &digest::bytes(text.as_bytes())[..16]));
    File::create(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| failed(&path, error))?;
    sync_dir(&dir)
}
