//! What of a log goes up: its closed files of rows with what lies beside them, the blobs that they refer to, labels, and the accounts
//! of servers that have ended.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::book;
use crate::predlog::{
    blobs,
    labels::store::Store,
    layout,
    reader::{Filter, Log, ReadError, failed, files_of},
};

/// Who has not written its account anew for so long has ended without a word: running servers do every few seconds.
const SILENT: Duration = Duration::from_secs(3600);

/// The files of one directory by their names, with the time when each was closed.
pub type Files = BTreeMap<String, SystemTime>;

/// The files that go up, by the directories below the root.
///
/// # Errors
/// What cannot be listed.
pub fn closed(root: &Path, now: SystemTime) -> Result<BTreeMap<String, Files>, ReadError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for (hour, partition) in (Log { root: root.to_owned() }).hours(&Filter::default())? {
        for file in files_of(&hour, &partition)? {
            paths.push(layout::profile(&file.path));
            paths.push(file.path);
        }
        let own = blobs::of_hour(&hour)?;
        paths.extend(own.into_iter().map(|(name, _)| hour.join(blobs::DIR).join(name)));
    }
    let labels = Store::at(root);
    for model in labels.models()? {
        paths.extend(labels.files(&model)?);
    }
    let mut found: BTreeMap<String, Files> = BTreeMap::new();
    let manifests = accounts(&layout::manifests(root))?.into_iter().map(|path| (path, true));
    for (path, account) in paths.into_iter().map(|path| (path, false)).chain(manifests) {
        let at = match fs::metadata(&path).and_then(|about| about.modified()) {
            Ok(at) => at,
            // Removed meanwhile, or a file without a profile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path, error)),
        };
        if account && !ended(&path, now.duration_since(at).unwrap_or_default()) {
            continue;
        }
        if let Some((dir, name)) = book::place(root, &path) {
            found.entry(dir).or_default().insert(name, at);
        }
    }
    Ok(found)
}

fn accounts(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(dir, error)),
    };
    let own = |path: &PathBuf| {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        !hidden && path.extension().is_some_and(|extension| extension == "json")
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(own).collect())
}

/// Whether nobody writes this account any more.
fn ended(path: &Path, age: Duration) -> bool {
    let closed = |text: Vec<u8>| {
        let account: serde_json::Value = serde_json::from_slice(&text).ok()?;
        account.get("closed")?.as_bool()
    };
    age > SILENT || fs::read(path).ok().and_then(closed) == Some(true)
}
