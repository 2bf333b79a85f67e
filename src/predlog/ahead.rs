//! Rows that are in the write-ahead log and in no file yet: which segments there are, and their rows as they are committed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use arrow_array::RecordBatch;
use arrow_select::filter::filter_record_batch;

use super::{
    export, layout,
    reader::{Filter, Log, LogFile, ReadError, failed, matching},
    value::Value,
    verify,
    wal::Segment,
};

/// A segment of some start of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    /// As `NODE-BOOT`.
    pub start: String,
    pub number: u64,
    pub path: PathBuf,
}

/// The segments below a log's directory, in their order.
///
/// # Errors
/// A directory cannot be read.
pub fn segments(root: &Path) -> Result<Vec<Written>, ReadError> {
    let mut found = Vec::new();
    for folder in list(&layout::wal(root))? {
        let Some(start) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        for path in list(&folder)? {
            let is_wal = path.extension().is_some_and(|extension| extension == "wal");
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let (true, Some(number)) = (is_wal, number) {
                found.push(Written { start: start.clone(), number, path });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is in a directory; nothing where it has gone, or is none.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ReadError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(|error| failed(folder, error)))
            .collect(),
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(failed(folder, error)),
    }
}

/// The name of the start and the number of the segment that a file was made of; `None` of one that was put together.
pub fn origin(file: &str) -> Option<(&str, u64)> {
    let name = file.strip_prefix("part-")?.strip_suffix(".parquet")?;
    let (start, number) = name.rsplit_once('-')?;
    Some((start, number.parse().ok()?)).filter(|_| start.contains('-'))
}

/// Follows the segments: gives each row once, whether it is found there or in the file that was made of them.
#[derive(Default)]
pub struct Ahead {
    open: BTreeMap<Written, Followed>,
}

struct Followed {
    segment: Segment,
    /// Of rows that were given.
    given: HashSet<u128>,
    there: bool,
}

impl Ahead {
    /// Gives the rows that were committed since the last time. The files that may have been made of them meanwhile are to be looked for
    /// afterwards, and `fresh` asked about each.
    ///
    /// # Errors
    /// A segment cannot be read, or the rows not be given.
    pub fn read(
        &mut self,
        log: &Log,
        filter: &Filter,
        mut with: impl FnMut(&[(&str, Value)]),
    ) -> Result<(), ReadError> {
        // What was gone the last time has its file by now, which was looked at since.
        self.open.retain(|_, followed| followed.there);
        let there: BTreeSet<Written> = segments(&log.root)?.into_iter().collect();
        for written in &there {
            if !self.open.contains_key(written)
                && let Some(segment) = opened(&written.path)?
            {
                let followed = Followed { segment, given: HashSet::new(), there: true };
                self.open.insert(written.clone(), followed);
            }
        }
        for (written, followed) in &mut self.open {
            followed.there = there.contains(written);
            let bad = |error: io::Error| failed(&written.path, error);
            followed.segment.go_on().map_err(bad)?;
            while let Some(batch) = followed.segment.read().map_err(bad)? {
                let footer = followed.segment.footer();
                if footer.is_none_or(|footer| !filter.names(&footer.model, &footer.version)) {
                    continue;
                }
                let bad = |why: String| failed(&written.path, why);
                followed.given.extend(verify::ids(&batch).map_err(bad)?);
                let rows = matching(&batch, filter).map_err(bad)?;
                let each = |cells: &[(&str, Value)]| {
                    with(cells);
                    Ok(())
                };
                export::each_row(&rows, each).map_err(bad)?;
            }
        }
        Ok(())
    }

    /// Of a file's rows those that were not given out of its segment.
    ///
    /// # Errors
    /// The rows have no ids.
    pub fn fresh(&self, file: &LogFile, batch: RecordBatch) -> Result<RecordBatch, ReadError> {
        let name = file.path.file_name().and_then(|name| name.to_str()).and_then(origin);
        let of = |(written, _): &(&Written, &Followed)| {
            name == Some((written.start.as_str(), written.number))
        };
        let Some((_, followed)) = self.open.iter().find(of) else { return Ok(batch) };
        let bad = |why: String| failed(&file.path, why);
        let ids = verify::ids(&batch).map_err(bad)?;
        let keep = ids.into_iter().map(|id| Some(!followed.given.contains(&id))).collect();
        filter_record_batch(&batch, &keep).map_err(|e| bad(e.to_string()))
    }
}

/// `None`: it has gone.
fn opened(path: &Path) -> Result<Option<Segment>, ReadError> {
    match Segment::open(path) {
        Ok(segment) => Ok(Some(segment)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// What a whole segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub model: Option<String>,
    pub rows: u64,
    /// Bytes of a write that was cut off, or is being written.
    pub torn_bytes: u64,
    pub problem: Option<String>,
}

/// Reads a segment and checks its frames; `None`: it has gone.
///
/// # Errors
/// It cannot be read.
pub fn held(path: &Path) -> Result<Option<Held>, ReadError> {
    let Some(mut segment) = opened(path)? else { return Ok(None) };
    let mut rows = 0;
    while let Some(batch) = segment.read().map_err(|error| failed(path, error))? {
        rows += batch.num_rows() as u64;
    }
    let damage = segment.damage();
    Ok(Some(Held {
        model: segment.footer().map(|footer| footer.model.clone()),
        rows,
        torn_bytes: segment.torn(),
        problem: damage.map(|(at, why)| {
            format!("{why}, at byte {at}: {} bytes from there on are lost", segment.torn())
        }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_which_segment_it_was_made_of() {
        assert_eq!(origin("part-a-b-19ab-7.parquet"), Some(("a-b-19ab", 7)));
        for name in ["part-compact-7.parquet", "part-a-b-x.parquet", "a.parquet", "part-.parquet"] {
            assert_eq!(origin(name), None, "{name}");
        }
    }
}
