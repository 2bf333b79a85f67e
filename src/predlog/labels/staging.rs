//! How labels get into the store: what is new of them is written aside, and shows as a whole once everything was read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    Label, merge,
    store::{self, Put, Store, each_of},
};
use crate::predlog::{
    compact::sync_dir,
    reader::{Opened, ReadError, failed},
};

/// Held by whoever changes a model's labels.
const LOCK: &str = "_lock";
/// What does not show yet.
const ASIDE: &str = "_aside";

/// Up to as many keys are looked for one by one in the files' bloom filters.
const FEW: usize = 64;

/// How often a lock that somebody else holds is tried, and how long that takes: an import of some hundred thousand labels.
const TRIES: u32 = 500;
const BETWEEN: Duration = Duration::from_millis(20);

/// Holds off others who change the labels of a model, in whatever process, while it lives.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock ends with the open file")] File);

impl Lock {
    /// Of the model whose labels lie in `dir`, which is made.
    ///
    /// # Errors
    /// Somebody else holds it all the while, or the directory cannot be written.
    pub fn take(dir: &Path) -> Result<Lock, ReadError> {
        fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
        let path = dir.join(LOCK);
        let mut options = File::options();
        let file = options.create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(|error| failed(&path, error))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) => thread::sleep(BETWEEN),
                Err(TryLockError::Error(error)) => return Err(failed(&path, error)),
            }
        }
        Err(failed(&path, "somebody else is writing labels of this model"))
    }
}

/// Labels of one model on their way. Dropped before they are committed, nothing of them stays.
pub struct Staging<'a> {
    store: &'a Store,
    model: &'a str,
    /// What stands for a time where none was given.
    now: i64,
    lock: Option<Lock>,
    /// Files aside, and where they are going to be.
    files: Vec<(PathBuf, PathBuf)>,
    put: Put,
}

impl<'a> Staging<'a> {
    /// Nothing is made on the disk before the first label.
    pub fn new(store: &'a Store, model: &'a str, now: i64) -> Staging<'a> {
        Staging { store, model, now, lock: None, files: Vec::new(), put: Put::default() }
    }

    /// Writes what is new of these labels aside. What was said before of a key, in the same revision and with the same words, is
    /// known; that it became known `now`, for want of a better time, makes it nothing else.
    pub fn add(&mut self, labels: &[Label]) -> Result<(), ReadError> {
        if labels.is_empty() {
            return Ok(());
        }
        let dir = self.store.model_dir(self.model);
        if self.lock.is_none() {
            self.lock = Some(Lock::take(&dir)?);
            // What somebody left who was killed.
            clear(&dir.join(ASIDE))?;
        }
        let known = self.known(labels)?;
        let mut by_date: BTreeMap<String, Vec<&Label>> = BTreeMap::new();
        for (label, known) in labels.iter().zip(known) {
            match known {
                true => self.put.known += 1,
                false => by_date.entry(store::date(label.ts_label)).or_default().push(label),
            }
        }
        for (date, labels) in by_date {
            let aside = dir.join(ASIDE).join(format!("{}.tmp", self.files.len()));
            let name = format!("labels-{}.parquet", store::identity(&labels));
            fs::create_dir_all(dir.join(ASIDE)).map_err(|error| failed(&aside, error))?;
            let batch = store::batch(&labels).map_err(|why| failed(&aside, why))?;
            store::write(&aside, &[batch])?;
            self.files.push((aside, dir.join(format!("date={date}")).join(name)));
            self.put.written += labels.len() as u64;
        }
        Ok(())
    }

    /// Which of these labels are there already, or twice among themselves.
    fn known(&self, labels: &[Label]) -> Result<Vec<bool>, ReadError> {
        let mut known = vec![false; labels.len()];
        let mut asked: HashMap<(&str, i64), Vec<usize>> = HashMap::new();
        for (at, label) in labels.iter().enumerate() {
            let same = asked.entry((&label.label_key, label.revision)).or_default();
            known[at] = same.iter().any(|other| same_words(label, &labels[*other], self.now));
            if !known[at] {
                same.push(at);
            }
        }
        for path in self.candidates(labels)? {
            if asked.len() <= FEW && surely_without(&path, asked.keys().map(|(key, _)| *key))? {
                continue;
            }
            each_of(&path, &mut |there| {
                for at in asked.get(&(&*there.label_key, there.revision)).into_iter().flatten() {
                    known[*at] |= same_words(&labels[*at], &there, self.now);
                }
            })?;
        }
        Ok(known)
    }

    /// The files that can hold the same: labels with a time lie under its date.
    fn candidates(&self, labels: &[Label]) -> Result<Vec<PathBuf>, ReadError> {
        let mut files = self.store.files(self.model)?;
        if labels.iter().all(|label| label.ts_label != self.now) {
            let dates: BTreeSet<String> = labels
                .iter()
                .map(|label| format!("date={}", store::date(label.ts_label)))
                .collect();
            files.retain(|path| {
                let date =
                    path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
                date.is_some_and(|date| dates.contains(&*date))
            });
        }
        files.extend(self.files.iter().map(|(aside, _)| aside.clone()));
        Ok(files)
    }

    /// Shows all of them, on the disk before this returns.
    pub fn commit(mut self) -> Result<Put, ReadError> {
        let mut days = BTreeSet::new();
        for (aside, path) in std::mem::take(&mut self.files) {
            let date = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(date).map_err(|error| failed(date, error))?;
            fs::rename(&aside, &path).map_err(|error| failed(&path, error))?;
            for dir in path.ancestors().skip(1).take(3) {
                sync_dir(dir)?;
            }
            days.insert(date.to_owned());
        }
        let aside = self.store.model_dir(self.model).join(ASIDE);
        for day in days {
            if let Err(error) = merge::tidy(&day, &aside) {
                // The labels are there; the next ones try again.
                tracing::warn!(%error, "small files of labels cannot be put together");
            }
        }
        Ok(self.put)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Where this fails, whoever locks next does it.
            let _ = clear(&self.store.model_dir(self.model).join(ASIDE));
        }
    }
}

fn clear(aside: &Path) -> Result<(), ReadError> {
    match fs::remove_dir_all(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(aside, error)),
        _ => Ok(()),
    }
}

/// Whether `label` says nothing that `there` does not.
fn same_words(label: &Label, there: &Label, now: i64) -> bool {
    let ts_label = if label.ts_label == now { there.ts_label } else { label.ts_label };
    // Compared as they are written: no number is equal to one that is none.
    let number = |value: Option<f64>| value.map(f64::to_bits);
    ts_label == there.ts_label
        && label.label == there.label
        && number(label.label_value) == number(there.label_value)
        && number(label.weight) == number(there.weight)
        && label.source == there.source
        && label.event_id == there.event_id
        && label.ts_event == there.ts_event
        && label.deleted == there.deleted
}

fn surely_without<'k>(
    path: &Path,
    mut keys: impl Iterator<Item = &'k str>,
) -> Result<bool, ReadError> {
    let opened = Opened::at(path)?;
    keys.try_fold(true, |without, key| Ok(without && opened.surely_without("label_key", key)?))
}
