//! What is known of the objects of one directory: lines that are only ever added, and what they amount to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Something that happened to an object, or has to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// It is in the store, with this content.
    Up {
        file: String,
        #[serde(flatten)]
        content: Content,
    },
    /// A compaction put the rows of these files into another: once that one is up, theirs go.
    Replaced { files: Vec<String>, by: String },
    /// An erasure writes the file anew, or removes it. It had this content before.
    Erasing { file: String, sha256: String },
    /// It went from the store, as it had to.
    Gone { file: String },
}

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub bytes: u64,
    pub sha256: String,
    /// As the store calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What is known of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub up: Option<Content>,
    replaced_by: Option<String>,
    /// The content before an erasure that has not reached the store yet.
    pub erasing: Option<String>,
    gone: bool,
}

/// What is known of a directory's objects, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<String, Entry>);

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The file goes up.
    Put(String),
    /// An erasure was about to write the file anew: where it has, it goes up in place of what is there.
    Anew(String),
    /// The object goes: an erasure removed the file (true), or another file holds its rows.
    Delete(String, bool),
}

impl Action {
    pub fn file(&self) -> &str {
        let (Action::Put(file) | Action::Anew(file) | Action::Delete(file, _)) = self;
        file
    }
}

impl Marks {
    /// A line that cannot be read (a crash tore it) says nothing: what it would have said is found out again.
    pub fn parse(text: &str) -> Marks {
        let mut marks = Marks::default();
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            marks.add(line);
        }
        marks
    }

    pub fn add(&mut self, line: Line) {
        match line {
            Line::Up { file, content } => {
                let entry = self.0.entry(file).or_default();
                entry.erasing.take_if(|before| *before != content.sha256);
                entry.up = Some(content);
                entry.gone = false;
            }
            Line::Replaced { files, by } => {
                for file in files.into_iter().filter(|file| *file != by) {
                    self.0.entry(file).or_default().replaced_by = Some(by.clone());
                }
            }
            Line::Erasing { file, sha256 } => {
                self.0.entry(file).or_default().erasing = Some(sha256);
            }
            Line::Gone { file } => {
                let entry = self.0.entry(file).or_default();
                *entry =
                    Entry { replaced_by: entry.replaced_by.take(), gone: true, ..Entry::default() };
            }
        }
    }

    pub fn of(&self, file: &str) -> Option<&Entry> {
        self.0.get(file)
    }

    /// Whether the file is in the store, as it is here.
    pub fn is_up(&self, file: &str) -> bool {
        self.of(file).is_some_and(|entry| entry.up.is_some() && entry.erasing.is_none())
    }

    /// What has to be done, where these files are there.
    pub fn plan(&self, local: &BTreeSet<String>) -> Vec<Action> {
        let mut actions = Vec::new();
        for file in local {
            match self.of(file) {
                Some(entry) if entry.up.is_some() && entry.erasing.is_some() => {
                    actions.push(Action::Anew(file.clone()));
                }
                Some(entry) if entry.up.is_some() => {}
                _ => actions.push(Action::Put(file.clone())),
            }
        }
        for (file, entry) in self.0.iter().filter(|(file, e)| !e.gone && !local.contains(*file)) {
            let erased = entry.erasing.is_some();
            if erased || self.another_holds(entry) {
                actions.push(Action::Delete(file.clone(), erased));
            }
        }
        actions
    }

    /// Whether the rows of a file that compactions have replaced are in the store under another name.
    fn another_holds<'a>(&'a self, mut entry: &'a Entry) -> bool {
        // A name is made of those that it replaces, so that this ends; a file that says otherwise is not followed for ever.
        for _ in 0..self.0.len() {
            let Some(by) = entry.replaced_by.as_deref().and_then(|by| self.of(by)) else {
                return false;
            };
            // Gone: its rows were erased, or a further file has them.
            if by.up.is_some() || by.gone {
                return true;
            }
            entry = by;
        }
        false
    }

    /// Objects that are there while their files are not, and are to stay.
    pub fn only_up(&self, local: &BTreeSet<String>) -> impl Iterator<Item = &String> {
        let alone = self.0.iter().filter(move |(file, entry)| {
            entry.up.is_some() && !local.contains(*file) && entry.erasing.is_none()
        });
        alone.filter(|(_, entry)| !self.another_holds(entry)).map(|(file, _)| file)
    }

    /// Objects that an erasure, or a compaction before it, has not reached yet.
    pub fn pending(&self) -> impl Iterator<Item = &String> {
        let due = |entry: &Entry| entry.erasing.is_some() || entry.replaced_by.is_some();
        self.0.iter().filter(move |(_, entry)| !entry.gone && due(entry)).map(|(file, _)| file)
    }
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
