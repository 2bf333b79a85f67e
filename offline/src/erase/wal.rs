//! Erasure in write-ahead logs: those of servers that have ended are written anew without the rows; of those that run it is said
//! which segments hold some, which the server leaves out when it makes Parquet of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use arrow_array::{RecordBatch, StringArray};
use onnxd::predlog::{
    blobs, digest, disk,
    erased::Ledger,
    inventory::{By, Inventory, LeftOut, Line},
    layout,
    reader::{ReadError, failed},
    wal::{self, Segment},
};
use serde::Serialize;

use crate::{coverage::column, erase::Rewritten};

/// A segment of a server that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Open {
    pub file: String,
    /// Rows of the subject that the server leaves out when it makes Parquet of it.
    pub rows: u64,
}

/// The write-ahead logs below a log's root, as they stood when they were looked at.
#[derive(Debug, Default)]
pub struct Found {
    /// Of servers that have ended: ours for as long as the locks are held.
    closed: Vec<PathBuf>,
    open: Vec<PathBuf>,
    _locks: Vec<File>,
}

/// What a segment holds of the subjects.
#[derive(Debug, Default)]
struct Held {
    rows: u64,
    torn: u64,
    /// Model and version.
    of: Option<(String, String)>,
    label_keys: Vec<String>,
    /// What they refer to.
    blobs: BTreeSet<String>,
}

impl Found {
    /// # Errors
    /// A directory cannot be read.
    pub fn below(root: &Path) -> Result<Found, ReadError> {
        let mut found = Found::default();
        for dir in entries(&layout::wal(root))? {
            if !dir.is_dir() {
                continue;
            }
            // Held by the server that writes there.
            let ended = match File::open(dir.join("lock")) {
                Ok(lock) => {
                    let ours = lock.try_lock().is_ok();
                    if ours {
                        found._locks.push(lock);
                    }
                    ours
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                // It may well be held: nothing of a server that runs is written anew.
                Err(error) => return Err(failed(&dir, error)),
            };
            let mut segments = entries(&dir)?;
            if ended {
                // What somebody left who was killed.
                for path in
                    segments.iter().filter(|path| path.extension().is_some_and(|e| e == "erase"))
                {
                    fs::remove_file(path).map_err(|error| failed(path, error))?;
                }
            }
            segments.retain(|path| {
                path.extension().is_some_and(|ending| ending == "wal" || ending == "torn")
            });
            segments.sort();
            // What could not be read of a segment lies in a `.torn`, which no server touches again.
            let (ours, theirs): (Vec<_>, Vec<_>) = segments
                .into_iter()
                .partition(|path| ended || path.extension().is_some_and(|ending| ending == "torn"));
            found.closed.extend(ours);
            found.open.extend(theirs);
        }
        Ok(found)
    }

    /// Adds the label keys of rows about the subjects, by model, the versions that answered them, and the blobs that they refer to.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn gather(
        &self,
        subjects: &BTreeSet<String>,
        label_keys: &mut BTreeMap<String, HashSet<String>>,
        (versions, blobs): (&mut BTreeSet<String>, &mut BTreeSet<String>),
    ) -> Result<(), ReadError> {
        for path in self.closed.iter().chain(&self.open) {
            let Some(held) = held(path, subjects)? else { continue };
            if let (Some((model, version)), true) = (held.of, held.rows > 0) {
                versions.insert(format!("{model}/{version}"));
                label_keys.entry(model).or_default().extend(held.label_keys);
                blobs.extend(held.blobs);
            }
        }
        Ok(())
    }

    /// Segments of servers that run, which hold rows of the subjects.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn open(&self, root: &Path, subjects: &BTreeSet<String>) -> Result<Vec<Open>, ReadError> {
        let mut open = Vec::new();
        for path in &self.open {
            let rows = held(path, subjects)?.map_or(0, |held| held.rows);
            if rows > 0 {
                open.push(Open { file: named(root, path), rows });
            }
        }
        Ok(open)
    }

    /// Writes the others anew without those rows, and without what is torn at their ends: it may be such a row.
    ///
    /// # Errors
    /// A segment cannot be read or written.
    pub fn rewrite(
        &self,
        root: &Path,
        subjects: &BTreeSet<String>,
        dry_run: bool,
    ) -> Result<Vec<Rewritten>, ReadError> {
        let ledger = Ledger::of(subjects);
        let mut rewritten = Vec::new();
        for path in &self.closed {
            let Some(held) = held(path, subjects)?.filter(|held| held.rows + held.torn > 0) else {
                continue;
            };
            let mut one = Rewritten {
                file: named(root, path),
                rows_erased: held.rows,
                torn_bytes: held.torn,
                sha256_before: digest::file(path)?,
                sha256_after: None,
            };
            if !dry_run && without(path, &ledger)? {
                one.sha256_after = Some(digest::file(path)?);
            }
            if !dry_run && path.extension().is_some_and(|ending| ending == "wal") {
                list(root, path, &held).map_err(|error| failed(path, error))?;
            }
            rewritten.push(one);
        }
        Ok(rewritten)
    }
}

/// So that whoever adds rows up knows where these have gone.
fn list(root: &Path, segment: &Path, held: &Held) -> io::Result<()> {
    let Some((model, _)) = held.of.clone().filter(|_| held.rows > 0) else { return Ok(()) };
    let left_out = LeftOut { model, rows: held.rows };
    Inventory::of_command(root).note(&[Line::left_out(root, segment, By::Erase, left_out)?])
}

/// What a segment holds; `None` where it has gone: its server has made Parquet of it, by the ledger.
fn held(path: &Path, subjects: &BTreeSet<String>) -> Result<Option<Held>, ReadError> {
    let mut segment = match Segment::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        segment => segment.map_err(|error| failed(path, error))?,
    };
    let (mut held, about) = (Held::default(), Ledger::of(subjects));
    while let Some(batch) = segment.read().map_err(|error| failed(path, error))? {
        let rows = about.only(&batch).map_err(|why| failed(path, why))?;
        let keys: &StringArray = column(&rows, "label_key").map_err(|why| failed(path, why))?;
        held.rows += rows.num_rows() as u64;
        held.label_keys.extend(keys.iter().flatten().map(str::to_owned));
        let refer = segment.footer().map(blobs::columns).unwrap_or_default();
        held.blobs.extend(blobs::references(&rows, &refer).map(str::to_owned));
    }
    held.torn = segment.torn();
    held.of = segment.footer().map(|footer| (footer.model.clone(), footer.version.clone()));
    Ok(Some(held))
}

/// Writes a segment anew; false where no row was left, and it went.
fn without(path: &Path, ledger: &Ledger) -> Result<bool, ReadError> {
    let io = |error: io::Error| failed(path, error);
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Neither name nor ending is one that a server looks for.
    let aside = dir.join(format!(".{name}.erase"));
    let mut out = File::create(&aside).map_err(io)?;
    let mut segment = Segment::open(path).map_err(io)?;
    let mut any = false;
    while let Some(batch) = segment.read().map_err(io)? {
        let kept: RecordBatch = ledger.without(&batch).map_err(|why| failed(path, why))?;
        if kept.num_rows() == 0 {
            continue;
        }
        let footer = segment.footer().filter(|_| !any).map(|footer| footer.text());
        let frame = wal::frame(&kept, footer.as_deref()).map_err(|why| failed(path, why))?;
        out.write_all(&frame).map_err(io)?;
        any = true;
    }
    out.sync_all().map_err(io)?;
    match any {
        true => fs::rename(&aside, path).map_err(io)?,
        false => fs::remove_file(path).and_then(|()| fs::remove_file(&aside)).map_err(io)?,
    }
    disk::Disk::sync_dir(&disk::Real, dir).map_err(io)?;
    Ok(any)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => {
            let found = found.map_err(|error| failed(dir, error))?;
            found.map(|e| e.map(|e| e.path()).map_err(|error| failed(dir, error))).collect()
        }
    }
}

fn named(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
