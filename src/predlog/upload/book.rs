//! The marks on the disk: `_upload/STORE/…jsonl` below the log's root, a file for each directory that goes up. They outlive the files.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::marks::{Line, Marks};
use crate::predlog::digest;

/// Below the log's root; readers skip what begins with `_`.
const DIR: &str = "_upload";

/// The marks of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book(PathBuf);

impl Book {
    /// That of the store with this URI, of the log below `root`. Nothing is made.
    pub fn of(root: &Path, uri: &str) -> Book {
        let key = &digest::bytes(uri.as_bytes())[..16];
        Book(root.join(DIR).join(key))
    }

    /// Those of every store to which files of this log went.
    pub fn all(root: &Path) -> Vec<Book> {
        let entries = fs::read_dir(root.join(DIR)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).map(Book).collect()
    }

    /// Makes its directory. It is held by whoever gets the lock: one process uploads, others wait for their turn.
    ///
    /// # Errors
    /// The disk refuses, or another process has it.
    pub fn hold(&self, uri: &str) -> io::Result<File> {
        fs::create_dir_all(&self.0)?;
        let lock =
            File::options().create(true).write(true).truncate(false).open(self.0.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        // For people: which store this is.
        fs::write(self.0.join("uri"), uri)?;
        Ok(lock)
    }

    fn file(&self, dir: &str) -> PathBuf {
        self.0.join(format!("{dir}.jsonl"))
    }

    /// What is known of the objects of a directory, which is named as below the log's root.
    pub fn read(&self, dir: &str) -> io::Result<Marks> {
        match fs::read(self.file(dir)) {
            Ok(text) => Ok(Marks::parse(&String::from_utf8_lossy(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Marks::default()),
            Err(error) => Err(error),
        }
    }

    /// Bytes of what is known of them: it only grows.
    pub fn length(&self, dir: &str) -> io::Result<u64> {
        match fs::metadata(self.file(dir)) {
            Ok(about) => Ok(about.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Adds a line, which is on the disk when this returns.
    pub fn add(&self, dir: &str, line: &Line) -> io::Result<()> {
        let path = self.file(dir);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::options().create(true).read(true).append(true).open(path)?;
        let mut text = serde_json::to_string(line)? + "\n";
        // A line that a crash tore must not take this one with it.
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                text.insert(0, '\n');
            }
        }
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }

    /// The directories of which something is known.
    pub fn directories(&self) -> io::Result<BTreeSet<String>> {
        let (mut found, mut open) = (BTreeSet::new(), vec![String::new()]);
        while let Some(dir) = open.pop() {
            let entries = match fs::read_dir(self.0.join(&dir)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let below = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                match below.strip_suffix(".jsonl") {
                    _ if entry.file_type()?.is_dir() => open.push(below),
                    Some(dir) => {
                        found.insert(dir.to_owned());
                    }
                    None => {}
                }
            }
        }
        Ok(found)
    }
}

/// A file's directory, as it is named below the log's root, and its name; `None` where it lies elsewhere.
pub fn place(root: &Path, path: &Path) -> Option<(String, String)> {
    let dir = path.parent()?.strip_prefix(root).ok()?.to_str()?.to_owned();
    Some((dir, path.file_name()?.to_str()?.to_owned()))
}

/// Notes in the books of all stores what is about to happen to a file: `line` is given its name.
///
/// # Errors
/// It cannot be noted: then it must not happen.
pub fn note(root: &Path, path: &Path, line: impl Fn(String) -> Line) -> io::Result<()> {
    let Some((dir, name)) = place(root, path) else { return Ok(()) };
    Book::all(root).iter().try_for_each(|book| book.add(&dir, &line(name.clone())))
}

/// Objects that have to change or to go before nothing of what was erased is in a store, and objects whose files are here no more, in
/// which nobody has looked: for the evidence of an erasure.
///
/// # Errors
/// The marks cannot be read.
pub fn beyond(root: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    let (mut pending, mut unseen) = (Vec::new(), Vec::new());
    for book in Book::all(root) {
        for dir in book.directories()? {
            let marks = book.read(&dir)?;
            let local = fs::read_dir(root.join(&dir)).into_iter().flatten().flatten();
            let local: BTreeSet<String> =
                local.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            pending.extend(marks.pending().map(|file| format!("{dir}/{file}")));
            let rows = marks.only_up(&local).filter(|file| file.ends_with(".parquet"));
            unseen.extend(rows.map(|file| format!("{dir}/{file}")));
        }
    }
    Ok((pending, unseen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predlog::upload::marks::Content;

    #[test]
    fn lines_are_kept_and_a_torn_one_costs_itself_alone() {
        let home = tempfile::tempdir().expect("a directory");
        let (root, dir) = (home.path(), "log/v1/model=a/hour=9");
        let book = Book::of(root, "s3://bucket/a");
        let up = |file: &str| Line::Up {
            file: file.into(),
            content: Content { bytes: 1, sha256: "s".into(), etag: None, version: None },
        };
        assert!(Book::all(root).is_empty());
        let held = book.hold("s3://bucket/a").expect("free");
        assert!(book.hold("s3://bucket/a").is_err(), "held");
        drop(held);
        book.add(dir, &up("one")).expect("added");
        let path = root.join("_upload");
        let path = fs::read_dir(path).expect("a store").next().expect("one").expect("readable");
        let path = path.path().join(format!("{dir}.jsonl"));
        let mut file = File::options().append(true).open(&path).expect("it is there");
        file.write_all(b"{\"up\":{\"fi").expect("torn");
        note(root, &root.join(dir).join("two"), |file| up(&file)).expect("noted");
        let marks = book.read(dir).expect("readable");
        assert!(marks.is_up("one") && marks.is_up("two"));
        assert_eq!(book.directories().expect("listed"), [dir.to_owned()].into());
        assert_eq!(book.read("elsewhere").expect("none"), Marks::default());
        let (pending, unseen) = beyond(root).expect("read");
        // Neither is rows.
        assert!(pending.is_empty() && unseen.is_empty());
    }
}
