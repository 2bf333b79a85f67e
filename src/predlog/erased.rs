//! Whose rows count no more: the ledger of erasures, kept in step with the files that are written meanwhile.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use arrow_array::{BooleanArray, RecordBatch, StringArray};
use arrow_select::filter::filter_record_batch;
use serde::{Deserialize, Serialize};

use super::{
    disk,
    layout::LOG_DIR,
    reader::{ReadError, failed},
};

/// Below the log's root; readers of the log skip what begins with `_`.
pub const DIR: &str = "_erased";

/// Shared by who writes files of rows, held alone by who adds to the ledger: so every file was either there before, and is
/// looked into, or is written without those rows.
const LOCK: &str = "_erase.lock";

/// Held for a moment by who begins to write files, and alone by who waits to add to the ledger: so no more begin until that is done,
/// and it is, however many there are.
const DOOR: &str = "_erase.door";

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
        let path = path(root);
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

    /// Of these alone.
    pub fn of(subject_keys: &BTreeSet<String>) -> Ledger {
        Ledger(subject_keys.clone())
    }

    /// The rows of a batch that are about nobody in it.
    pub fn without(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        self.those(batch, false)
    }

    /// Those that are about somebody in it.
    pub fn only(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        self.those(batch, true)
    }

    fn those(&self, batch: &RecordBatch, about: bool) -> Result<RecordBatch, String> {
        let column = batch.column_by_name("subject_key");
        let keys = column.and_then(|column| column.as_any().downcast_ref::<StringArray>());
        let Some(keys) = keys.filter(|_| !self.0.is_empty()) else {
            return Ok(if about { batch.slice(0, 0) } else { batch.clone() });
        };
        let of = |key: Option<&str>| key.is_some_and(|key| self.holds(key)) == about;
        let keep: BooleanArray = keys.iter().map(|key| Some(of(key))).collect();
        filter_record_batch(batch, &keep).map_err(|error| error.to_string())
    }

    /// Adds keys, on the disk before this returns.
    pub fn add<'k>(
        _alone: &Alone,
        root: &Path,
        subject_keys: impl IntoIterator<Item = &'k String>,
        at: &str,
    ) -> Result<(), ReadError> {
        let known = Ledger::read(root)?;
        let path = path(root);
        // Written anew: half a line would keep files of rows from being written.
        let mut text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| failed(&path, error))?,
        };
        let before = text.len();
        for key in subject_keys.into_iter().filter(|key| !known.holds(key)) {
            let line = Line { subject_key: key.clone(), at: at.to_owned() };
            text += &serde_json::to_string(&line).map_err(|error| failed(&path, error))?;
            text.push('\n');
        }
        if text.len() == before {
            return Ok(());
        }
        disk::replace(&disk::Real, &path, text.as_bytes()).map_err(|error| failed(&path, error))
    }
}

fn path(root: &Path) -> PathBuf {
    root.join(DIR).join("ledger.jsonl")
}

/// While it lives, nobody writes files of rows.
#[derive(Debug)]
pub struct Alone(#[allow(dead_code, reason = "the locks end with the open files")] [File; 2]);

/// Waits for the files that are being written, and holds off others.
///
/// # Errors
/// The log's directory cannot be written.
pub fn alone(root: &Path) -> Result<Alone, ReadError> {
    let locks = [lock(root, DOOR)?, lock(root, LOCK)?];
    for lock in &locks {
        lock.lock().map_err(|error| failed(root, error))?;
    }
    Ok(Alone(locks))
}

/// The ledger as it stays for as long as this lives.
#[derive(Debug)]
pub struct Held {
    pub ledger: Ledger,
    _lock: File,
}

/// Holds the ledger while files of rows are written.
///
/// # Errors
/// It cannot be read, or somebody is adding to it: that takes as long as the write-ahead log takes to read.
pub fn hold(root: &Path) -> Result<Held, ReadError> {
    let (door, lock) = (lock(root, DOOR)?, lock(root, LOCK)?);
    for lock in [&door, &lock] {
        lock.try_lock_shared().map_err(|error| failed(root, error))?;
    }
    Ok(Held { ledger: Ledger::read(root)?, _lock: lock })
}

fn lock(root: &Path, name: &str) -> Result<File, ReadError> {
    let dir = root.join(LOG_DIR);
    let path = dir.join(name);
    fs::create_dir_all(&dir)
        .and_then(|()| {
            File::options().create(true).read(true).write(true).truncate(false).open(&path)
        })
        .map_err(|error| failed(&path, error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nobody_writes_files_while_the_ledger_grows_and_what_is_in_it_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = hold(dir.path()).expect("held");
        assert!(hold(dir.path()).is_ok(), "by several");
        assert!(lock(dir.path(), LOCK).expect("a lock").try_lock().is_err());
        let waits = lock(dir.path(), DOOR).expect("a door");
        waits.try_lock().expect("nobody is in the door");
        assert!(hold(dir.path()).is_err(), "by nobody more while somebody waits");
        drop((waits, held));
        let keys = ["a".to_owned(), "b".to_owned()];
        let alone = alone(dir.path()).expect("alone");
        assert!(hold(dir.path()).is_err(), "by nobody else");
        Ledger::add(&alone, dir.path(), &keys, "2026-01-01T00:00:00Z").expect("added");
        Ledger::add(&alone, dir.path(), &keys[..1], "2026-01-02T00:00:00Z").expect("known");
        drop(alone);
        let ledger = hold(dir.path()).expect("held").ledger;
        assert_eq!(ledger.keys().collect::<Vec<_>>(), ["a", "b"]);
        let column = StringArray::from(vec![Some("a"), None, Some("c"), Some("b")]);
        let batch = RecordBatch::try_from_iter([("subject_key", Arc::new(column) as _)]);
        let left = ledger.without(&batch.expect("a batch")).expect("filtered");
        assert_eq!(left.num_rows(), 2);
    }
}
