//! Erasure in the folder for labels: files that were brought in stay there, whole, until somebody removes them.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use onnxd::predlog::{
    digest,
    labels::{
        Names,
        folder::{DONE, FAILED},
        is_known,
        parse::{self, Form, Input},
    },
    reader::{ReadError, failed},
};
use serde::Serialize;

/// A file that has labels of the subject, or may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    pub file: String,
    pub sha256_before: String,
    /// It was brought in already, so that nothing else is lost with it.
    pub removed: bool,
    /// Why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// Removes the files that were brought in and have labels of these keys, and names those that are left.
///
/// # Errors
/// A directory cannot be read, or a file not removed.
pub fn erase(
    folder: &Path,
    label_keys: &BTreeMap<String, HashSet<String>>,
    dry_run: bool,
) -> Result<Vec<File>, ReadError> {
    let mut found = Vec::new();
    for (model, keys) in label_keys {
        let own = folder.join(model);
        for (dir, done) in [(own.join(DONE), true), (own.join(FAILED), false), (own, false)] {
            for path in files(&dir)? {
                found.extend(one(&path, keys, done, dry_run)?);
            }
        }
    }
    Ok(found)
}

fn one(
    path: &Path,
    keys: &HashSet<String>,
    done: bool,
    dry_run: bool,
) -> Result<Option<File>, ReadError> {
    let Some(form) = path.file_name().and_then(|name| Form::of_name(&name.to_string_lossy()))
    else {
        return Ok(None);
    };
    let left = match (holds(path, form, keys)?, done) {
        (Ok(false), _) => return Ok(None),
        (Ok(true), true) => None,
        (Ok(true), false) => {
            Some("it holds labels of the subject, and was not brought in".to_owned())
        }
        (Err(why), _) => Some(format!("it cannot be read: {why}")),
    };
    let file = File {
        file: path.display().to_string(),
        sha256_before: digest::file(path)?,
        removed: left.is_none(),
        left,
    };
    if file.removed && !dry_run {
        fs::remove_file(path).map_err(|error| failed(path, error))?;
    }
    Ok(Some(file))
}

/// Whether a file has one of these keys; or why it cannot be said.
fn holds(
    path: &Path,
    form: Form,
    keys: &HashSet<String>,
) -> Result<Result<bool, String>, ReadError> {
    let file = fs::File::open(path).map_err(|error| failed(path, error))?;
    let names = Names::default();
    let mut found = false;
    let read = parse::each(
        Input::File(file),
        form,
        |name| is_known(name, &names),
        |row| {
            let key = row.iter().find(|(name, _)| *name == names.key);
            found |= key.is_some_and(|(_, key)| keys.contains(&key.text()));
            Ok(())
        },
    );
    Ok(if found { Ok(true) } else { read.map(|_| false) })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(dir, error))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(dir, error))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
