//! Which files of a model are kept no longer: decided, purely, from their hours and sizes. The blobs of an hour count as one file.

use std::{fs, io, path::Path};

use super::{
    blobs,
    inventory::{By, Inventory, Line},
    layout::{self, HOUR_US},
    options::Retention,
    reader::{Filter, Log, LogFile, ReadError, files_of},
    upload::{book::Book, marks::Marks},
};
use crate::telemetry::predictions::Cause;

/// The files of a model, and the blobs of each of its hours as if they were one, with whether each may go: where files go to object
/// stores, what is in one of them. `books` says what is where; none: there is no store.
///
/// # Errors
/// The files cannot be listed.
pub fn files(log: &Log, model: &str, books: &[Book]) -> Result<Vec<(LogFile, bool)>, ReadError> {
    let of = Filter { model: Some(model.to_owned()), ..Filter::default() };
    let mut all = Vec::new();
    for (hour, partition) in log.hours(&of)? {
        let up = Up::of(&log.root, &hour, books);
        let up =
            |file: &LogFile| up.has(&file.path.file_name().unwrap_or_default().to_string_lossy());
        let rows = files_of(&hour, &partition)?.into_iter().map(|file| (up(&file), file));
        let rows: Vec<(LogFile, bool)> = rows.map(|(up, file)| (file, up)).collect();
        let path = hour.join(blobs::DIR);
        if path.is_dir() {
            let up = Up::of(&log.root, &path, books);
            let own = blobs::of_hour(&hour)?;
            // They go after the last row that may refer to them.
            let may = rows.iter().all(|(_, may)| *may) && own.iter().all(|(name, _)| up.has(name));
            let bytes = own.iter().map(|(_, bytes)| bytes).sum();
            all.push((LogFile { partition, path, bytes }, may));
        }
        all.extend(rows);
    }
    Ok(all)
}

/// What of one directory is in which store.
struct Up(Vec<Marks>);

impl Up {
    fn of(root: &Path, dir: &Path, books: &[Book]) -> Up {
        let dir = dir.strip_prefix(root).ok().and_then(Path::to_str);
        // What cannot be read says that nothing is there: nothing goes for its age.
        let marks = |book: &Book| dir.and_then(|dir| book.read(dir).ok()).unwrap_or_default();
        Up(books.iter().map(marks).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|marks| marks.is_up(name))
    }
}

/// The files that go, when it is `now`, in microseconds since 1970: those that may, the oldest first, and only where these are too few
/// for `max_bytes` others.
pub fn expired(files: &[(LogFile, bool)], now: i64, policy: Retention) -> Vec<(&LogFile, Cause)> {
    let mut kept: Vec<(i64, &LogFile, bool)> =
        files.iter().map(|(file, may)| (file.partition.ends(), file, *may)).collect();
    kept.sort_by_key(|(ends, file, may)| (!may, *ends, is_blobs(file), &file.path));
    let age = i64::try_from(policy.max_age_hours).unwrap_or(i64::MAX).saturating_mul(HOUR_US);
    let mut bytes: u64 = files.iter().map(|(file, _)| file.bytes).sum();
    let mut gone = Vec::new();
    for (ends, file, may) in kept {
        let old = age > 0 && now.saturating_sub(ends) >= age;
        let much = policy.max_bytes > 0 && bytes > policy.max_bytes;
        let cause = match (may, old, much) {
            (true, true, _) => Cause::Age,
            (true, false, true) => Cause::Size,
            (false, _, true) => Cause::NotUp,
            _ => continue,
        };
        bytes -= file.bytes;
        gone.push((file, cause));
    }
    gone
}

/// Whether it stands for the blobs of an hour.
fn is_blobs(file: &LogFile) -> bool {
    file.path.file_name().is_some_and(|name| name == blobs::DIR)
}

/// Removes a file with what is known about it, or the blobs of an hour, and the directories of hour and date that it was the last one
/// in. The list says so before.
///
/// # Errors
/// It stays, or some of it.
pub fn remove(root: &Path, file: &LogFile, inventory: &Inventory) -> io::Result<()> {
    if is_blobs(file) {
        fs::remove_dir_all(&file.path)?;
    } else {
        inventory.note(&[Line::new(root, &file.path, By::Retention, None)?])?;
        fs::remove_file(&file.path)?;
        match fs::remove_file(layout::profile(&file.path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for folder in file.path.ancestors().skip(1).take(2) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::predlog::layout::Partition;

    fn file(hour: i64, bytes: u64, may: bool) -> (LogFile, bool) {
        let partition = Partition::of("m", "1", hour * HOUR_US).expect("in the calendar");
        (LogFile { partition, bytes, path: format!("{hour}").into() }, may)
    }

    fn hours(files: &[(LogFile, bool)], max_age_hours: u64, max_bytes: u64) -> Vec<(i64, Cause)> {
        let policy = Retention { max_age_hours, max_bytes };
        let gone = expired(files, 4 * HOUR_US, policy).into_iter();
        gone.map(|(file, cause)| (file.partition.begins() / HOUR_US, cause)).collect()
    }

    #[test]
    fn the_oldest_go_first_and_only_as_many_as_must() {
        use Cause::{Age, Size};
        let files = [file(3, 10, true), file(1, 10, true), file(2, 10, true)];
        assert!(hours(&files, 0, 0).is_empty());
        assert_eq!(hours(&files, 1, 0), [(1, Age), (2, Age)]);
        assert_eq!(hours(&files, 2, 0), [(1, Age)]);
        assert_eq!(hours(&files, 0, 25), [(1, Size)]);
        assert_eq!(hours(&files, 0, 9), [(1, Size), (2, Size), (3, Size)]);
        assert_eq!(hours(&files, 2, 15), [(1, Age), (2, Size)]);
    }

    #[test]
    fn blobs_go_after_the_rows_of_their_hour() {
        let blobs = |hour: i64| {
            let (mut file, may) = file(hour, 100, true);
            file.path = PathBuf::from(format!("{hour}")).join(blobs::DIR);
            (file, may)
        };
        let files = [blobs(1), file(1, 10, true), blobs(2), file(2, 10, true)];
        let policy = |max_bytes| Retention { max_age_hours: 0, max_bytes };
        let gone = |max_bytes| {
            let gone = expired(&files, 4 * HOUR_US, policy(max_bytes)).into_iter();
            gone.map(|(file, _)| file.path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(gone(215), ["1"]);
        assert_eq!(gone(200), ["1", "1/_blobs"]);
        assert_eq!(gone(105), ["1", "1/_blobs", "2"]);
    }

    #[test]
    fn what_is_not_in_the_store_goes_last_and_never_for_its_age() {
        use Cause::{Age, NotUp, Size};
        let files = [file(1, 10, false), file(2, 10, true), file(3, 10, true)];
        assert_eq!(hours(&files, 1, 0), [(2, Age)]);
        assert_eq!(hours(&files, 0, 10), [(2, Size), (3, Size)]);
        assert_eq!(hours(&files, 0, 5), [(2, Size), (3, Size), (1, NotUp)]);
    }
}
