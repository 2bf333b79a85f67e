//! The labels' files: `labels/v1/model=…/date=…/labels-….parquet`, each written once.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::DateTime;
use parquet::arrow::ArrowWriter;
use sha2::{Digest, Sha256};

use super::{Label, Resolved, staging::Staging};
use crate::predlog::{
    compact::sync_dir,
    export::properties,
    layout::{self, encode},
    reader::{Opened, ReadError, failed},
};

/// Below the log's root.
const DIR: &str = "labels/v1";

/// What became of labels that were put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Written now.
    pub written: u64,
    /// The same labels are there already.
    pub known: u64,
}

/// The labels beside a log.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Beside the log below `root`; there need not be any yet.
    pub fn at(root: &Path) -> Store {
        Store { root: root.to_owned() }
    }

    /// Where the labels of a model lie.
    pub fn model_dir(&self, model: &str) -> PathBuf {
        self.root.join(DIR).join(format!("model={}", encode(model)))
    }

    /// Models that have labels.
    pub fn models(&self) -> Result<Vec<String>, ReadError> {
        let mut models = Vec::new();
        for path in entries(&self.root.join(DIR))? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let model = name.as_deref().and_then(|name| name.strip_prefix("model="));
            models.extend(model.and_then(layout::decode));
        }
        models.sort();
        Ok(models)
    }

    /// Keeps labels of a model: those that are not known yet.
    pub fn put(&self, model: &str, labels: &[Label], now: i64) -> Result<Put, ReadError> {
        let mut staging = Staging::new(self, model, now);
        staging.add(labels)?;
        staging.commit()
    }

    /// The files of a model's labels, in order.
    pub fn files(&self, model: &str) -> Result<Vec<PathBuf>, ReadError> {
        let mut files = Vec::new();
        for dir in entries(&self.model_dir(model))? {
            let inside = if dir.is_dir() { entries(&dir)? } else { Vec::new() };
            files.extend(inside.into_iter().filter(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy());
                name.is_some_and(|name| layout::is_part(&name))
            }));
        }
        files.sort();
        Ok(files)
    }

    /// Every statement about a model; where files are put together meanwhile, some of them twice.
    pub fn each(&self, model: &str, mut with: impl FnMut(Label)) -> Result<(), ReadError> {
        let mut done = BTreeSet::new();
        loop {
            let mut gone = false;
            for path in self.files(model)? {
                if done.contains(&path) {
                    continue;
                }
                match each_of(&path, &mut with) {
                    // Its labels are in another file now.
                    Err(_) if !path.exists() => gone = true,
                    read => read?,
                }
                done.insert(path);
            }
            if !gone {
                return Ok(());
            }
        }
    }

    /// What counts of each key.
    pub fn resolved(&self, model: &str) -> Result<Resolved, ReadError> {
        let mut resolved = Resolved::default();
        self.each(model, |label| resolved.add(label))?;
        Ok(resolved)
    }
}

/// The labels of one file.
pub fn each_of(path: &Path, with: &mut impl FnMut(Label)) -> Result<(), ReadError> {
    for batch in Opened::at(path)?.batches(None)? {
        read(&batch?, with).map_err(|why| failed(path, why))?;
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    match fs::read_dir(dir) {
        Ok(found) => {
            found.map(|e| e.map(|e| e.path()).map_err(|error| failed(dir, error))).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(dir, error)),
    }
}

/// The day of a time, as directories are named.
pub fn date(ts: i64) -> String {
    let at = DateTime::from_timestamp_micros(ts).unwrap_or_default();
    at.date_naive().format("%Y-%m-%d").to_string()
}

/// What names a file: the labels in it.
pub fn identity(labels: &[&Label]) -> String {
    let mut hasher = Sha256::new();
    for label in labels {
        // Its texts are quoted, so that no two different labels have the same.
        hasher.update(format!("{label:?}\n"));
    }
    hex::encode(&hasher.finalize()[..16])
}

/// The columns of every file of labels.
pub fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("label_key", DataType::Utf8, false),
        Field::new("event_id", DataType::Utf8, true),
        Field::new("ts_label", time(), false),
        Field::new("ts_event", time(), true),
        Field::new("label", DataType::Utf8, true),
        Field::new("label_value", DataType::Float64, true),
        Field::new("weight", DataType::Float64, true),
        Field::new("source", DataType::Utf8, true),
        Field::new("revision", DataType::Int64, false),
        Field::new("deleted", DataType::Boolean, false),
    ]))
}

/// Labels as a table.
pub fn batch(labels: &[&Label]) -> Result<RecordBatch, String> {
    let text = |of: fn(&Label) -> Option<&str>| -> ArrayRef {
        Arc::new(labels.iter().map(|label| of(label)).collect::<StringArray>())
    };
    let number = |of: fn(&Label) -> Option<f64>| -> ArrayRef {
        Arc::new(labels.iter().map(|label| of(label)).collect::<Float64Array>())
    };
    let time = |of: fn(&Label) -> Option<i64>| -> ArrayRef {
        let times: TimestampMicrosecondArray = labels.iter().map(|label| of(label)).collect();
        Arc::new(times.with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        text(|label| Some(&label.label_key)),
        text(|label| label.event_id.as_deref()),
        time(|label| Some(label.ts_label)),
        time(|label| label.ts_event),
        text(|label| label.label.as_deref()),
        number(|label| label.label_value),
        number(|label| label.weight),
        text(|label| label.source.as_deref()),
        Arc::new(labels.iter().map(|label| Some(label.revision)).collect::<Int64Array>()),
        Arc::new(labels.iter().map(|label| Some(label.deleted)).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| error.to_string())
}

/// A file under its own name once it is whole and on the disk.
pub fn write(path: &Path, batches: &[RecordBatch]) -> Result<(), ReadError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hidden = dir.join(format!(".{name}.{}", std::process::id()));
    let bad = |error: parquet::errors::ParquetError| failed(&hidden, error);
    let file = File::create(&hidden).map_err(|error| failed(&hidden, error))?;
    let mut writer = ArrowWriter::try_new(file, schema(), Some(properties(None))).map_err(bad)?;
    for batch in batches {
        writer.write(batch).map_err(bad)?;
    }
    let file = writer.into_inner().map_err(bad)?;
    file.sync_all().map_err(|error| failed(&hidden, error))?;
    fs::rename(&hidden, path).map_err(|error| failed(path, error))?;
    sync_dir(dir)
}

fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, String> {
    batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<T>()).ok_or_else(
        || format!("the column {name} is missing or of another type: no labels of ours"),
    )
}

fn read(batch: &RecordBatch, with: &mut impl FnMut(Label)) -> Result<(), String> {
    let keys: &StringArray = column(batch, "label_key")?;
    let events: &StringArray = column(batch, "event_id")?;
    let known: &TimestampMicrosecondArray = column(batch, "ts_label")?;
    let happened: &TimestampMicrosecondArray = column(batch, "ts_event")?;
    let labels: &StringArray = column(batch, "label")?;
    let values: &Float64Array = column(batch, "label_value")?;
    let weights: &Float64Array = column(batch, "weight")?;
    let sources: &StringArray = column(batch, "source")?;
    let revisions: &Int64Array = column(batch, "revision")?;
    let deleted: &BooleanArray = column(batch, "deleted")?;
    let text = |array: &StringArray, row| array.is_valid(row).then(|| array.value(row).to_owned());
    for row in 0..batch.num_rows() {
        with(Label {
            label_key: keys.value(row).to_owned(),
            event_id: text(events, row),
            ts_label: known.value(row),
            ts_event: happened.is_valid(row).then(|| happened.value(row)),
            label: text(labels, row),
            label_value: values.is_valid(row).then(|| values.value(row)),
            weight: weights.is_valid(row).then(|| weights.value(row)),
            source: text(sources, row),
            revision: revisions.value(row),
            deleted: deleted.value(row),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predlog::labels::{Names, from_row, parse};

    const NOW: i64 = 1_000_000;

    fn labels(text: &str) -> Vec<Label> {
        labels_at(text, NOW)
    }

    fn labels_at(text: &str, now: i64) -> Vec<Label> {
        let mut all = Vec::new();
        parse::each(
            parse::Input::Stream(&mut text.as_bytes()),
            parse::Form::Json,
            |_| true,
            |row| {
                all.push(from_row(&row, &Names::default(), now)?);
                Ok(())
            },
        )
        .expect("labels");
        all
    }

    #[test]
    fn what_is_put_is_read_and_put_twice_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path());
        let said = labels(
            r#"[{"label_key":"a","label":1,"weight":0.5,"source":"crm","ts_event":"1970-01-01"},
                {"label_key":"b","label":"x","ts_label":"1970-02-01","event_id":"e"}]"#,
        );
        assert_eq!(store.put("m/1", &said, NOW).expect("put"), Put { written: 2, known: 0 });
        assert_eq!(store.put("m/1", &said, NOW).expect("put"), Put { written: 0, known: 2 });
        let mut read = Vec::new();
        store.each("m/1", |label| read.push(label)).expect("read");
        assert_eq!(read, said);
        assert_eq!(store.models().expect("listed"), ["m/1"]);
        assert!(store.resolved("other").expect("none").is_empty());
        let correction = labels(r#"{"label_key":"a","label":0,"revision":1}"#);
        store.put("m/1", &correction, NOW).expect("put");
        let resolved = store.resolved("m/1").expect("read");
        assert_eq!((resolved.len(), resolved.seen), (2, 3));
        assert_eq!(resolved.of("a", 0, 10_000_000).and_then(|l| l.label_value), Some(0.0));
    }

    #[test]
    fn labels_without_a_time_are_known_the_next_day_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path());
        let text = r#"{"label_key":"a","label":1}"#;
        let tomorrow = NOW + 86_400_000_000;
        store.put("m", &labels(text), NOW).expect("put");
        let again = store.put("m", &labels_at(text, tomorrow), tomorrow).expect("put");
        assert_eq!(again, Put { written: 0, known: 1 });
    }
}
