//! Compaction beside the writing of files: a step at a time, so that nothing waits for it long.

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Lock, Merge, Options, journal, plan, run};
use crate::predlog::reader::{Filter, Log, ReadError};

/// Between two looks at everything.
const LOOK: Duration = Duration::from_secs(60);
/// How long files whose rows are in another one stay, for who has listed them.
const GRACE: Duration = Duration::from_secs(600);

/// What is still to be put together.
pub struct Background {
    log: Log,
    options: Options,
    grace: Duration,
    looked: Option<Instant>,
    todo: VecDeque<Merge>,
}

impl Background {
    pub fn new(root: PathBuf, options: Options) -> Background {
        Background { log: Log { root }, options, grace: GRACE, looked: None, todo: VecDeque::new() }
    }

    /// Puts one group of files together, if there is one at `now` (microseconds since 1970): it is given back. Where another process
    /// compacts this log, it is left to that.
    pub fn step(&mut self, now: i64) -> Result<Option<Merge>, ReadError> {
        let due = self.looked.is_none_or(|at| at.elapsed() >= LOOK);
        if self.todo.is_empty() && !due {
            return Ok(None);
        }
        let hours = self.log.hours(&Filter::default())?;
        // A log without a file has no place for the lock.
        let held = if hours.is_empty() { None } else { Lock::take(&self.log)? };
        if held.is_none() {
            self.looked = Some(Instant::now());
            return Ok(None);
        }
        if self.todo.is_empty() {
            self.looked = Some(Instant::now());
            for (hour, _) in hours {
                journal::tidy(&hour, self.grace)?;
            }
            self.todo = plan(&self.log, &Filter::default(), &self.options, now)?.into();
        }
        let Some(merge) = self.todo.pop_front() else { return Ok(None) };
        // Since the plan, retention or somebody else may have been here.
        if !merge.inputs.iter().all(|file| file.path.is_file()) {
            return Ok(None);
        }
        run(&merge).map(|()| Some(merge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predlog::{
        layout::HOUR_US,
        log_files::{self, NINE, Rows},
        reader::Opened,
    };

    fn rows(log: &Log) -> usize {
        let files = log.files(&Filter::default()).expect("listed");
        let of = |path| Opened::at(path).expect("readable").rows as usize;
        files.iter().map(|file| of(&file.path)).sum()
    }

    #[test]
    fn closed_hours_are_put_together_and_who_listed_them_before_reads_on() {
        let home = tempfile::tempdir().expect("a directory");
        for n in 0..4 {
            log_files::write(
                home.path(),
                &format!("part-n-b-{n}.parquet"),
                Rows::numbered(n * 50, 50),
            );
        }
        let mut background = Background::new(home.path().into(), Options::default());
        assert_eq!(
            background.step(NINE + HOUR_US).expect("a look"),
            None,
            "the hour is not closed"
        );
        background.looked = None;
        let listed = background.log.files(&Filter::default()).expect("listed");
        let later = NINE + 3 * HOUR_US;
        let merge = background.step(later).expect("a step").expect("something to do");
        assert_eq!((merge.inputs.len(), merge.rows), (4, 200));
        let log = background.log.clone();
        let files = log.files(&Filter::default()).expect("listed");
        assert_eq!((files.len(), rows(&log)), (1, 200));
        for file in &listed {
            assert_eq!(Opened::at(&file.path).expect("still there").rows, 50);
        }
        background.looked = None;
        assert_eq!(background.step(later).expect("a look"), None);
        assert!(Opened::at(&listed[0].path).is_ok(), "within its grace");
        (background.looked, background.grace) = (None, Duration::ZERO);
        assert_eq!(background.step(later).expect("a look"), None);
        assert!(Opened::at(&listed[0].path).is_err());
        let left = std::fs::read_dir(files[0].path.parent().expect("an hour")).expect("listed");
        assert_eq!(left.count(), 1, "nothing but the file is left");
    }

    #[test]
    fn while_another_compacts_nothing_is_done() {
        let home = tempfile::tempdir().expect("a directory");
        for n in 0..2 {
            log_files::write(
                home.path(),
                &format!("part-n-b-{n}.parquet"),
                Rows::numbered(n * 50, 50),
            );
        }
        let mut background = Background::new(home.path().into(), Options::default());
        let lock = Lock::wait(&background.log).expect("free");
        assert_eq!(background.step(i64::MAX).expect("a look"), None);
        drop(lock);
        background.looked = None;
        assert!(background.step(i64::MAX).expect("a step").is_some());
    }
}
