//! Which files of a model are kept no longer: decided, purely, from their hours and sizes.

use std::{fs, io, path::Path};

use super::{
    layout::{self, HOUR_US},
    options::Retention,
    reader::LogFile,
};
use crate::telemetry::predictions::Cause;

/// The files that go, when it is `now`, in microseconds since 1970: those that may, the oldest first, and only where these are too few
/// for `max_bytes` others.
pub fn expired(files: &[(LogFile, bool)], now: i64, policy: Retention) -> Vec<(&LogFile, Cause)> {
    let mut kept: Vec<(i64, &LogFile, bool)> =
        files.iter().map(|(file, may)| (file.partition.ends(), file, *may)).collect();
    kept.sort_by(|a, b| (!a.2, a.0, &a.1.path).cmp(&(!b.2, b.0, &b.1.path)));
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

/// Removes a file with what is known about it, and the directories of hour and date that it was the last one in.
///
/// # Errors
/// It stays.
pub fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file)?;
    match fs::remove_file(layout::profile(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for folder in file.ancestors().skip(1).take(2) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
    fn what_is_not_in_the_store_goes_last_and_never_for_its_age() {
        use Cause::{Age, NotUp, Size};
        let files = [file(1, 10, false), file(2, 10, true), file(3, 10, true)];
        assert_eq!(hours(&files, 1, 0), [(2, Age)]);
        assert_eq!(hours(&files, 0, 10), [(2, Size), (3, Size)]);
        assert_eq!(hours(&files, 0, 5), [(2, Size), (3, Size), (1, NotUp)]);
    }
}
