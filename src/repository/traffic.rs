//! Where a model's `traffic.yaml` lies, and what it says.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    options::{explain, parse_yaml},
    print::{self, Print},
    remote_source::Source,
    store::check_name,
};
use crate::types::traffic::{Change, Traffic};

pub const FILE: &str = "traffic.yaml";
/// Below the state directory: one file a model.
const FOLDER: &str = "traffic";
const MOST_BYTES: u64 = 256 << 10;

/// What is read of a model: nothing where there is no file, or why the file is none.
pub type Said = Result<Option<Arc<Traffic>>, Broken>;

/// A file that cannot be followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// The line, and what is wrong with it.
    pub why: String,
    /// The rules of the last change that was made by a command, for whoever has none from before.
    pub last: Option<Arc<Traffic>>,
}

/// Beside a model's file: a line for each change that was made by a command.
pub const AUDIT: &str = "traffic.audit.jsonl";
/// Bytes at the audit file's end that hold its last line: rules are far shorter.
const TAIL: u64 = 1 << 20;

/// One line of the audit file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub generation: u64,
    pub change: Change,
    /// The rules from then on.
    pub traffic: Traffic,
}

/// What lies beside a model's file; where all models share a folder, it has the model's name before its own.
pub fn beside(file: &Path, name: &str) -> PathBuf {
    let own = file.file_name().is_some_and(|own| own == FILE);
    let model = file.file_stem().and_then(|stem| stem.to_str()).filter(|_| !own);
    let Some(model) = model else { return file.with_file_name(name) };
    file.with_file_name(match name.strip_prefix('.') {
        Some(hidden) => format!(".{model}.{hidden}"),
        None => format!("{model}.{name}"),
    })
}

/// How an audit file ends.
#[derive(Default)]
pub struct Last {
    pub entry: Option<Entry>,
    /// Not as lines do: whoever wrote it was killed.
    pub torn: bool,
}

/// The last line of an audit file that is whole.
///
/// # Errors
/// The file cannot be read.
pub fn last_entry(file: &mut fs::File) -> io::Result<Last> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let torn = bytes.last().is_some_and(|last| *last != b'\n');
    let lines = bytes.split(|byte| *byte == b'\n').rev();
    let entry = lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()).next();
    Ok(Last { entry, torn })
}

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The repository as it was named: links are followed anew each time.
    pub models: PathBuf,
    /// Has the files of repositories that cannot be written.
    pub state: Option<PathBuf>,
    /// Where changes are written, when the repository is the mirror of a store that takes them.
    pub store: Option<Arc<Source>>,
}

impl Place {
    /// In the repository; `None` where that is one file.
    pub fn in_repository(&self, model: &str) -> Option<PathBuf> {
        if check_name(model).is_err() || self.models.is_file() {
            return None;
        }
        let own = self.models.join(model);
        Some(if own.is_dir() { own.join(FILE) } else { self.models.join(FILE) })
    }

    /// In the state directory.
    pub fn in_state(&self, model: &str) -> Option<PathBuf> {
        check_name(model).ok()?;
        Some(self.state.as_ref()?.join(FOLDER).join(format!("{model}.yaml")))
    }

    /// The file that counts: the state directory's where it is there.
    pub fn file(&self, model: &str) -> Option<PathBuf> {
        let state = self.in_state(model).filter(|file| file.exists());
        state.or_else(|| self.in_repository(model))
    }

    fn print(&self, model: &str) -> Option<Print> {
        let file = self.file(model)?;
        file.exists().then(|| print::of_file(&file))
    }

    /// What the model's file says.
    ///
    /// # Errors
    /// The line and what is wrong with it, with the rules that were known last.
    pub fn read(&self, model: &str) -> Said {
        let Some(file) = self.file(model) else { return Ok(None) };
        let shown = format!("{model}/{FILE}");
        let why = match read_file(&file) {
            Ok(text) => match parse(&text, &shown) {
                Ok(traffic) => return Ok(Some(Arc::new(traffic))),
                Err(why) => why,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => format!("{shown}: {}", error.kind()),
        };
        let audit = fs::File::open(beside(&file, AUDIT));
        let last = audit.and_then(|mut audit| last_entry(&mut audit)).unwrap_or_default();
        // What was written by a command was sound; what stands in the file may have been changed since.
        let rules = last.entry.and_then(|entry| entry.traffic.settled().ok());
        Err(Broken { why, last: rules.map(Arc::new) })
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads `text`; `file` is its name, for errors.
///
/// # Errors
/// As `Place::read`.
pub fn parse(text: &str, file: &str) -> Result<Traffic, String> {
    let read: Traffic = parse_yaml(text).map_err(|error| explain(file, text, &error))?;
    read.settled().map_err(|why| format!("{file}: {why}"))
}

/// Notices which files have changed.
pub struct Watched {
    place: Place,
    seen: HashMap<String, Option<Print>>,
}

impl Watched {
    pub fn new(place: Place) -> Watched {
        Watched { place, seen: HashMap::new() }
    }

    /// What has changed since the last look, of these models.
    pub fn changed<'a>(&mut self, models: impl Iterator<Item = &'a String>) -> Vec<(String, Said)> {
        let mut changed = Vec::new();
        for model in models {
            let print = self.place.print(model);
            match self.seen.get_mut(model) {
                Some(seen) if *seen == print => continue,
                Some(seen) => *seen = print,
                None => {
                    self.seen.insert(model.clone(), print);
                    if print.is_none() {
                        continue;
                    }
                }
            }
            changed.push((model.clone(), self.place.read(model)));
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_wrong_with_its_line() {
        let text = "primary: 1\narms:\n  - {name: canary, version: 2, weight: 10}\n";
        let traffic = parse(text, "m/traffic.yaml").unwrap();
        assert_eq!(traffic.arms[0].buckets.to_string(), "0-999");
        for (text, why) in [
            ("primary: 1\nspeed: 3\n", "m/traffic.yaml, line 2"),
            ("primary: one\n", "m/traffic.yaml, line 1"),
            ("primary: 1\narms:\n  - {name: a, version: 1, weight: 10}\n", "which is the primary"),
            ("primary: 1\narms:\n  - {name: a, version: 2, weight: 1, buckets: 5-1}\n", "as in"),
        ] {
            let error = parse(text, "m/traffic.yaml").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_state_directory_comes_first_and_changes_are_noticed() {
        let home = tempfile::tempdir().unwrap();
        let (models, state) = (home.path().join("models"), home.path().join("state"));
        fs::create_dir_all(models.join("m/1")).unwrap();
        fs::create_dir_all(state.join(FOLDER)).unwrap();
        let place = Place { models: models.clone(), state: Some(state.clone()), store: None };
        let mut watched = Watched::new(place.clone());
        let names = ["m".to_string()];
        let primary = |watched: &mut Watched| {
            let changed = watched.changed(names.iter());
            changed.into_iter().map(|(_, t)| t.unwrap().and_then(|t| t.primary)).collect::<Vec<_>>()
        };
        assert!(primary(&mut watched).is_empty());
        fs::write(models.join("m").join(FILE), "primary: 1\n").unwrap();
        assert_eq!(primary(&mut watched), [Some(1)]);
        assert!(primary(&mut watched).is_empty());
        fs::write(state.join(FOLDER).join("m.yaml"), "primary: 22\n").unwrap();
        assert_eq!(primary(&mut watched), [Some(22)]);
        fs::remove_file(state.join(FOLDER).join("m.yaml")).unwrap();
        fs::remove_file(models.join("m").join(FILE)).unwrap();
        assert_eq!(primary(&mut watched), [None]);
        assert_eq!(place.read("../m").unwrap(), None, "no name, no file");
    }
}
