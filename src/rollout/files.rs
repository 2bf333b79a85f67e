//! The traffic rules of a model on disk: changed one after the other whoever does it, the old or the new one there at every moment, and each
//! change in a file that only grows.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use super::book::{Refusal, entry, written};
use crate::{
    repository::traffic::{self, AUDIT, Entry, Place, beside},
    types::traffic::Traffic,
};

/// Beside a model's traffic.yaml.
const LOCK: &str = ".traffic.lock";
const FRESH: &str = ".traffic.new";

/// The files of one model.
pub struct Files {
    folder: PathBuf,
    file: PathBuf,
    /// The repository's own file, where that cannot be written: what it says holds until the first change.
    given: Option<PathBuf>,
}

impl Files {
    /// Where the rules of `model` are, or are to be: in the repository where that can be written, else in the state directory.
    ///
    /// # Errors
    /// There is no such place.
    pub fn of(place: &Place, model: &str) -> Result<Files, String> {
        let in_state = place.in_state(model);
        let kept = in_state.clone().filter(|file| file.exists());
        let given = place.in_repository(model);
        let own = given.clone().filter(|file| file.parent().is_some_and(writable));
        let file = kept.or(own).or(in_state).ok_or_else(|| {
            format!(
                "the traffic rules of '{model}' cannot be written: the repository is read-only, and there is no state directory \
                 (--state DIR)"
            )
        })?;
        let folder = file.parent().unwrap_or(Path::new(".")).to_path_buf();
        Ok(Files { folder, given: given.filter(|given| *given != file), file })
    }

    /// Where it is, for a person.
    pub fn path(&self) -> &Path {
        &self.file
    }

    fn beside(&self, name: &str) -> PathBuf {
        beside(&self.file, name)
    }

    /// The rules as they are written; the default ones where there are none.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(&self) -> Result<Traffic, String> {
        for file in [Some(&self.file), self.given.as_ref()].into_iter().flatten() {
            match fs::read_to_string(file) {
                Ok(text) => return traffic::parse(&text, traffic::FILE),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{}: {}", traffic::FILE, error.kind())),
            }
        }
        Ok(Traffic::default())
    }

    /// Writes `after` if what is there still has the generation before it. Whoever is killed on the way leaves the old rules or the
    /// new ones; a line that the audit file lacks then is added with the next change.
    ///
    /// # Errors
    /// As `Refusal`.
    pub fn write(&self, after: &Traffic) -> Result<(), Refusal> {
        let disk = |error: io::Error| Refusal::Disk(format!("{}: {error}", traffic::FILE));
        fs::create_dir_all(&self.folder).map_err(disk)?;
        let _lock = self.lock().map_err(disk)?;
        let there = self.read().map_err(Refusal::Disk)?;
        let expected = after.generation.saturating_sub(1);
        if there.generation != expected {
            return Err(Refusal::Conflict { there: there.generation, expected });
        }
        self.audit(&there).map_err(disk)?;
        let text = written(after).map_err(Refusal::Disk)?;
        let fresh = self.beside(FRESH);
        let mut file = File::create(&fresh).map_err(disk)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(disk)?;
        fs::rename(&fresh, &self.file).map_err(disk)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(disk)?;
        // Whoever is killed here: see above.
        self.audit(after).map_err(disk)
    }

    /// Held until the file is dropped; by whichever process or thread.
    fn lock(&self) -> io::Result<File> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.beside(LOCK))?;
        // SAFETY: the descriptor is open for as long as `file` lives.
        match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } {
            0 => Ok(file),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Adds the line of `rules`, unless it is there.
    fn audit(&self, rules: &Traffic) -> io::Result<()> {
        let Some(entry) = entry(rules) else { return Ok(()) };
        let path = self.beside(AUDIT);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let last = traffic::last_entry(&mut file)?;
        if last.entry.is_some_and(|last| last.generation >= rules.generation) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        if last.torn {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_all()
    }

    /// Every change so far, oldest first. A line that was cut off by a crash is left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn history(&self) -> io::Result<Vec<Entry>> {
        let file = match File::open(self.beside(AUDIT)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for line in BufReader::new(file).lines() {
            entries.extend(serde_json::from_str(&line?));
        }
        Ok(entries)
    }
}

fn writable(folder: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: a path that ends with a zero, which outlives the call.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::SystemTime};

    use super::*;
    use crate::types::traffic::{Arm, Change};

    fn place(home: &Path) -> Place {
        fs::create_dir_all(home.join("models/m/1")).unwrap();
        Place { models: home.join("models"), state: Some(home.join("state")), store: None }
    }

    fn rules(generation: u64, weight: f64) -> Traffic {
        let arm = Arm { name: "canary".into(), version: 2, weight, buckets: Default::default() };
        let change = Change {
            action: "set".into(),
            by: "ops@example".into(),
            at: "2026-01-01T00:00:00Z".into(),
            why: "a # test: 'quoted'\nand more".into(),
        };
        let rules = Traffic {
            generation,
            primary: Some(1),
            arms: vec![arm],
            change: Some(change),
            ..Traffic::default()
        };
        rules.settled().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_counted() {
        let home = tempfile::tempdir().unwrap();
        let book = Files::of(&place(home.path()), "m").unwrap();
        assert!(book.path().ends_with("models/m/traffic.yaml"));
        assert!(book.read().unwrap().is_plain());
        book.write(&rules(1, 10.0)).unwrap();
        assert_eq!(book.read().unwrap(), rules(1, 10.0));
        let conflict = Err(Refusal::Conflict { there: 1, expected: 0 });
        assert_eq!(book.write(&rules(1, 20.0)), conflict);
        book.write(&rules(2, 20.0)).unwrap();
        let history = book.history().unwrap();
        assert_eq!(history.iter().map(|entry| entry.generation).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(history[1].traffic, rules(2, 20.0));
        assert_eq!(history[0].change.by, "ops@example");
    }

    #[test]
    fn what_a_crash_left_out_is_added() {
        let home = tempfile::tempdir().unwrap();
        let book = Files::of(&place(home.path()), "m").unwrap();
        book.write(&rules(1, 10.0)).unwrap();
        // Killed after the rename, and while the line was written.
        fs::write(book.path(), written(&rules(2, 20.0)).unwrap()).unwrap();
        let audit = book.beside(AUDIT);
        let torn = [fs::read(&audit).unwrap(), b"{\"generation\":2,\"ch".to_vec()].concat();
        fs::write(&audit, torn).unwrap();
        fs::write(book.beside(FRESH), "half").unwrap();
        book.write(&rules(3, 30.0)).unwrap();
        let all: Vec<u64> = book.history().unwrap().iter().map(|entry| entry.generation).collect();
        assert_eq!(all, [1, 2, 3]);
    }

    #[test]
    fn many_at_once_are_one_after_the_other() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let book = Files::of(&place, "m").unwrap();
                    for _ in 0..5 {
                        loop {
                            let next = book.read().unwrap().generation + 1;
                            if book.write(&rules(next, 10.0)).is_ok() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        let book = Files::of(&place, "m").unwrap();
        assert_eq!(book.read().unwrap().generation, 40);
        let all: Vec<u64> = book.history().unwrap().iter().map(|entry| entry.generation).collect();
        assert_eq!(all, (1..=40).collect::<Vec<_>>());
        assert!(fs::metadata(book.path()).unwrap().modified().unwrap() <= SystemTime::now());
    }

    #[test]
    fn rules_of_a_repository_that_cannot_be_written_are_where_the_first_change_begins() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path());
        let own = place.in_repository("m").unwrap();
        fs::write(&own, written(&rules(4, 40.0)).unwrap()).unwrap();
        // As `Files::of` has it where the repository is read-only; root may write everywhere.
        let file = place.in_state("m").unwrap();
        let folder = file.parent().unwrap().to_path_buf();
        let book = Files { folder, file, given: Some(own) };
        assert_eq!(book.read().unwrap(), rules(4, 40.0));
        book.write(&rules(5, 50.0)).unwrap();
        assert_eq!(book.read().unwrap().generation, 5);
        assert_eq!(place.read("m").unwrap().unwrap().generation, 5);
    }

    #[test]
    fn one_file_has_its_rules_in_the_state_directory() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("m.onnx");
        fs::write(&model, "x").unwrap();
        let state = Some(home.path().join("state"));
        let book = Files::of(&Place { models: model.clone(), state, store: None }, "m").unwrap();
        book.write(&rules(1, 10.0)).unwrap();
        assert_eq!(book.read().unwrap().generation, 1);
        assert!(Files::of(&Place { models: model, state: None, store: None }, "m").is_err());
    }
}
