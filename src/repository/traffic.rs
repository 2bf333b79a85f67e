//! Where a model's `traffic.yaml` lies, and what it says.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    options::{explain, parse_yaml},
    print::{self, Print},
    store::check_name,
};
use crate::types::traffic::Traffic;

pub const FILE: &str = "traffic.yaml";
/// Below the state directory: one file a model.
const FOLDER: &str = "traffic";
const MOST_BYTES: u64 = 256 << 10;

/// What is read of a model: nothing where there is no file, or why the file is none.
pub type Said = Result<Option<Arc<Traffic>>, String>;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The repository as it was named: links are followed anew each time.
    pub models: PathBuf,
    /// Has the files of repositories that cannot be written.
    pub state: Option<PathBuf>,
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
    /// The line and what is wrong with it.
    pub fn read(&self, model: &str) -> Said {
        let Some(file) = self.file(model) else { return Ok(None) };
        let shown = format!("{model}/{FILE}");
        match read_file(&file) {
            Ok(text) => parse(&text, &shown).map(|traffic| Some(Arc::new(traffic))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{shown}: {}", error.kind())),
        }
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
        let place = Place { models: models.clone(), state: Some(state.clone()) };
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
