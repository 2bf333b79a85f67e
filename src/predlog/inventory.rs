//! The list of the log's files: rows, bytes and SHA-256 of each, and what became of those that are gone. Whoever adds or removes files
//! appends to a list of its own in `_manifest/`, so that nobody waits for another.
//!
//! Invariant: a file is listed once it has its name, and its segment of the write-ahead log is there until then; it is listed as gone
//! before it goes. What a crash leaves between is a file that nobody promised, never a promise that nobody keeps.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    digest, layout,
    reader::{Opened, ReadError, failed},
};

/// What the lists' names end with.
const ENDING: &str = ".files.jsonl";

/// What added a file, or removed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Rotate,
    Compact,
    Erase,
    Retention,
    #[serde(other)]
    Other,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct There {
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// Rows that no file may have, since their subject is erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub model: String,
    pub rows: u64,
}

/// One thing that happened to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Below the log's directory.
    pub file: String,
    /// Microseconds since 1970.
    pub at_us: i64,
    pub by: By,
    /// `None`: from now on it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<There>,
    /// Of a segment of the write-ahead log: rows that went out of it and into no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

impl Line {
    /// # Errors
    /// As `new`.
    pub fn left_out(root: &Path, segment: &Path, by: By, left_out: LeftOut) -> io::Result<Line> {
        Ok(Line { left_out: Some(left_out), ..Line::new(root, segment, by, None)? })
    }

    /// # Errors
    /// The file is not below the log's directory.
    pub fn new(root: &Path, file: &Path, by: By, there: Option<There>) -> io::Result<Line> {
        let below = file.strip_prefix(root).map_err(io::Error::other)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Ok(Line { file: below.to_string_lossy().into_owned(), at_us, by, there, left_out: None })
    }
}

/// A list that this process appends to.
pub struct Inventory {
    path: PathBuf,
}

impl Inventory {
    /// Of a start of a server, or of something else of that name.
    pub fn of(root: &Path, name: &str) -> Inventory {
        Inventory { path: layout::manifests(root).join(format!("{name}{ENDING}")) }
    }

    /// Of a command.
    pub fn of_command(root: &Path) -> Inventory {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Inventory::of(root, &format!("command-{:x}-{}", since.as_micros(), std::process::id()))
    }

    /// Appends the lines, which stay once this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note(&self, lines: &[Line]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        // In one go, so that a line is there as a whole unless the disk is full.
        file.write_all(&text)?;
        file.sync_data()
    }
}

/// A file of the log, as a command has written it.
///
/// # Errors
/// It cannot be read.
pub fn written(path: &Path) -> Result<There, ReadError> {
    let bytes = fs::metadata(path).map_err(|error| failed(path, error))?.len();
    Ok(There { rows: Opened::at(path)?.rows, bytes, sha256: digest::file(path)? })
}

/// Lists that a compaction has put files of an hour's directory into another, which has its name by now.
///
/// # Errors
/// The new file cannot be read, or the list not be written.
pub fn replaced(hour: &Path, inputs: &[String], output: &str) -> Result<(), ReadError> {
    let bad = |error: io::Error| failed(hour, error);
    // log/v1/model=…/version=…/date=…/hour=… below it.
    let root = hour.ancestors().nth(6).ok_or_else(|| bad(io::ErrorKind::InvalidInput.into()))?;
    let new = hour.join(output);
    let gone = inputs.iter().map(|input| Line::new(root, &hour.join(input), By::Compact, None));
    let there = Line::new(root, &new, By::Compact, Some(written(&new)?));
    let lines: io::Result<Vec<Line>> = gone.chain([there]).collect();
    lines.and_then(|lines| Inventory::of_command(root).note(&lines)).map_err(bad)
}

/// What all lists say.
#[derive(Debug, Default)]
pub struct Listed {
    /// By file: what was last said of it.
    pub files: BTreeMap<String, Line>,
    /// By file: rows that a rotation put into it, whatever has become of it since.
    pub rotated: BTreeMap<String, u64>,
    /// By segment, and who did so: rows that were left out.
    pub left_out: BTreeMap<(String, By), LeftOut>,
    /// What cannot be read, with its file and line.
    pub problems: Vec<String>,
}

/// Reads all lists. The last line of one may be cut off: whoever wrote it was killed.
///
/// # Errors
/// A list cannot be read.
pub fn read(root: &Path) -> Result<Listed, ReadError> {
    let folder = layout::manifests(root);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listed::default()),
        Err(error) => return Err(failed(&folder, error)),
    };
    let mut listed = Listed::default();
    for entry in entries {
        let path = entry.map_err(|error| failed(&folder, error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.ends_with(ENDING)) {
            let text = fs::read(&path).map_err(|error| failed(&path, error))?;
            let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            listed.add(&shown, &text);
        }
    }
    Ok(listed)
}

impl Listed {
    fn add(&mut self, list: &str, text: &[u8]) {
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        for (n, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => self.take(line),
                Err(why) => self.problems.push(format!("{list}, line {}: {why}", n + 1)),
            }
        }
    }

    fn take(&mut self, line: Line) {
        if let Some(left_out) = line.left_out {
            // What is made of a segment once more after a crash is the same; what is erased of it is more.
            let before = self.left_out.get(&(line.file.clone(), line.by));
            let more = before.filter(|_| line.by != By::Rotate).map_or(0, |before| before.rows);
            let rows = left_out.rows.saturating_add(more);
            self.left_out.insert((line.file, line.by), LeftOut { rows, ..left_out });
            return;
        }
        if let (By::Rotate, Some(there)) = (line.by, &line.there) {
            self.rotated.insert(line.file.clone(), there.rows);
        }
        match self.files.get_mut(&line.file) {
            Some(last) if last.at_us > line.at_us => {}
            Some(last) => *last = line,
            None => drop(self.files.insert(line.file.clone(), line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(file: &str, at_us: i64, by: By, rows: Option<u64>) -> Line {
        let there = rows.map(|rows| There { rows, bytes: 9, sha256: "ab".into() });
        Line { file: file.into(), at_us, by, there, left_out: None }
    }

    #[test]
    fn rows_that_are_left_out_are_counted_once_and_erased_ones_each_time() {
        let mut listed = Listed::default();
        for (by, rows) in [(By::Rotate, 3), (By::Erase, 2), (By::Erase, 1), (By::Rotate, 3)] {
            let left_out = Some(LeftOut { model: "m".into(), rows });
            listed.take(Line { left_out, ..line("_wal/n-1/00000000.wal", 1, by, None) });
        }
        let rows: Vec<u64> = listed.left_out.values().map(|left_out| left_out.rows).collect();
        assert_eq!((rows, listed.files.len()), (vec![3, 3], 0));
    }

    #[test]
    fn the_last_word_counts_whoever_says_it() {
        let home = tempfile::tempdir().expect("a directory");
        let server = Inventory::of(home.path(), "n-1");
        server
            .note(&[line("a", 1, By::Rotate, Some(5)), line("b", 2, By::Rotate, Some(6))])
            .expect("written");
        server.note(&[line("c", 5, By::Rotate, Some(7))]).expect("written");
        let command = Inventory::of_command(home.path());
        let said = [
            line("a", 3, By::Erase, Some(4)),
            line("b", 1, By::Compact, None),
            line("c", 6, By::Retention, None),
        ];
        command.note(&said).expect("written");
        let listed = read(home.path()).expect("read");
        let now: Vec<_> = listed
            .files
            .values()
            .map(|line| (&*line.file, line.there.as_ref().map(|there| there.rows)))
            .collect();
        assert_eq!(now, [("a", Some(4)), ("b", Some(6)), ("c", None)]);
        let rotated: Vec<u64> = listed.rotated.into_values().collect();
        assert_eq!((rotated, listed.problems.len()), (vec![5, 6, 7], 0));
    }

    #[test]
    fn a_line_that_is_cut_off_is_none_and_one_that_is_odd_is_told() {
        let mut listed = Listed::default();
        let text = serde_json::to_string(&line("a", 1, By::Rotate, Some(5))).expect("JSON");
        listed.add("x", format!("{text}\n{{}}\n{}", &text[..text.len() / 2]).as_bytes());
        assert_eq!(listed.files.len(), 1);
        assert_eq!(listed.problems, ["x, line 2: missing field `file` at line 1 column 2"]);
        let odd = text.replace("rotate", "a later way");
        listed.add("y", format!("{odd}\n").as_bytes());
        assert_eq!(listed.files["a"].by, By::Other);
    }

    #[test]
    fn no_list_is_no_file() {
        let home = tempfile::tempdir().expect("a directory");
        assert!(read(home.path()).expect("read").files.is_empty());
    }
}
