//! What a compaction is about to do, on disk beside the files, so that a kill in between is no loss and no double.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::sync_dir;
use crate::predlog::{
    inventory, layout,
    reader::{Filter, Log, ReadError, failed},
    upload::{book, marks::Line},
};

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
        format!(".{}.tmp", self.output)
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

    /// The output has its name: the inputs lose theirs. Where files go to a store, theirs will go from there too.
    pub fn finish(&self, hour: &Path) -> Result<(), ReadError> {
        let output = hour.join(&self.output);
        let profiles = self.inputs.iter().map(|input| layout::profile(&hour.join(input)));
        let profiles = profiles.filter(|profile| profile.is_file());
        let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        let profiles = profiles.filter_map(name);
        let files: Vec<String> = self.inputs.iter().cloned().chain(profiles).collect();
        // log/v1, model, version, date and hour lie between.
        if let Some(root) = hour.ancestors().nth(6) {
            let line = |by| Line::Replaced { files: files.clone(), by };
            book::note(root, &output, line).map_err(|error| failed(&output, error))?;
        }
        inventory::replaced(hour, &self.inputs, &self.output)?;
        for input in &self.inputs {
            retire(&hour.join(input))?;
            remove(&layout::profile(&hour.join(input)))?;
        }
        sync_dir(hour)
    }

    /// What was put together goes, and then the journal.
    fn end(&self, hour: &Path) -> Result<(), ReadError> {
        for input in &self.inputs {
            remove(&retired(&hour.join(input)))?;
        }
        sync_dir(hour)?;
        remove(&self.path(hour))
    }
}

/// The name under which a file whose rows are in another is still there for a while: readers of directories and of `*.parquet` skip it.
pub fn retired(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.replaced"))
}

/// The file, also where a compaction has just put its rows into another.
pub fn open(file: &Path) -> io::Result<File> {
    File::open(file).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => File::open(retired(file)).map_err(|_| error),
        _ => Err(error),
    })
}

fn retire(file: &Path) -> Result<(), ReadError> {
    match fs::rename(file, retired(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(file, error)),
        _ => Ok(()),
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

/// Removes what compactions have put together, once all of this hour ended `grace` ago; says whether it has.
pub fn tidy(hour: &Path, grace: Duration) -> Result<bool, ReadError> {
    let journals = read(&listed(hour)?)?;
    let age =
        |journal: &Journal| fs::metadata(journal.path(hour)).ok()?.modified().ok()?.elapsed().ok();
    if journals.is_empty() || !journals.iter().all(|j| age(j).is_some_and(|age| age >= grace)) {
        return Ok(false);
    }
    recover(hour)?;
    // Where retention has removed the rest meanwhile.
    for folder in hour.ancestors().take(2) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(true)
}

/// The same for every hour that `filter` asks for, without grace: nobody else may have the log open who minds.
pub fn recover_all(log: &Log, filter: &Filter) -> Result<usize, ReadError> {
    log.hours(filter)?.into_iter().map(|(hour, _)| recover(&hour)).sum()
}

fn listed(hour: &Path) -> Result<Vec<PathBuf>, ReadError> {
    match fs::read_dir(hour) {
        Ok(entries) => {
            entries.map(|e| e.map(|e| e.path()).map_err(|error| failed(hour, error))).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(hour, error)),
    }
}

/// Ends, or takes back, what compactions left in an hour's directory. Says how many it found.
pub fn recover(hour: &Path) -> Result<usize, ReadError> {
    let paths = listed(hour)?;
    let mut found = 0;
    for journal in read(&paths)? {
        found += 1;
        if paths.contains(&hour.join(&journal.output)) {
            journal.finish(hour)?;
        }
        // Without it, either nothing has happened yet, or it went since then.
        journal.end(hour)?;
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
