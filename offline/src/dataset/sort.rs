//! Rows sorted by time and event id, of which no more than a limit are in memory: the rest waits in sorted files, which are merged.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
};

use arrow_array::{RecordBatch, UInt64Array};
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::SchemaRef;
use arrow_select::{
    concat::concat_batches, interleave::interleave_record_batch, take::take_record_batch,
};
use onnxd::predlog::reader::{ReadError, failed, times};

use crate::coverage::texts;

/// Rows that are read, or given, at once where files are merged.
const BATCH_ROWS: usize = 1024;

/// Rows on their way to be in order.
pub struct Sorter {
    schema: SchemaRef,
    dir: PathBuf,
    name: String,
    most: usize,
    held: Vec<RecordBatch>,
    bytes: usize,
    files: Vec<PathBuf>,
}

impl Sorter {
    /// Rows of `schema`, of which about `most` bytes are held; the others wait in `dir`, in files whose names begin with `name`.
    pub fn new(schema: &SchemaRef, dir: &Path, name: &str, most: usize) -> Sorter {
        let (schema, dir, name) = (schema.clone(), dir.to_owned(), name.to_owned());
        Sorter { schema, dir, name, most, held: Vec::new(), bytes: 0, files: Vec::new() }
    }

    pub fn add(&mut self, rows: RecordBatch) -> Result<(), ReadError> {
        self.bytes += rows.get_array_memory_size();
        self.held.push(rows);
        if self.bytes > self.most { self.set_aside() } else { Ok(()) }
    }

    fn set_aside(&mut self) -> Result<(), ReadError> {
        let path = self.dir.join(format!("{}-{}", self.name, self.files.len()));
        let bad = |error: &dyn std::fmt::Display| failed(&path, error);
        let rows = sorted(&self.schema, &self.held).map_err(|why| bad(&why))?;
        (self.held, self.bytes) = (Vec::new(), 0);
        let file = BufWriter::new(File::create(&path).map_err(|error| bad(&error))?);
        let mut writer = StreamWriter::try_new(file, &self.schema).map_err(|error| bad(&error))?;
        for from in (0..rows.num_rows()).step_by(BATCH_ROWS) {
            let part = rows.slice(from, BATCH_ROWS.min(rows.num_rows() - from));
            writer.write(&part).map_err(|error| bad(&error))?;
        }
        writer.finish().map_err(|error| bad(&error))?;
        self.files.push(path);
        Ok(())
    }

    /// Gives all rows in order, batch after batch.
    pub fn drain(
        mut self,
        mut with: impl FnMut(RecordBatch) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let bad = |why: String| failed(&self.dir, why);
        if self.files.is_empty() {
            return match self.held.is_empty() {
                true => Ok(()),
                false => with(sorted(&self.schema, &self.held).map_err(bad)?),
            };
        }
        if !self.held.is_empty() {
            self.set_aside()?;
        }
        let mut merge = Merge::of(&self.files)?;
        while let Some(rows) = merge.next().map_err(|why| failed(&self.dir, why))? {
            with(rows)?;
        }
        for path in &self.files {
            fs::remove_file(path).map_err(|error| failed(path, error))?;
        }
        Ok(())
    }
}

/// One batch, by time and event id: the same rows give the same bytes.
fn sorted(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, String> {
    let all = concat_batches(schema, batches).map_err(|error| error.to_string())?;
    let (times, events) = (times(&all)?, texts(&all, "event_id")?);
    let mut order: Vec<usize> = (0..all.num_rows()).collect();
    order.sort_by_key(|row| (times.value(*row), events.value(*row)));
    let order: UInt64Array = order.into_iter().map(|row| Some(row as u64)).collect();
    take_record_batch(&all, &order).map_err(|error| error.to_string())
}

/// A sorted file, and where in it we are.
struct Cursor {
    reader: StreamReader<BufReader<File>>,
    /// Its batch, among those that are held.
    batch: usize,
    row: usize,
}

/// Several sorted files as one.
struct Merge {
    cursors: Vec<Cursor>,
    held: Vec<RecordBatch>,
    /// The next row of each file that has one: its time, its event, the file's number.
    heap: BinaryHeap<Reverse<(i64, String, usize)>>,
}

impl Merge {
    fn of(paths: &[PathBuf]) -> Result<Merge, ReadError> {
        let mut merge = Merge { cursors: Vec::new(), held: Vec::new(), heap: BinaryHeap::new() };
        for (n, path) in paths.iter().enumerate() {
            let bad = |error: &dyn std::fmt::Display| failed(path, error);
            let file = BufReader::new(File::open(path).map_err(|error| bad(&error))?);
            let reader = StreamReader::try_new(file, None).map_err(|error| bad(&error))?;
            merge.cursors.push(Cursor { reader, batch: 0, row: 0 });
            merge.fetch(n).map_err(|why| bad(&why))?;
        }
        Ok(merge)
    }

    /// Reads the next batch of a file, where it has one, and puts its first row into the heap.
    fn fetch(&mut self, n: usize) -> Result<(), String> {
        let Some(cursor) = self.cursors.get_mut(n) else { return Ok(()) };
        let Some(batch) = cursor.reader.next() else { return Ok(()) };
        let batch = batch.map_err(|error| error.to_string())?;
        (cursor.batch, cursor.row) = (self.held.len(), 0);
        self.held.push(batch);
        self.point(n)
    }

    fn point(&mut self, n: usize) -> Result<(), String> {
        let Some(cursor) = self.cursors.get(n) else { return Ok(()) };
        let Some(batch) = self.held.get(cursor.batch) else { return Ok(()) };
        let at = times(batch)?.value(cursor.row);
        let event = texts(batch, "event_id")?.value(cursor.row).to_owned();
        self.heap.push(Reverse((at, event, n)));
        Ok(())
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, String> {
        let mut picked: Vec<(usize, usize)> = Vec::with_capacity(BATCH_ROWS);
        while picked.len() < BATCH_ROWS
            && let Some(Reverse((_, _, n))) = self.heap.pop()
        {
            let Some(cursor) = self.cursors.get_mut(n) else { continue };
            picked.push((cursor.batch, cursor.row));
            cursor.row += 1;
            let rows = self.held.get(cursor.batch).map_or(0, RecordBatch::num_rows);
            if cursor.row < rows { self.point(n)? } else { self.fetch(n)? }
        }
        if picked.is_empty() {
            return Ok(None);
        }
        let held: Vec<&RecordBatch> = self.held.iter().collect();
        let rows = interleave_record_batch(&held, &picked).map_err(|error| error.to_string())?;
        self.forget();
        Ok(Some(rows))
    }

    /// Lets go of batches of which every row is given.
    fn forget(&mut self) {
        let mut kept = Vec::with_capacity(self.cursors.len());
        for cursor in &mut self.cursors {
            if let Some(batch) = self.held.get(cursor.batch)
                && cursor.row < batch.num_rows()
            {
                kept.push(batch.clone());
                cursor.batch = kept.len() - 1;
            } else {
                cursor.batch = usize::MAX;
            }
        }
        self.held = kept;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Array, ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(i64, u8)]) -> RecordBatch {
        let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.0)).collect();
        let events: StringArray = rows.iter().map(|row| Some(row.1.to_string())).collect();
        let values: Int64Array =
            rows.iter().map(|row| Some(row.0 * 256 + i64::from(row.1))).collect();
        RecordBatch::try_from_iter([
            ("ts", Arc::new(times.with_timezone("UTC")) as ArrayRef),
            ("event_id", Arc::new(events)),
            ("value", Arc::new(values)),
        ])
        .expect("one length")
    }

    proptest! {
        #[test]
        fn rows_are_the_same_and_in_the_same_order_whatever_is_held(
            parts in prop::collection::vec(prop::collection::vec((0i64..50, any::<u8>()), 1..40), 1..12),
            most in prop::sample::select(vec![0usize, 2000, 1 << 30]),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let schema = batch(&[]).schema();
            let mut sorter = Sorter::new(&schema, dir.path(), "run", most);
            for part in &parts {
                sorter.add(batch(part)).expect("added");
            }
            let mut found: Vec<i64> = Vec::new();
            sorter.drain(|rows| {
                let column = rows.column(2).as_any().downcast_ref::<Int64Array>().expect("numbers");
                found.extend(column.values());
                Ok(())
            }).expect("drained");
            let mut rows: Vec<(i64, String, i64)> = parts.iter().flatten()
                .map(|(at, event)| (*at, event.to_string(), at * 256 + i64::from(*event))).collect();
            rows.sort();
            prop_assert_eq!(found, rows.into_iter().map(|row| row.2).collect::<Vec<_>>());
            prop_assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0, "files are left");
        }
    }
}
