//! Small files of labels put together: who brings one label a time would leave a file for each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use arrow_array::RecordBatch;

use super::store;
use crate::predlog::{
    compact::sync_dir,
    digest,
    layout::is_part,
    reader::{Opened, ReadError, failed},
    upload::{book, marks::Line},
};

/// Files of fewer bytes are small, and so many of one day become one.
const SMALL: u64 = 1 << 20;
const MANY: usize = 64;

/// Puts the small files of a day together, where they are many, `aside` first. Killed in between, it leaves labels twice, which
/// says nothing else than once. Whoever calls holds the model's lock.
///
/// # Errors
/// What could not be read or written. No label is lost.
pub fn tidy(day: &Path, aside: &Path) -> Result<(), ReadError> {
    let mut small = Vec::new();
    for entry in fs::read_dir(day).map_err(|error| failed(day, error))? {
        let entry = entry.map_err(|error| failed(day, error))?;
        let about = entry.metadata().map_err(|error| failed(&entry.path(), error))?;
        let is_labels = is_part(&entry.file_name().to_string_lossy());
        if about.is_file() && about.len() < SMALL && is_labels {
            small.push(entry.path());
        }
    }
    if small.len() < MANY {
        return Ok(());
    }
    small.sort();
    let mut batches: Vec<RecordBatch> = Vec::new();
    for path in &small {
        for batch in Opened::at(path)?.batches(None)? {
            batches.push(batch?);
        }
    }
    let hidden = aside.join("merged.tmp");
    fs::create_dir_all(aside).map_err(|error| failed(aside, error))?;
    store::write(&hidden, &batches)?;
    let whole = day.join(format!("labels-{}.parquet", &digest::file(&hidden)?[..32]));
    fs::rename(&hidden, &whole).map_err(|error| failed(&whole, error))?;
    sync_dir(day)?;
    small.retain(|path| *path != whole);
    // labels/v1, the model and the day lie between.
    if let Some(root) = day.ancestors().nth(4) {
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        let files: Vec<String> = small.iter().filter_map(name).collect();
        let line = |by| Line::Replaced { files: files.clone(), by };
        book::note(root, &whole, line).map_err(|error| failed(&whole, error))?;
    }
    for path in &small {
        remove(path)?;
    }
    Ok(())
}

fn remove(path: &PathBuf) -> Result<(), ReadError> {
    fs::remove_file(path).map_err(|error| failed(path, error))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::predlog::labels::{Label, store::Store};

    fn label(n: usize) -> Label {
        Label {
            label_key: format!("k{n}"),
            event_id: None,
            ts_label: 1_800_000_000_000_000,
            ts_event: None,
            label: Some("1".into()),
            label_value: Some(1.0),
            weight: None,
            source: None,
            revision: 0,
            deleted: false,
        }
    }

    #[test]
    fn labels_one_by_one_make_few_files_and_readers_miss_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path());
        let (writer, reader) = (store.clone(), store.clone());
        let written = thread::spawn(move || {
            for n in 0..MANY * 3 {
                writer.put("m", &[label(n)], 0).expect("put");
            }
        });
        let mut seen = 0;
        while !written.is_finished() {
            let resolved = reader.resolved("m").expect("read");
            assert!(resolved.len() >= seen, "{} labels after {seen}", resolved.len());
            seen = resolved.len();
        }
        written.join().expect("written");
        assert_eq!(store.resolved("m").expect("read").len(), MANY * 3);
        assert!(store.files("m").expect("listed").len() < MANY);
        let again = store.put("m", &(0..MANY * 3).map(label).collect::<Vec<_>>(), 0);
        assert_eq!(again.expect("put").known, MANY as u64 * 3);
    }
}
