//! Reads the log back: which files there are, and their rows, one batch after another.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use arrow_array::{Array, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{
    compact::journal,
    condition::Condition,
    footer::{self, LogSchema},
    layout::{self, LOG_DIR, Partition},
    value,
};

/// Rows read at once.
const BATCH_ROWS: usize = 8192;

/// Why something could not be read: one line that names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError(pub String);

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReadError {}

/// The error of what was done to `path`.
pub fn failed(path: &Path, what: impl fmt::Display) -> ReadError {
    ReadError(format!("{}: {what}", path.display()))
}

/// Which rows are asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub model: Option<String>,
    pub version: Option<String>,
    /// Received then or later, microseconds since 1970.
    pub from: Option<i64>,
    /// Received before.
    pub to: Option<i64>,
    /// All of them hold.
    pub conditions: Vec<Condition>,
}

impl Filter {
    /// Whether rows of this partition can be among them.
    pub fn admits(&self, partition: &Partition) -> bool {
        self.names(&partition.model, &partition.version)
            && self.from.is_none_or(|from| partition.ends() > from)
            && self.to.is_none_or(|to| partition.begins() < to)
    }

    /// Whether rows of this version can be among them.
    pub fn names(&self, model: &str, version: &str) -> bool {
        self.model.as_ref().is_none_or(|own| own == model)
            && self.version.as_ref().is_none_or(|own| own == version)
    }

    fn admits_all(&self, partition: &Partition) -> bool {
        self.conditions.is_empty()
            && self.from.is_none_or(|from| partition.begins() >= from)
            && self.to.is_none_or(|to| partition.ends() <= to)
    }
}

/// A closed file of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFile {
    pub partition: Partition,
    pub path: PathBuf,
    pub bytes: u64,
}

impl LogFile {
    /// The log's root.
    pub fn root(&self) -> &Path {
        // log/v1/model=…/version=…/date=…/hour=…/ and its name, below it.
        self.path.ancestors().nth(7).unwrap_or(Path::new(""))
    }
}

/// A log on disk.
#[derive(Clone, Debug)]
pub struct Log {
    /// What holds `log/v1`, and beside it labels.
    pub root: PathBuf,
}

impl Log {
    /// The log below `root`. It is an error where there is none.
    pub fn open(root: &Path) -> Result<Log, ReadError> {
        // Before the first file is closed, all there is was written ahead.
        if root.join(LOG_DIR).is_dir() || layout::wal(root).is_dir() {
            return Ok(Log { root: root.to_owned() });
        }
        Err(match root.is_dir() {
            true => {
                failed(root, format!("no log is here (expected the directory {LOG_DIR} in it)"))
            }
            false => failed(root, "no such directory"),
        })
    }

    /// The files that can hold rows of `filter`, ordered by model, version, hour and name.
    pub fn files(&self, filter: &Filter) -> Result<Vec<LogFile>, ReadError> {
        let mut found = Vec::new();
        for (hour, partition) in self.hours(filter)? {
            found.extend(files_of(&hour, &partition)?);
        }
        found.sort();
        Ok(found)
    }

    /// The directories that can hold rows of `filter`.
    pub fn hours(&self, filter: &Filter) -> Result<Vec<(PathBuf, Partition)>, ReadError> {
        let top = self.root.join(LOG_DIR);
        let parsed = |hour: PathBuf| {
            let partition = Partition::parse(hour.strip_prefix(&top).ok()?)?;
            filter.admits(&partition).then_some((hour, partition))
        };
        Ok(partitions(&top)?.into_iter().filter_map(parsed).collect())
    }
}

/// The directories four levels down.
fn partitions(top: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let mut level = vec![top.to_owned()];
    for key in ["model=", "version=", "date=", "hour="] {
        let mut next = Vec::new();
        for dir in &level {
            let entries = list(dir)?;
            next.extend(entries.into_iter().filter(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy());
                name.is_some_and(|name| name.starts_with(key)) && path.is_dir()
            }));
        }
        level = next;
    }
    Ok(level)
}

/// What is in a directory; nothing where it has gone (retention removes them).
fn list(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            entries.map(|e| e.map(|e| e.path()).map_err(|error| failed(dir, error))).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(dir, error)),
    }
}

/// The rows' files of one hour. Files that a compaction has put into another, and not removed yet, are not among them.
pub fn files_of(hour: &Path, partition: &Partition) -> Result<Vec<LogFile>, ReadError> {
    let paths = list(hour)?;
    let replaced: BTreeSet<String> = journal::replaced(hour, &paths)?;
    let mut found = Vec::new();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !layout::is_part(name) || replaced.contains(name) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(about) if about.is_file() => {
                found.push(LogFile { partition: partition.clone(), path, bytes: about.len() });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, error)),
        }
    }
    found.sort();
    Ok(found)
}

/// An open file: what its footer says, and a way to its rows.
pub struct Opened {
    pub path: PathBuf,
    pub rows: u64,
    pub schema: SchemaRef,
    /// The footer's `serving.log.schema`, unread.
    pub footer: Option<String>,
    builder: ParquetRecordBatchReaderBuilder<File>,
}

impl Opened {
    pub fn at(path: &Path) -> Result<Opened, ReadError> {
        let file = journal::open(path).map_err(|error| failed(path, error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| failed(path, format!("not a readable Parquet file: {error}")))?;
        let rows = builder.metadata().file_metadata().num_rows();
        let mut opened = Opened {
            path: path.to_owned(),
            rows: u64::try_from(rows).unwrap_or(0),
            schema: builder.schema().clone(),
            footer: None,
            builder,
        };
        opened.footer = opened.metadata(footer::KEY);
        Ok(opened)
    }

    /// What stands in its footer by this key.
    pub fn metadata(&self, key: &str) -> Option<String> {
        let pairs = self.builder.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.clone()
    }

    /// The roles of its columns.
    pub fn roles(&self) -> Result<LogSchema, ReadError> {
        let text = self
            .footer
            .as_deref()
            .ok_or_else(|| failed(&self.path, format!("its footer has no {}", footer::KEY)))?;
        LogSchema::parse(text).map_err(|why| failed(&self.path, why))
    }

    /// Its rows, of the named columns or of all. Names that the file has not are left out.
    pub fn batches(self, columns: Option<&[String]>) -> Result<Batches, ReadError> {
        let Opened { path, builder, .. } = self;
        let mask = match columns {
            None => ProjectionMask::all(),
            Some(names) => {
                let at = |name: &String| builder.schema().index_of(name).ok();
                ProjectionMask::roots(builder.parquet_schema(), names.iter().filter_map(at))
            }
        };
        let reader = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| failed(&path, error))?;
        Ok(Batches { path, reader })
    }

    /// Whether the bloom filter of a text column says that `value` is in none of its rows; false where there is no filter.
    pub fn surely_without(&self, column: &str, value: &str) -> Result<bool, ReadError> {
        let Ok(at) = self.schema.index_of(column) else { return Ok(true) };
        let leaves = self.builder.parquet_schema();
        let Some(leaf) = (0..leaves.num_columns()).find(|n| leaves.get_column_root_idx(*n) == at)
        else {
            return Ok(false);
        };
        for group in 0..self.builder.metadata().num_row_groups() {
            let filter = self
                .builder
                .get_row_group_column_bloom_filter(group, leaf)
                .map_err(|error| failed(&self.path, error))?;
            if filter.is_none_or(|filter| filter.check(&value)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The rows of a file, batch after batch.
pub struct Batches {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next()?;
        Some(batch.map_err(|error| failed(&self.path, format!("damaged: {error}"))))
    }
}

/// The rows of `file` that `filter` asks for. `columns` limits what is kept; what the filter looks at is read all the same.
pub fn rows(
    file: &LogFile,
    filter: &Filter,
    columns: Option<&[String]>,
) -> Result<impl Iterator<Item = Result<RecordBatch, ReadError>> + use<>, ReadError> {
    let looked_at = columns.map(|names| {
        let more = filter.conditions.iter().map(|condition| &condition.column);
        let mut names: Vec<String> = names.iter().chain(more).cloned().collect();
        names.push("ts".to_owned());
        names
    });
    let batches = Opened::at(&file.path)?.batches(looked_at.as_deref())?;
    let (all, filter, path) =
        (filter.admits_all(&file.partition), filter.clone(), file.path.clone());
    Ok(batches.map(move |batch| {
        let batch = batch?;
        if all { Ok(batch) } else { matching(&batch, &filter).map_err(|why| failed(&path, why)) }
    }))
}

/// The rows of a batch of one version that the filter asks for.
///
/// # Errors
/// They have no times, or a cell has a type that the log has not.
pub fn matching(batch: &RecordBatch, filter: &Filter) -> Result<RecordBatch, String> {
    let keep = kept(batch, filter)?;
    filter_record_batch(batch, &keep).map_err(|error| error.to_string())
}

/// Which rows of a batch the filter asks for.
fn kept(batch: &RecordBatch, filter: &Filter) -> Result<BooleanArray, String> {
    let mut keep = vec![true; batch.num_rows()];
    let times = times(batch)?;
    for (keep, ts) in keep.iter_mut().zip(times.values()) {
        *keep = filter.from.is_none_or(|from| *ts >= from) && filter.to.is_none_or(|to| *ts < to);
    }
    for condition in &filter.conditions {
        // A column that this version's rows do not have is null in them.
        let column = batch.column_by_name(&condition.column);
        for (row, keep) in keep.iter_mut().enumerate().filter(|(_, keep)| **keep) {
            let cell = match column {
                Some(column) => value::at(column.as_ref(), row)?,
                None => value::Value::Null,
            };
            *keep = condition.holds(&cell);
        }
    }
    Ok(BooleanArray::from(keep))
}

/// When the rows were received.
pub fn times(batch: &RecordBatch) -> Result<&TimestampMicrosecondArray, String> {
    let column = batch.column_by_name("ts").ok_or("there is no column ts")?;
    column
        .as_any()
        .downcast_ref::<TimestampMicrosecondArray>()
        .filter(|times| times.null_count() == 0)
        .ok_or_else(|| {
            format!(
                "ts is {} with nulls or of another type than timestamp[us, UTC]",
                column.data_type()
            )
        })
}
