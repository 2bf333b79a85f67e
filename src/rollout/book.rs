//! Where the traffic rules of a model are written: as files, or in the object store that its versions come from.

use super::{files::Files, stored::Stored};
use crate::{
    repository::traffic::{Entry, Place},
    types::traffic::Traffic,
};

/// Why nothing was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else was first: the generation that is there, and the one that was expected.
    Conflict { there: u64, expected: u64 },
    /// The place where they are.
    Disk(String),
}

/// The rules of one model, and every change of them. All of it may wait for a disk or a store.
pub enum Book {
    Files(Files),
    Stored(Stored),
}

impl Book {
    /// Where the rules of `model` are, or are to be: the file that counts already; the store, where versions come from one that takes
    /// them; the repository, where that can be written; else the state directory.
    ///
    /// # Errors
    /// There is no such place.
    pub fn of(place: &Place, model: &str) -> Result<Book, String> {
        let kept = place.in_state(model).is_some_and(|file| file.exists());
        match place.store.as_ref().filter(|_| !kept) {
            Some(store) => Stored::of(store, model).map(Book::Stored),
            None => Files::of(place, model).map(Book::Files),
        }
    }

    /// Where it is, for a person.
    pub fn shown(&self) -> String {
        match self {
            Book::Files(files) => files.path().display().to_string(),
            Book::Stored(stored) => stored.shown(),
        }
    }

    /// The rules as they are written; the default ones where there are none.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(&self) -> Result<Traffic, String> {
        match self {
            Book::Files(files) => files.read(),
            Book::Stored(stored) => stored.read(),
        }
    }

    /// Writes `after` if what is there still has the generation before it. Whoever is killed on the way leaves the old rules or the
    /// new ones; a change that the audit lacks then is added with the next one.
    ///
    /// # Errors
    /// As `Refusal`.
    pub fn write(&self, after: &Traffic) -> Result<(), Refusal> {
        match self {
            Book::Files(files) => files.write(after),
            Book::Stored(stored) => stored.write(after),
        }
    }

    /// Every change so far, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn history(&self) -> Result<Vec<Entry>, String> {
        match self {
            Book::Files(files) => files.history().map_err(|error| error.to_string()),
            Book::Stored(stored) => stored.history(),
        }
    }
}

/// The text of a `traffic.yaml`.
///
/// # Errors
/// It cannot be written as YAML.
pub(super) fn written(traffic: &Traffic) -> Result<String, String> {
    let head = "# Who gets what of this model's requests. Written by `onnxd rollout`; read by every server on this repository.\n";
    let body = serde_saphyr::to_string(traffic).map_err(|error| error.to_string())?;
    Ok(format!("{head}{body}"))
}

/// The line of a change for the audit; `None` where the rules do not say how they came about.
pub(super) fn entry(rules: &Traffic) -> Option<Entry> {
    let change = rules.change.clone()?;
    Some(Entry { generation: rules.generation, change, traffic: rules.clone() })
}
