//! What a compaction is about to do, on disk beside the files, so that a kill in between is no loss and no double.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::sync_dir;
use crate::predlog::reader::{ReadError, failed};

const PREFIX: &str = "_compact-";

/// These files become that one. From the moment when the output has its name, it stands for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub inputs: Vec<String>,
    pub output: String,
}

impl Journal {
    fn path(&self, hour: &Path) -> PathBuf {
        hour.join(format!("{PREFIX}{}.json", self.output))
    }

    /// The output's name while it is written.
    pub fn hidden(&self) -> String {
        format!(".{}", self.output)
    }

    pub fn write(&self, hour: &Path) -> Result<(), ReadError> {
        let path = self.path(hour);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(self).map_err(|error| failed(&path, error))?;
        File::create(&new)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| failed(&path, error))?;
        sync_dir(hour)
    }

    /// The output has its name: the inputs go, and then the journal.
    pub fn finish(&self, hour: &Path) -> Result<(), ReadError> {
        for input in &self.inputs {
            remove(&hour.join(input))?;
        }
        sync_dir(hour)?;
        remove(&self.path(hour))
    }
}

fn remove(path: &Path) -> Result<(), ReadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

/// The journals among the files of an hour.
fn read(paths: &[PathBuf]) -> Result<Vec<Journal>, ReadError> {
    let is_one = |path: &&PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".json"))
    };
    let mut journals = Vec::new();
    for path in paths.iter().filter(is_one) {
        match fs::read(path) {
            Ok(text) => {
                journals.push(serde_json::from_slice(&text).map_err(|error| failed(path, error))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(path, error)),
        }
    }
    Ok(journals)
}

/// Names of files that another one among `paths` stands for.
pub fn replaced(hour: &Path, paths: &[PathBuf]) -> Result<BTreeSet<String>, ReadError> {
    let journals = read(paths)?;
    let there = journals.into_iter().filter(|journal| paths.contains(&hour.join(&journal.output)));
    Ok(there.flat_map(|journal| journal.inputs).collect())
}

/// Ends, or takes back, what a killed compaction left in an hour's directory. Says how many it found.
pub fn recover(hour: &Path) -> Result<usize, ReadError> {
    let paths: Vec<PathBuf> = match fs::read_dir(hour) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(|error| failed(hour, error)))
            .collect::<Result<_, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(hour, error)),
    };
    let mut found = 0;
    for journal in read(&paths)? {
        found += 1;
        if paths.contains(&hour.join(&journal.output)) {
            journal.finish(hour)?;
        } else {
            remove(&journal.path(hour))?;
        }
    }
    for path in &paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name
            .is_some_and(|name| name.starts_with(".part-compact-") || name.ends_with(".json.new"))
        {
            found += 1;
            remove(path)?;
        }
    }
    Ok(found)
}
