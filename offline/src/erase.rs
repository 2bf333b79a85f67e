//! Erasure: rows and labels about one subject are written out of the files, and a ledger keeps later ones from counting.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use arrow_array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow_select::filter::filter_record_batch;
use onnxd::predlog::{
    compact::{Lock, sync_dir},
    digest,
    export::properties,
    labels::store::Store,
    layout,
    reader::{Filter, Log, Opened, ReadError, failed},
};
use parquet::arrow::ArrowWriter;
use serde::{Deserialize, Serialize};

use crate::coverage::column;

/// Below the log's root; readers of the log skip what begins with `_`.
const DIR: &str = "_erased";

/// Whose rows count no more: keyed hashes, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeSet<String>);

/// A line of the ledger.
#[derive(Serialize, Deserialize)]
struct Line {
    subject_key: String,
    /// When it was asked for, RFC 3339.
    at: String,
}

impl Ledger {
    /// The ledger of the log below `root`; empty where nobody was erased.
    pub fn read(root: &Path) -> Result<Ledger, ReadError> {
        let path = root.join(DIR).join("ledger.jsonl");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
            Err(error) => return Err(failed(&path, error)),
        };
        let read = |line: &str| -> Result<String, ReadError> {
            serde_json::from_str::<Line>(line)
                .map(|line| line.subject_key)
                .map_err(|error| failed(&path, error))
        };
        text.lines().map(read).collect::<Result<_, _>>().map(Ledger)
    }

    pub fn holds(&self, subject_key: &str) -> bool {
        self.0.contains(subject_key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }

    /// Adds a key, on the disk before this returns.
    fn add(&mut self, root: &Path, subject_key: &str, at: &str) -> Result<(), ReadError> {
        if !self.0.insert(subject_key.to_owned()) {
            return Ok(());
        }
        let dir = root.join(DIR);
        let path = dir.join("ledger.jsonl");
        let line = Line { subject_key: subject_key.to_owned(), at: at.to_owned() };
        let text = serde_json::to_string(&line).map_err(|error| failed(&path, error))? + "\n";
        fs::create_dir_all(&dir)
            .and_then(|()| File::options().create(true).append(true).open(&path))
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(|error| failed(&path, error))?;
        sync_dir(&dir)
    }
}

/// A file that was written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    pub file: String,
    pub rows_erased: u64,
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
    /// Segments of the write-ahead log: rows in them are erased by the next run, once they are in a file.
    pub wal_segments: u64,
}

/// What is to be erased, and when that is.
#[derive(Clone, Debug)]
pub struct Request {
    pub log: Log,
    pub subject_keys: BTreeSet<String>,
    pub datasets: Vec<PathBuf>,
    pub dry_run: bool,
    /// RFC 3339.
    pub at: String,
}

/// Erases. Killed in between, it is run again: labels go before the rows that lead to them.
pub fn erase(request: &Request, mut seen: impl FnMut(usize)) -> Result<Evidence, ReadError> {
    let Request { log, subject_keys, .. } = request;
    let _lock = if request.dry_run { None } else { Some(Lock::take(log)?) };
    if !request.dry_run {
        let mut ledger = Ledger::read(&log.root)?;
        for key in subject_keys {
            ledger.add(&log.root, key, &request.at)?;
        }
    }
    let files = log.files(&Filter::default())?;
    let mut hit: Vec<&Path> = Vec::new();
    let mut label_keys: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    let mut versions = BTreeSet::new();
    for (n, file) in files.iter().enumerate() {
        let found = keys_of(&file.path, subject_keys)?;
        if !found.is_empty() {
            let of = &file.partition;
            versions.insert(format!("{}/{}", of.model, of.version));
            label_keys.entry(of.model.clone()).or_default().extend(found);
            hit.push(&file.path);
        }
        seen(n + 1);
    }
    let rewrite = Rewrite { root: &log.root, dry_run: request.dry_run };
    let mut labels = Vec::new();
    for (model, keys) in &label_keys {
        for path in Store::at(&log.root).files(model)? {
            labels.extend(rewrite.without(&path, "label_key", |key| keys.contains(key))?);
        }
    }
    let mut rows = Vec::new();
    for path in hit {
        rows.extend(rewrite.without(path, "subject_key", |key| subject_keys.contains(key))?);
    }
    let mut tainted_datasets = Vec::new();
    for dir in &request.datasets {
        if holds(dir, subject_keys)? {
            tainted_datasets.push(dir.display().to_string());
        }
    }
    let evidence = Evidence {
        format: 1,
        at: request.at.clone(),
        subject_keys: subject_keys.iter().cloned().collect(),
        done: !request.dry_run,
        files_looked_at: files.len() as u64,
        log: rows,
        labels,
        tainted_datasets,
        versions: versions.into_iter().collect(),
        wal_segments: segments(&layout::wal(&log.root)),
    };
    if !request.dry_run {
        keep(&log.root, &evidence)?;
    }
    Ok(evidence)
}

/// The label keys of a file's rows about these subjects.
fn keys_of(path: &Path, subjects: &BTreeSet<String>) -> Result<Vec<String>, ReadError> {
    let opened = Opened::at(path)?;
    let mut possible = false;
    for subject in subjects {
        possible |= !opened.surely_without("subject_key", subject)?;
    }
    let mut found = Vec::new();
    if possible {
        let columns = ["subject_key", "label_key"].map(str::to_owned);
        for batch in opened.batches(Some(&columns))? {
            let batch = batch?;
            let of = |name| column::<StringArray>(&batch, name).map_err(|why| failed(path, why));
            let (subject, keys) = (of("subject_key")?, of("label_key")?);
            let rows = (0..batch.num_rows()).filter(|row| subject.is_valid(*row));
            let rows = rows.filter(|row| subjects.contains(subject.value(*row)));
            found.extend(rows.map(|row| keys.value(row).to_owned()));
        }
    }
    Ok(found)
}

struct Rewrite<'a> {
    root: &'a Path,
    dry_run: bool,
}

impl Rewrite<'_> {
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
            sha256_before: digest::file(path)?,
            sha256_after: None,
        };
        if self.dry_run {
            return Ok(Some(rewritten));
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        if rows == 0 {
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
            fs::rename(&hidden, path).map_err(|error| failed(path, error))?;
            rewritten.sha256_after = Some(digest::file(path)?);
        }
        // What was worked out from the rows that are gone.
        let profile = path.with_extension("profile.parquet");
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
            if there && !keys_of(&path, subjects)?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Files of the write-ahead log.
fn segments(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => segments(&entry.path()),
            _ => u64::from(entry.path().extension().is_some_and(|ending| ending == "wal")),
        })
        .sum()
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
