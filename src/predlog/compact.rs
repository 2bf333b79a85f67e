//! Small files of closed hours put together. A row is never missing meanwhile; for other readers it may be there twice for a
//! moment (`event_id` tells), for ours it never is.

pub mod background;
pub mod journal;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use arrow_array::{BooleanArray, RecordBatch, UInt64Array};
use arrow_select::{concat::concat_batches, filter::filter_record_batch, take::take_record_batch};
use parquet::arrow::ArrowWriter;

use self::journal::Journal;
use super::{
    digest,
    disk::{self, Real},
    layout::{self, LOG_DIR},
    profile::Profile,
    reader::{Batches, Filter, Log, LogFile, Opened, ReadError, failed, times},
    rotate::properties,
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
    /// The lock, once whoever has it is through.
    pub fn wait(log: &Log) -> Result<Lock, ReadError> {
        let (path, file) = Lock::open(log)?;
        file.lock().map_err(|error| failed(&path, error))?;
        Ok(Lock(file))
    }

    /// The lock, if nobody has it.
    pub fn take(log: &Log) -> Result<Option<Lock>, ReadError> {
        let (_, file) = Lock::open(log)?;
        Ok(file.try_lock().is_ok().then_some(Lock(file)))
    }

    fn open(log: &Log) -> Result<(PathBuf, File), ReadError> {
        let path = log.root.join(LOG_DIR).join("_compact.lock");
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        match file {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(failed(&path, error)),
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
    let hours = files.chunk_by(|a, b| a.partition == b.partition);
    for hour in hours.filter(|files| files.len() > 1) {
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

/// Puts the files together. Killed at any moment, it leaves every row in place; `journal::recover` tidies up. What was put together
/// stays under a hidden name until `journal::tidy`, for who has listed it and not opened it yet.
pub fn run(merge: &Merge) -> Result<(), ReadError> {
    let hour = merge.output.parent().unwrap_or(Path::new("."));
    let journal = Journal {
        inputs: merge.inputs.iter().map(name).collect(),
        output: merge
            .output
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    let hidden = hour.join(journal.hidden());
    let written = write(&hidden, merge)?;
    if written != merge.rows {
        let why = format!("{written} rows were read and {} expected", merge.rows);
        return Err(failed(&merge.output, why));
    }
    profile(merge)?;
    journal.write(hour)?;
    fs::rename(&hidden, &merge.output).map_err(|error| failed(&merge.output, error))?;
    sync_dir(hour)?;
    journal.finish(hour)
}

/// Writes the rows of all inputs into one file, by time, and has it on the disk. Says how many there were. A batch of each input is
/// held at a time, and what makes a row group.
fn write(path: &Path, merge: &Merge) -> Result<u64, ReadError> {
    let bad = |why: String| failed(path, why);
    let opened = merge.inputs.iter().map(|file| Opened::at(&file.path));
    let opened = opened.collect::<Result<Vec<Opened>, ReadError>>()?;
    let first = opened.first().ok_or_else(|| bad("nothing to put together".into()))?;
    let (schema, footer) = (first.schema.clone(), first.footer.clone());
    let rows = usize::try_from(merge.rows).unwrap_or(usize::MAX);
    let properties = properties(&schema, rows, footer.as_deref());
    let file = File::create(path).map_err(|error| failed(path, error))?;
    let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
    let mut writer = writer.map_err(|error| bad(error.to_string()))?;
    let sources = opened.into_iter().map(|file| file.batches(None)?.source());
    let mut sources = sources.collect::<Result<Vec<Source>, ReadError>>()?;
    let mut written = 0;
    while let Some(until) = sources.iter().filter_map(Source::last).min() {
        let mut parts = Vec::new();
        for source in &mut sources {
            parts.extend(source.take(until)?);
        }
        let rows = concat_batches(&schema, &parts).map_err(|error| bad(error.to_string()))?;
        written += rows.num_rows() as u64;
        let rows = by_time(&rows).map_err(bad)?;
        writer.write(&rows).map_err(|error| bad(error.to_string()))?;
    }
    let mut file = writer.into_inner().map_err(|error| bad(error.to_string()))?;
    file.flush().and_then(|()| file.sync_all()).map_err(|error| failed(path, error))?;
    Ok(written)
}

/// The profiles of all inputs make that of the output; where one has none, it has none.
fn profile(merge: &Merge) -> Result<(), ReadError> {
    let mut all: Option<Profile> = None;
    for input in &merge.inputs {
        let path = layout::profile(&input.path);
        if !path.is_file() {
            return Ok(());
        }
        let own = Profile::read(&path)?;
        match &mut all {
            Some(all) => all.merge(&own),
            None => all = Some(own),
        }
    }
    let (Some(all), path) = (all, layout::profile(&merge.output)) else { return Ok(()) };
    let mut bytes = Vec::new();
    all.write(&mut bytes).map_err(|why| failed(&path, why))?;
    disk::replace(&Real, &path, &bytes).map_err(|error| failed(&path, error))
}

/// The rows of one input that are not written yet.
struct Source {
    batches: Batches,
    held: Option<RecordBatch>,
}

impl Batches {
    fn source(self) -> Result<Source, ReadError> {
        let mut source = Source { batches: self, held: None };
        source.fill()?;
        Ok(source)
    }
}

impl Source {
    fn fill(&mut self) -> Result<(), ReadError> {
        while self.held.as_ref().is_none_or(|held| held.num_rows() == 0) {
            match self.batches.next() {
                Some(batch) => self.held = Some(batch?),
                None => {
                    self.held = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The time of the latest row that is held.
    fn last(&self) -> Option<i64> {
        times(self.held.as_ref()?).ok()?.values().iter().copied().max()
    }

    /// The rows that are held and not later than `until`, of which there may be none.
    fn take(&mut self, until: i64) -> Result<Option<RecordBatch>, ReadError> {
        let Some(held) = self.held.take() else { return Ok(None) };
        let early: BooleanArray = {
            let times = times(&held).map_err(ReadError)?;
            times.values().iter().map(|ts| Some(*ts <= until)).collect()
        };
        let pick = |keep: &BooleanArray| {
            filter_record_batch(&held, keep).map_err(|error| ReadError(error.to_string()))
        };
        let taken = pick(&early)?;
        let late: BooleanArray = early.values().iter().map(|early| Some(!early)).collect();
        self.held = Some(pick(&late)?);
        self.fill()?;
        Ok(Some(taken))
    }
}

fn by_time(batch: &RecordBatch) -> Result<RecordBatch, String> {
    let times = times(batch)?.values();
    if times.is_sorted() {
        return Ok(batch.clone());
    }
    let mut order: Vec<u64> = (0..batch.num_rows() as u64).collect();
    order.sort_by_key(|row| times[*row as usize]);
    take_record_batch(batch, &UInt64Array::from(order)).map_err(|error| error.to_string())
}

/// Has a directory's entries on the disk.
pub fn sync_dir(dir: &Path) -> Result<(), ReadError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(dir, error))
}
