//! Which files of a model are kept no longer: decided, purely, from their hours and sizes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{options::Retention, paths};

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFile {
    /// Hours since 1970 that it holds the rows of.
    pub hour: i64,
    pub bytes: u64,
    pub path: PathBuf,
}

/// The files that go, the oldest first, when it is `now` hours since 1970.
pub fn expired(files: &[PartFile], now: i64, policy: Retention) -> Vec<&PartFile> {
    let mut kept: Vec<&PartFile> = files.iter().collect();
    kept.sort_by(|a, b| (a.hour, &a.path).cmp(&(b.hour, &b.path)));
    let age = i64::try_from(policy.max_age_hours).unwrap_or(i64::MAX);
    let old = |file: &PartFile| age > 0 && now.saturating_sub(file.hour + 1) >= age;
    let mut bytes: u64 = kept.iter().map(|file| file.bytes).sum();
    let mut gone = Vec::new();
    for file in kept {
        let much = policy.max_bytes > 0 && bytes > policy.max_bytes;
        if old(file) || much {
            bytes -= file.bytes;
            gone.push(file);
        }
    }
    gone
}

/// The files below a model's directory.
pub fn files(model: &Path) -> Vec<PartFile> {
    let mut found = Vec::new();
    for version in folders(model) {
        for date in folders(&version) {
            for hour in folders(&date) {
                let (Some(day), Some(name)) = (name(&date), name(&hour)) else { continue };
                let Some(number) = paths::hour_of(&day, &name) else { continue };
                for entry in fs::read_dir(&hour).into_iter().flatten().flatten() {
                    let path = entry.path();
                    let bytes = entry.metadata().map_or(0, |data| data.len());
                    if path.extension().is_some_and(|extension| extension == "parquet") {
                        found.push(PartFile { hour: number, bytes, path });
                    }
                }
            }
        }
    }
    found
}

/// Removes the directories of hour and date that a file was the last one in.
pub fn remove_empty(file: &Path) {
    for folder in file.ancestors().skip(1).take(2) {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn name(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(hour: i64, bytes: u64) -> PartFile {
        PartFile { hour, bytes, path: format!("{hour}").into() }
    }

    #[test]
    fn the_oldest_go_first_and_only_as_many_as_must() {
        let files = [file(3, 10), file(1, 10), file(2, 10)];
        let hours = |policy| -> Vec<i64> {
            expired(&files, 4, policy).into_iter().map(|file| file.hour).collect()
        };
        assert!(hours(Retention::default()).is_empty());
        assert_eq!(hours(Retention { max_age_hours: 1, max_bytes: 0 }), [1, 2]);
        assert_eq!(hours(Retention { max_age_hours: 2, max_bytes: 0 }), [1]);
        assert_eq!(hours(Retention { max_age_hours: 0, max_bytes: 25 }), [1]);
        assert_eq!(hours(Retention { max_age_hours: 0, max_bytes: 9 }), [1, 2, 3]);
    }
}
