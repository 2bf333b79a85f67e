//! Tensors that are too large for a cell, each as a file of its own: named by the digest of its bytes, in `_blobs` beside the files of
//! the hour whose rows refer to it. So an hour is whole by itself, and what holds for its rows (retention, upload, erasure) for its blobs.

pub mod keep;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use arrow_array::{Array, RecordBatch, StringArray};

use super::{
    ahead,
    compact::sync_dir,
    digest,
    erased::Ledger,
    footer::{LogSchema, Part},
    layout::{LOG_DIR, Partition},
    reader::{Opened, ReadError, failed, files_of},
    upload::{book, marks::Line},
    wal::Segment,
};

/// Beside the files of an hour; readers of the layout skip what begins with `_`.
pub const DIR: &str = "_blobs";

/// What a cell says of a blob: where it lies below the log's root, and its key below the prefix of an object store.
pub fn reference(hour: &Partition, digest: &str) -> String {
    format!("{LOG_DIR}/{}/{DIR}/{digest}", hour.dir().display())
}

/// The hour's directory below `log/v1`, and the digest, of a reference; `None` of what `reference` does not make.
fn parse(reference: &str) -> Option<(&Path, &str)> {
    let below = reference.strip_prefix(LOG_DIR)?.strip_prefix('/')?;
    let (hour, digest) = below.rsplit_once('/')?;
    let hour = Path::new(hour.strip_suffix(DIR)?.strip_suffix('/')?);
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let sound = digest.len() == 64 && digest.bytes().all(is_hex);
    (sound && Partition::parse(hour).is_some()).then_some((hour, digest))
}

/// The bytes of a blob; `None` where it is not there: retention or an erasure removed it.
///
/// # Errors
/// The reference is none, or the bytes cannot be read or are others than its name says.
pub fn read(root: &Path, reference: &str) -> Result<Option<Vec<u8>>, ReadError> {
    let path = root.join(reference);
    let Some((_, expected)) = parse(reference) else {
        return Err(failed(root, format!("'{}' refers to no blob", reference.escape_debug())));
    };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, error)),
    };
    match digest::bytes(&bytes) {
        found if found == expected => Ok(Some(bytes)),
        found => Err(failed(&path, format!("its bytes have the digest {found}"))),
    }
}

/// The columns of a file's rows that refer to blobs.
pub fn columns(roles: &LogSchema) -> Vec<String> {
    let refer = roles.columns.iter().filter(|column| column.part == Some(Part::Ref));
    refer.map(|column| column.name.clone()).collect()
}

/// What rows refer to in these columns.
pub fn references<'b>(
    batch: &'b RecordBatch,
    columns: &'b [String],
) -> impl Iterator<Item = &'b str> {
    let columns = columns.iter().filter_map(|name| batch.column_by_name(name));
    let texts = columns.filter_map(|column| column.as_any().downcast_ref::<StringArray>());
    texts.flat_map(|texts| texts.iter().flatten())
}

/// The names of the whole blobs in an hour's directory, with their bytes.
///
/// # Errors
/// It cannot be listed.
pub fn of_hour(hour: &Path) -> Result<Vec<(String, u64)>, ReadError> {
    let dir = hour.join(DIR);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(&dir, error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(&dir, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            // Hidden: not whole yet, or left by somebody who was killed.
            Ok(about) if about.is_file() && !name.starts_with('.') => {
                found.push((name, about.len()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&dir, error));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Removes those of `candidates` that no row refers to but of those in the ledger, and says which these are, with their bytes. They go
/// from object stores as well. `dry_run`: it is only said.
///
/// # Errors
/// Rows cannot be read, or a blob not be removed.
pub fn release(
    root: &Path,
    mut candidates: BTreeSet<String>,
    erased: &Ledger,
    dry_run: bool,
) -> Result<Vec<(String, u64)>, ReadError> {
    let parsed = candidates.iter().filter_map(|reference| parse(reference));
    let hours: BTreeSet<PathBuf> = parsed.map(|(hour, _)| hour.to_owned()).collect();
    if hours.is_empty() {
        return Ok(Vec::new());
    }
    // Rows go from there into files: whoever looks in this order misses none.
    for written in ahead::segments(root)? {
        keep_of_segment(&written.path, &mut candidates, erased)?;
    }
    for hour in hours {
        let Some(partition) = Partition::parse(&hour) else { continue };
        for file in files_of(&root.join(LOG_DIR).join(hour), &partition)? {
            keep_of_file(&file.path, &mut candidates, erased)?;
        }
    }
    let mut gone = Vec::new();
    for reference in candidates {
        let path = root.join(&reference);
        let (Some((_, digest)), Ok(about)) = (parse(&reference), fs::metadata(&path)) else {
            continue;
        };
        if !dry_run {
            let mark = |file| Line::Erasing { file, sha256: digest.to_owned() };
            book::note(root, &path, mark).map_err(|error| failed(&path, error))?;
            fs::remove_file(&path).map_err(|error| failed(&path, error))?;
            path.parent().map_or(Ok(()), sync_dir)?;
        }
        gone.push((reference, about.len()));
    }
    Ok(gone)
}

fn keep_of_file(
    path: &Path,
    candidates: &mut BTreeSet<String>,
    erased: &Ledger,
) -> Result<(), ReadError> {
    let opened = Opened::at(path)?;
    let columns = columns(&opened.roles()?);
    if columns.is_empty() {
        return Ok(());
    }
    let wanted = [columns.clone(), vec!["subject_key".to_owned()]].concat();
    for batch in opened.batches(Some(&wanted))? {
        keep(&batch?, &columns, candidates, erased).map_err(|why| failed(path, why))?;
    }
    Ok(())
}

fn keep_of_segment(
    path: &Path,
    candidates: &mut BTreeSet<String>,
    erased: &Ledger,
) -> Result<(), ReadError> {
    let bad = |error: io::Error| failed(path, error);
    let mut segment = match Segment::open(path) {
        // It is a file by now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        segment => segment.map_err(bad)?,
    };
    while let Some(batch) = segment.read().map_err(bad)? {
        let columns = segment.footer().map(columns).unwrap_or_default();
        keep(&batch, &columns, candidates, erased).map_err(|why| failed(path, why))?;
    }
    Ok(())
}

/// Takes out what a row that counts refers to.
fn keep(
    batch: &RecordBatch,
    columns: &[String],
    candidates: &mut BTreeSet<String>,
    erased: &Ledger,
) -> Result<(), String> {
    if !columns.is_empty() {
        let batch = erased.without(batch)?;
        for reference in references(&batch, columns) {
            candidates.remove(reference);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "blobs/blobs_tests.rs"]
mod tests;
