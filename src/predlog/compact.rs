//! Small files of closed hours put together. A row is never missing meanwhile; for other readers it may be there twice for a
//! moment (`event_id` tells), for ours it never is.

pub mod journal;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use arrow_array::{RecordBatch, UInt64Array};
use arrow_select::{concat::concat_batches, take::take_record_batch};
use parquet::arrow::ArrowWriter;

use self::journal::Journal;
use super::{
    digest, export,
    layout::LOG_DIR,
    reader::{Filter, Log, LogFile, Opened, ReadError, failed, times},
};

/// When files are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Files of fewer bytes are small.
    pub small_bytes: u64,
    /// How many bytes of small files become one.
    pub target_bytes: u64,
    /// How long after its end an hour is closed, microseconds: rows of it may still be on their way into a file.
    pub grace_us: i64,
}

impl Default for Options {
    fn default() -> Options {
        Options { small_bytes: 16 << 20, target_bytes: 128 << 20, grace_us: 30 * 60 * 1_000_000 }
    }
}

/// Files that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    pub inputs: Vec<LogFile>,
    pub rows: u64,
    pub output: PathBuf,
}

impl Merge {
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|file| file.bytes).sum()
    }
}

/// Holds off other compactions of the same log while it lives.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock ends with the open file")] File);

impl Lock {
    pub fn take(log: &Log) -> Result<Lock, ReadError> {
        let path = log.root.join(LOG_DIR).join("_compact.lock");
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(_) => Err(failed(&path, "another compaction of this log is under way")),
        }
    }
}

/// What would be put together: of every hour that is closed at `now` (microseconds since 1970), small files of one schema.
pub fn plan(
    log: &Log,
    filter: &Filter,
    options: &Options,
    now: i64,
) -> Result<Vec<Merge>, ReadError> {
    let mut merges = Vec::new();
    let mut files = log.files(filter)?;
    files.retain(|file| {
        file.partition.ends().saturating_add(options.grace_us) <= now
            && file.bytes < options.small_bytes
    });
    for hour in files.chunk_by(|a, b| a.partition == b.partition) {
        // Files with the same columns and the same footer, in the order in which these come.
        let mut kinds: Vec<(Opened, Vec<(LogFile, u64)>)> = Vec::new();
        for file in hour {
            let opened = Opened::at(&file.path)?;
            let entry = (file.clone(), opened.rows);
            let same = |k: &Opened| k.schema == opened.schema && k.footer == opened.footer;
            match kinds.iter_mut().find(|(kind, _)| same(kind)) {
                Some((_, members)) => members.push(entry),
                None => kinds.push((opened, vec![entry])),
            }
        }
        for (_, members) in kinds {
            merges.extend(groups(members, options.target_bytes));
        }
    }
    Ok(merges)
}

/// Cuts files into groups of about `target` bytes; a lone one is left as it is.
fn groups(members: Vec<(LogFile, u64)>, target: u64) -> Vec<Merge> {
    let mut out: Vec<Vec<(LogFile, u64)>> = Vec::new();
    let mut size = u64::MAX;
    for member in members {
        let bytes = member.0.bytes;
        match out.last_mut() {
            Some(group) if size.saturating_add(bytes) <= target => {
                size += bytes;
                group.push(member);
            }
            _ => {
                size = bytes;
                out.push(vec![member]);
            }
        }
    }
    let merge = |group: Vec<(LogFile, u64)>| {
        let rows = group.iter().map(|(_, rows)| rows).sum();
        let inputs: Vec<LogFile> = group.into_iter().map(|(file, _)| file).collect();
        let names: Vec<String> = inputs.iter().map(name).collect();
        let id = &digest::bytes(names.join("\n").as_bytes())[..16];
        let output = inputs[0].path.with_file_name(format!("part-compact-{id}.parquet"));
        Merge { inputs, rows, output }
    };
    out.into_iter().filter(|group| group.len() > 1).map(merge).collect()
}

fn name(file: &LogFile) -> String {
    file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Puts the files together. Killed at any moment, it leaves every row in place; `journal::recover` tidies up.
pub fn run(merge: &Merge) -> Result<(), ReadError> {
    let hour = merge.output.parent().unwrap_or(Path::new("."));
    let first = Opened::at(&merge.inputs[0].path)?;
    let (schema, footer) = (first.schema.clone(), first.footer.clone());
    let mut batches = Vec::new();
    for file in &merge.inputs {
        for batch in Opened::at(&file.path)?.batches(None)? {
            batches.push(batch?);
        }
    }
    let bad = |why: String| failed(&merge.output, why);
    let all = concat_batches(&schema, &batches).map_err(|error| bad(error.to_string()))?;
    drop(batches);
    if all.num_rows() as u64 != merge.rows {
        return Err(bad(format!("{} rows were read and {} expected", all.num_rows(), merge.rows)));
    }
    let sorted = by_time(&all).map_err(bad)?;
    let journal = Journal {
        inputs: merge.inputs.iter().map(name).collect(),
        output: merge
            .output
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    let hidden = hour.join(journal.hidden());
    write(&hidden, &sorted, footer.as_deref())?;
    journal.write(hour)?;
    fs::rename(&hidden, &merge.output).map_err(|error| failed(&merge.output, error))?;
    sync_dir(hour)?;
    journal.finish(hour)
}

fn by_time(batch: &RecordBatch) -> Result<RecordBatch, String> {
    let times = times(batch)?;
    let mut order: Vec<u64> = (0..batch.num_rows() as u64).collect();
    order.sort_by_key(|row| times.value(*row as usize));
    take_record_batch(batch, &UInt64Array::from(order)).map_err(|error| error.to_string())
}

/// Writes a whole file and has it on the disk.
fn write(path: &Path, batch: &RecordBatch, footer: Option<&str>) -> Result<(), ReadError> {
    let file = File::create(path).map_err(|error| failed(path, error))?;
    let bad = |error: parquet::errors::ParquetError| failed(path, error);
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(export::properties(footer)))
        .map_err(bad)?;
    writer.write(batch).map_err(bad)?;
    let mut file = writer.into_inner().map_err(bad)?;
    file.flush().and_then(|()| file.sync_all()).map_err(|error| failed(path, error))
}

/// Has a directory's entries on the disk.
pub fn sync_dir(dir: &Path) -> Result<(), ReadError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(dir, error))
}
