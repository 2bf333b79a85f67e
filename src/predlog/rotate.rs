//! A segment of the write-ahead log becomes Parquet files, one for each hour: sorted by time, named by who wrote them, there as a
//! whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::{concat::concat_batches, take::take_record_batch};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use sha2::{Digest, Sha256};

use super::{
    blobs,
    columns::meta::META,
    disk::{self, Disk, DiskFile},
    erased::Ledger,
    footer::{self, LogSchema},
    inventory::{By, Inventory, LeftOut, Line, There},
    layout::{self, HOUR_US, Partition},
    profile::{Profile, build::Builder},
    wal::Segment,
};

/// Rows of a row group; and bytes that are held to make one.
const GROUP_ROWS: usize = 128 << 10;
const GROUP_BYTES: usize = 64 << 20;

/// Columns by which single rows are looked for.
const LOOKED_UP: [&str; 3] = ["event_id", "label_key", "subject_key"];

/// Columns of text that have few values, and are written once each.
const FEW_VALUES: [&str; 17] = [
    "model_name",
    "model_version",
    "model_digest",
    "requested_version",
    "route",
    "rollout_id",
    "protocol",
    "error_code",
    "cache",
    "device",
    "node",
    "caller",
    "tenant",
    "schema_id",
    "pred_label",
    "status",
    "redaction_rev",
];

/// What came of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    pub files: Vec<Closed>,
    pub rows: u64,
    /// Rows that were left out, since their subject is erased.
    pub erased: u64,
    /// Bytes at the segment's end that were no whole frame.
    pub torn_bytes: u64,
    /// Whose rows they are; `None` where there were none.
    pub model: Option<String>,
}

/// A file that rows were put into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub path: PathBuf,
    pub there: There,
}

/// Whose segment it is, for the names of files, and what is written beside them.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    pub node: &'a str,
    pub boot: &'a str,
    pub segment: u64,
    /// How many rows the sample of a profile has; `None` where there are no profiles.
    pub profile: Option<usize>,
    /// The list of whoever does it.
    pub inventory: &'a Inventory,
}

/// Writes the segment's rows below `root`, and lists the files. The segment stays; whoever calls removes it, since its rows are safe
/// once this returns.
///
/// # Errors
/// What could not be read or written. Nothing is left half written but under a name that readers skip.
pub fn rotate(
    disk: &dyn Disk,
    root: &Path,
    segment: &Path,
    (origin, erased): (Origin<'_>, &Ledger),
) -> Result<Rotated, String> {
    let failed = |error: io::Error| format!("{}: {error}", segment.display());
    let mut frames = Segment::open(segment).map_err(failed)?;
    let mut rotated = Rotated::default();
    let mut hours: BTreeMap<i64, Hour> = BTreeMap::new();
    // What rows that are left out refer to.
    let mut released = BTreeSet::new();
    while let Some(batch) = frames.read().map_err(failed)? {
        let Some(footer) = frames.footer() else { break };
        let left_out = erased.only(&batch)?;
        let batch = erased.without(&batch)?;
        let refer = blobs::columns(footer);
        released.extend(blobs::references(&left_out, &refer).map(str::to_owned));
        rotated.rows += batch.num_rows() as u64;
        rotated.erased += left_out.num_rows() as u64;
        for (hour, rows) in by_hour(&batch)? {
            let own = match hours.entry(hour) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Hour::new(root, footer, hour, origin)?),
            };
            own.add(disk, rows, footer)?;
        }
    }
    rotated.torn_bytes = frames.torn();
    if let Some(footer) = frames.footer() {
        rotated.model = Some(footer.model.clone());
        for (_, hour) in hours {
            rotated.files.push(hour.finish(disk, footer)?);
        }
    }
    let Origin { node, boot, inventory, .. } = origin;
    let line = |file: &Closed| Line::new(root, &file.path, By::Rotate, Some(file.there.clone()));
    let lines: io::Result<Vec<Line>> = rotated.files.iter().map(line).collect();
    let listed = lines.and_then(|mut lines| {
        if let (Some(model), 1..) = (rotated.model.clone(), rotated.erased) {
            let left_out = LeftOut { model, rows: rotated.erased };
            lines.push(Line::left_out(root, segment, By::Rotate, left_out)?);
        }
        inventory.note(&lines)
    });
    listed.map_err(|error| format!("_manifest of {node}-{boot}: {error}"))?;
    blobs::release(root, released, erased, false).map_err(|error| error.0)?;
    Ok(rotated)
}

fn times(batch: &RecordBatch) -> Result<&TimestampMicrosecondArray, String> {
    let column = batch.column_by_name("ts");
    let times = column.and_then(|c| c.as_any().downcast_ref::<TimestampMicrosecondArray>());
    times.ok_or_else(|| "the segment's rows have no time".to_owned())
}

/// The rows of each hour.
fn by_hour(batch: &RecordBatch) -> Result<Vec<(i64, RecordBatch)>, String> {
    let times = times(batch)?;
    let mut rows: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    for (at, time) in times.values().iter().enumerate() {
        let at = u32::try_from(at).map_err(|_| "too many rows in a frame".to_owned())?;
        rows.entry(time.div_euclid(HOUR_US)).or_default().push(at);
    }
    if rows.len() == 1 {
        return Ok(rows.into_keys().map(|hour| (hour, batch.clone())).collect());
    }
    let pick = |rows: Vec<u32>| {
        take_record_batch(batch, &UInt32Array::from(rows)).map_err(|error| error.to_string())
    };
    rows.into_iter().map(|(hour, rows)| Ok((hour, pick(rows)?))).collect()
}

/// The file of one hour.
struct Hour {
    path: PathBuf,
    temporary: PathBuf,
    waiting: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    all_rows: u64,
    writer: Option<ArrowWriter<Sink>>,
    profile: Option<Builder>,
}

impl Hour {
    fn new(root: &Path, footer: &LogSchema, hour: i64, origin: Origin<'_>) -> Result<Hour, String> {
        let partition = Partition::of(&footer.model, &footer.version, hour.saturating_mul(HOUR_US));
        let partition = partition.ok_or("rows of an hour that is beyond the calendar")?;
        let folder = layout::log(root).join(partition.dir());
        let name = layout::part(origin.node, origin.boot, origin.segment);
        Ok(Hour {
            temporary: folder.join(format!(".{name}.tmp")),
            path: folder.join(name),
            waiting: Vec::new(),
            rows: 0,
            bytes: 0,
            all_rows: 0,
            writer: None,
            profile: origin.profile.map(|rows| begin(root, footer, rows)),
        })
    }

    fn add(
        &mut self,
        disk: &dyn Disk,
        rows: RecordBatch,
        footer: &LogSchema,
    ) -> Result<(), String> {
        self.rows += rows.num_rows();
        self.all_rows += rows.num_rows() as u64;
        self.bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
        if self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.group(disk, footer)?;
        }
        Ok(())
    }

    /// Writes what waits as one row group.
    fn group(&mut self, disk: &dyn Disk, footer: &LogSchema) -> Result<(), String> {
        let Some(schema) = self.waiting.first().map(RecordBatch::schema) else { return Ok(()) };
        let rows = concat_batches(&schema, &self.waiting).map_err(|error| error.to_string())?;
        self.waiting.clear();
        let rows = sorted(&rows)?;
        if let Some(profile) = &mut self.profile {
            profile.add(&rows);
        }
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let file = disk.create(&self.temporary).map_err(|error| failed(&error))?;
                let sink = Sink { file, bytes: 0, digest: Sha256::new() };
                let properties = properties(&schema, rows.num_rows(), Some(&footer.text()));
                let writer = ArrowWriter::try_new(sink, schema, Some(properties));
                self.writer.insert(writer.map_err(|error| failed(&error))?)
            }
        };
        writer.write(&rows).and_then(|()| writer.flush()).map_err(|error| failed(&error))?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    fn finish(mut self, disk: &dyn Disk, footer: &LogSchema) -> Result<Closed, String> {
        self.group(disk, footer)?;
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        let Some(writer) = self.writer else { return Err(failed(&"there are no rows")) };
        let mut sink = writer.into_inner().map_err(|error| failed(&error))?;
        sink.file.sync().map_err(|error| failed(&error))?;
        let sha256 = hex::encode(sink.digest.finalize());
        let there = There { rows: self.all_rows, bytes: sink.bytes, sha256 };
        // Before the file, so that whoever sees one sees the other.
        if let Some(profile) = self.profile {
            let mut bytes = Vec::new();
            match profile.finish().write(&mut bytes) {
                Ok(()) => disk::replace(disk, &layout::profile(&self.path), &bytes)
                    .map_err(|error| failed(&error))?,
                Err(error) => {
                    let path = self.path.display();
                    tracing::error!(error, "there is no profile beside {path}");
                }
            }
        }
        disk.rename(&self.temporary, &self.path).map_err(|error| failed(&error))?;
        // All directories above may be new as well, up to the log's own.
        for folder in self.path.ancestors().skip(1).take(7) {
            disk.sync_dir(folder).map_err(|error| failed(&error))?;
        }
        Ok(Closed { path: self.path, there })
    }
}

/// A profile in the making: against the reference that came with the version, if one did.
fn begin(root: &Path, footer: &LogSchema, rows: usize) -> Builder {
    let mut profile = Builder::new(footer, rows);
    let reference = layout::reference(root, &footer.model_digest);
    if reference.is_file() {
        match Profile::read(&reference) {
            Ok(reference) => profile.against(&reference),
            Err(error) => tracing::warn!(%error, "a reference of the prediction log is left out"),
        }
    }
    profile
}

/// The rows by time; those of one time as they came.
fn sorted(rows: &RecordBatch) -> Result<RecordBatch, String> {
    let times = times(rows)?.values();
    if times.is_sorted() {
        return Ok(rows.clone());
    }
    let mut order: Vec<u32> = (0..u32::try_from(times.len()).unwrap_or(u32::MAX)).collect();
    order.sort_by_key(|at| times[*at as usize]);
    take_record_batch(rows, &UInt32Array::from(order)).map_err(|error| error.to_string())
}

/// How a file of so many rows, or of so many in its first row group, is written. Row groups are as large as the largest ever is.
pub fn properties(schema: &SchemaRef, rows: usize, footer: Option<&str>) -> WriterProperties {
    let footer = footer.map(|text| vec![KeyValue::new(footer::KEY.to_owned(), text.to_owned())]);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("onnxd ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS * 2))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(footer);
    let has = |name: &str| schema.field_with_name(name).is_ok();
    for name in LOOKED_UP.into_iter().filter(|name| has(name)) {
        let column = ColumnPath::from(name);
        properties = properties
            .set_column_bloom_filter_enabled(column.clone(), true)
            .set_column_bloom_filter_max_ndv(column, rows.clamp(1, GROUP_ROWS * 2) as u64);
    }
    debug_assert!(META.iter().any(|(_, name, _, _)| *name == FEW_VALUES[0]));
    for name in FEW_VALUES.into_iter().filter(|name| has(name)) {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), true);
    }
    properties.build()
}

/// A file as Parquet's writer takes it, and the digest of what went into it: what the disk makes of that is another matter.
struct Sink {
    file: Box<dyn DiskFile>,
    bytes: u64,
    digest: Sha256,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What is shared by the threads that write: the disk, and where on it.
#[derive(Clone)]
pub struct Place {
    pub disk: Arc<dyn Disk>,
    pub root: PathBuf,
    pub node: Arc<str>,
    pub boot: Arc<str>,
}

impl Place {
    /// Where this start of the server writes ahead.
    pub fn wal(&self) -> PathBuf {
        layout::wal(&self.root).join(format!("{}-{}", self.node, self.boot))
    }

    pub fn segment(&self, number: u64) -> PathBuf {
        self.wal().join(format!("{number:08}.wal"))
    }
}
