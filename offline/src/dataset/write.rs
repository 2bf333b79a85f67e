//! Writes a data set: reads the log a second time, hour after hour, and puts the rows that are in, with their labels, into the file of
//! their part, sorted.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::{coalesce::BatchCoalescer, filter::filter_record_batch};
use onnxd::predlog::{
    digest,
    export::{fitted, properties},
    reader::{Filter, LogFile, ReadError, failed, rows, times},
    value::{self, Value, time_text},
};
use parquet::arrow::ArrowWriter;

use super::{
    columns::Columns,
    guards::{Guard, Leak},
    manifest::Written,
    select::{Choices, Chosen, Slices, changed},
    sort::Sorter,
    split::Slice,
};
use crate::coverage::{column, texts};

/// Rows that are written at once, and bytes that make a row group: always the same, so that the same rows give the same file.
const WRITTEN_ROWS: usize = 8192;
const GROUP_BYTES: usize = 32 << 20;

/// The second pass: the rows that are in, hour after hour.
pub struct Pass<'a> {
    pub filter: &'a Filter,
    pub columns: &'a Columns,
    pub slices: &'a Slices,
    /// Where rows wait that are more than `bytes` of memory hold.
    pub aside: &'a Path,
    pub bytes: u64,
}

/// One slice's file while it is written.
struct Writing {
    path: PathBuf,
    writer: ArrowWriter<File>,
    waiting: BatchCoalescer,
    rows: u64,
    times: Option<(i64, i64)>,
    labels: BTreeMap<String, u64>,
}

impl Pass<'_> {
    /// Writes the files of the parts below `part`.
    pub fn run(
        &self,
        files: &[LogFile],
        part: &Path,
        mut seen: impl FnMut(usize),
    ) -> Result<(Vec<Written>, Vec<Leak>), ReadError> {
        let mut open: BTreeMap<Slice, Writing> = BTreeMap::new();
        for slice in self.slices.used.keys() {
            open.insert(*slice, Writing::create(part, *slice, &self.columns.schema)?);
        }
        let (mut guard, mut choices) = (Guard::default(), self.slices.read()?);
        let mut done = 0;
        for hour in files.chunk_by(|a, b| a.partition.begins() == b.partition.begins()) {
            for (slice, sorter) in self.hour(hour, done, &mut choices)? {
                let Some(writing) = open.get_mut(&slice) else { continue };
                sorter.drain(|rows| {
                    if slice == Slice::Train && guard.wants_more() {
                        self.look(&rows, &mut guard).map_err(|why| failed(&writing.path, why))?;
                    }
                    writing.write(rows)
                })?;
            }
            done += hour.len();
            seen(done);
        }
        choices.end()?;
        let written = open.into_iter().map(|(slice, writing)| writing.finish(slice));
        Ok((written.collect::<Result<_, _>>()?, guard.leaks()))
    }

    /// The rows of an hour that are in, by slice. `first` is the number of its first file.
    fn hour(
        &self,
        hour: &[LogFile],
        first: usize,
        choices: &mut Choices<'_>,
    ) -> Result<BTreeMap<Slice, Sorter>, ReadError> {
        // What is held is copied twice when it is sorted.
        let most = usize::try_from(self.bytes / 12).unwrap_or(usize::MAX);
        let mut sorters: BTreeMap<Slice, Sorter> = BTreeMap::new();
        for (n, file) in hour.iter().enumerate() {
            let mut row = 0;
            for batch in rows(file, self.filter, Some(&self.columns.read))? {
                let batch = batch?;
                let bad = |why: String| failed(&file.path, why);
                let count = batch.num_rows() as i64;
                let chosen = choices.of((first + n) as i64, row..row + count)?;
                row += count;
                for slice in Slice::ALL {
                    let Some(rows) = self.of(slice, &batch, &chosen).map_err(bad)? else {
                        continue;
                    };
                    let new = || Sorter::new(&self.columns.schema, self.aside, slice.name(), most);
                    sorters.entry(slice).or_insert_with(new).add(rows)?;
                }
            }
        }
        Ok(sorters)
    }

    /// The rows of a batch that are in a slice, with their labels and weights, in the schema of the data set; none of none.
    fn of(
        &self,
        slice: Slice,
        batch: &RecordBatch,
        chosen: &[Option<(Slice, Chosen)>],
    ) -> Result<Option<RecordBatch>, String> {
        let own = |row: &Option<(Slice, Chosen)>| row.as_ref().is_some_and(|(of, _)| *of == slice);
        let mask: BooleanArray = chosen.iter().map(|row| Some(own(row))).collect();
        if mask.true_count() == 0 {
            return Ok(None);
        }
        let rows = filter_record_batch(batch, &mask).map_err(|error| error.to_string())?;
        let labels: Vec<&Chosen> =
            chosen.iter().filter(|row| own(row)).flatten().map(|(_, chosen)| chosen).collect();
        let events = texts(&rows, "event_id")?;
        if labels.iter().enumerate().any(|(row, label)| events.value(row) != label.event_id) {
            return Err(changed().0);
        }
        let shares: Option<&Float64Array> = column(&rows, "sample_p").ok();
        let weight = |(row, label): (usize, &&Chosen)| {
            let share = shares.map_or(1.0, |shares| shares.value(row));
            let weight = label.weight.unwrap_or(1.0);
            Some(if share > 0.0 { weight / share } else { weight })
        };
        let names: StringArray = labels.iter().map(|label| label.label.as_deref()).collect();
        let values: Float64Array = labels.iter().map(|label| label.label_value).collect();
        let weights: Float64Array = labels.iter().enumerate().map(weight).collect();
        let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        for (name, column) in [
            ("label", Arc::new(names) as ArrayRef),
            ("label_value", Arc::new(values) as ArrayRef),
            ("sample_weight", Arc::new(weights) as ArrayRef),
        ] {
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(column);
        }
        let all = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
        fitted(&all.map_err(|error| error.to_string())?, &self.columns.schema).map(Some)
    }

    fn look(&self, rows: &RecordBatch, guard: &mut Guard) -> Result<(), String> {
        let (labels, values): (&StringArray, &Float64Array) =
            (column(rows, "label")?, column(rows, "label_value")?);
        let features: Vec<(&str, &ArrayRef)> = self
            .columns
            .features
            .iter()
            .filter_map(|feature| {
                Some((feature.name.as_str(), rows.column_by_name(&feature.name)?))
            })
            .collect();
        for row in 0..rows.num_rows() {
            if !guard.wants_more() {
                break;
            }
            let cells: Result<Vec<(String, Value)>, String> = features
                .iter()
                .map(|(name, column)| Ok(((*name).to_owned(), value::at(column.as_ref(), row)?)))
                .collect();
            let label = (value::at(labels, row)?.text(), value::at(values, row)?.number());
            guard.add(cells?.into_iter(), label);
        }
        Ok(())
    }
}

impl Writing {
    fn create(part: &Path, slice: Slice, schema: &SchemaRef) -> Result<Writing, ReadError> {
        let dir = part.join(slice.name());
        fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
        let path = dir.join("part-0.parquet");
        let file = File::create(&path).map_err(|error| failed(&path, error))?;
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties(None)))
            .map_err(|error| failed(&path, error))?;
        let waiting = BatchCoalescer::new(schema.clone(), WRITTEN_ROWS);
        Ok(Writing { path, writer, waiting, rows: 0, times: None, labels: BTreeMap::new() })
    }

    fn write(&mut self, rows: RecordBatch) -> Result<(), ReadError> {
        self.rows += rows.num_rows() as u64;
        let of = times(&rows).map_err(|why| failed(&self.path, why))?.values();
        if let (Some(first), Some(last)) = (of.first(), of.last()) {
            self.times = Some((self.times.map_or(*first, |(first, _)| first), *last));
        }
        let labels = texts(&rows, "label").map_err(|why| failed(&self.path, why))?;
        for label in labels.iter().flatten() {
            // Numbers of many values are no classes to count.
            if self.labels.contains_key(label) || self.labels.len() < 64 {
                *self.labels.entry(label.to_owned()).or_default() += 1;
            }
        }
        self.waiting.push_batch(rows).map_err(|error| failed(&self.path, error))?;
        self.put()
    }

    fn put(&mut self) -> Result<(), ReadError> {
        while let Some(rows) = self.waiting.next_completed_batch() {
            let written = self.writer.write(&rows).and_then(|()| {
                let full = self.writer.in_progress_size() >= GROUP_BYTES;
                if full { self.writer.flush() } else { Ok(()) }
            });
            written.map_err(|error| failed(&self.path, error))?;
        }
        Ok(())
    }

    fn finish(mut self, slice: Slice) -> Result<Written, ReadError> {
        self.waiting.finish_buffered_batch().map_err(|error| failed(&self.path, error))?;
        self.put()?;
        let bad = |error: String| failed(&self.path, error);
        let file = self.writer.into_inner().map_err(|error| bad(error.to_string()))?;
        file.sync_all().map_err(|error| bad(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| bad(error.to_string()))?.len();
        Ok(Written {
            path: format!("{}/part-0.parquet", slice.name()),
            slice: slice.name(),
            rows: self.rows,
            bytes,
            sha256: digest::file(&self.path)?,
            first: self.times.map(|(first, _)| time_text(first)),
            last: self.times.map(|(_, last)| time_text(last)),
            labels: self.labels,
        })
    }
}
