//! Which files of a model are kept no longer: decided, purely, from their hours and sizes.

use std::{fs, path::Path};

use super::{layout::HOUR_US, options::Retention, reader::LogFile};

/// The files that go, the oldest first, when it is `now`, in microseconds since 1970.
pub fn expired(files: &[LogFile], now: i64, policy: Retention) -> Vec<&LogFile> {
    let mut kept: Vec<(i64, &LogFile)> =
        files.iter().map(|file| (file.partition.ends(), file)).collect();
    kept.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
    let age = i64::try_from(policy.max_age_hours).unwrap_or(i64::MAX).saturating_mul(HOUR_US);
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let mut gone = Vec::new();
    for (ends, file) in kept {
        let old = age > 0 && now.saturating_sub(ends) >= age;
        let much = policy.max_bytes > 0 && bytes > policy.max_bytes;
        if old || much {
            bytes -= file.bytes;
            gone.push(file);
        }
    }
    gone
}

/// Removes the directories of hour and date that a file was the last one in.
pub fn remove_empty(file: &Path) {
    for folder in file.ancestors().skip(1).take(2) {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predlog::layout::Partition;

    fn file(hour: i64, bytes: u64) -> LogFile {
        let partition = Partition::of("m", "1", hour * HOUR_US).expect("in the calendar");
        LogFile { partition, bytes, path: format!("{hour}").into() }
    }

    #[test]
    fn the_oldest_go_first_and_only_as_many_as_must() {
        let files = [file(3, 10), file(1, 10), file(2, 10)];
        let hours = |policy| -> Vec<i64> {
            let gone = expired(&files, 4 * HOUR_US, policy).into_iter();
            gone.map(|file| file.partition.begins() / HOUR_US).collect()
        };
        assert!(hours(Retention::default()).is_empty());
        assert_eq!(hours(Retention { max_age_hours: 1, max_bytes: 0 }), [1, 2]);
        assert_eq!(hours(Retention { max_age_hours: 2, max_bytes: 0 }), [1]);
        assert_eq!(hours(Retention { max_age_hours: 0, max_bytes: 25 }), [1]);
        assert_eq!(hours(Retention { max_age_hours: 0, max_bytes: 9 }), [1, 2, 3]);
    }
}
