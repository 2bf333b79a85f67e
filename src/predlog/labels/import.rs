//! Labels from whatever form into the store: everything is read before the first of them shows, so that a mistake changes nothing.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Label, Names, from_row, is_known,
    parse::{self, Form, Input},
    staging::Staging,
    store::{Put, Store},
};
use crate::predlog::reader::ReadError;

/// Labels held in memory at most, and about how many bytes of them.
const CHUNK: usize = 100_000;
const CHUNK_BYTES: usize = 32 << 20;

/// Names of ignored fields that are remembered at most.
const IGNORED: usize = 32;

/// What is brought in, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Import<'a> {
    pub store: &'a Store,
    pub model: &'a str,
    pub names: &'a Names,
    /// What is noted as the source of labels that name none.
    pub source: Option<&'a str>,
    /// When labels without a time became known, microseconds since 1970.
    pub now: i64,
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub labels: u64,
    pub put: Put,
    /// Fields that mean nothing to labels.
    pub ignored: BTreeSet<String>,
}

/// Why nothing was brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What came is wrong: the row, what was expected and what came.
    Wrong(String),
    /// The store could not be read or written.
    Store(ReadError),
}

impl Import<'_> {
    /// Brings labels in.
    ///
    /// # Errors
    /// What came is wrong, or could not be kept: then nothing of it is.
    pub fn run(&self, input: Input<'_>, form: Form) -> Result<Imported, Refused> {
        let mut staging = Staging::new(self.store, self.model, self.now);
        let mut ignored = BTreeSet::new();
        let (mut held, mut bytes) = (Vec::new(), 0);
        let mut broken = None;
        let mut row = |row: parse::Row| {
            for (name, _) in &row {
                if !is_known(name, self.names) && ignored.len() < IGNORED {
                    ignored.insert(name.clone());
                }
            }
            let mut label = from_row(&row, self.names, self.now)?;
            label.source = label.source.or_else(|| self.source.map(str::to_owned));
            bytes += weight(&label);
            held.push(label);
            if held.len() >= CHUNK || bytes >= CHUNK_BYTES {
                staging.add(&held).map_err(|error| note(&mut broken, error))?;
                held.clear();
                bytes = 0;
            }
            Ok(())
        };
        let wanted = |name: &str| is_known(name, self.names);
        // Why: what reads the binary forms checks much and not all; a file that it trips over is a wrong file.
        let read = catch_unwind(AssertUnwindSafe(|| parse::each(input, form, wanted, &mut row)));
        let read = read.unwrap_or_else(|_| {
            Err("it cannot be read: its parts contradict each other".to_owned())
        });
        let labels = match (read, broken) {
            (_, Some(error)) => return Err(Refused::Store(error)),
            (Err(why), None) => return Err(Refused::Wrong(why)),
            (Ok(labels), None) => labels,
        };
        let put = staging.add(&held).and_then(|()| staging.commit());
        Ok(Imported { labels, put: put.map_err(Refused::Store)?, ignored })
    }
}

/// Keeps what the store said; what it is turned into is not shown.
fn note(broken: &mut Option<ReadError>, error: ReadError) -> String {
    *broken = Some(error);
    String::new()
}

/// About what a label takes in memory.
fn weight(label: &Label) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    size_of::<Label>()
        + label.label_key.len()
        + text(&label.label)
        + text(&label.source)
        + text(&label.event_id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NOW: i64 = 1_800_000_000_000_000;
    const DAY: i64 = 86_400_000_000;

    fn import(dir: &Path, text: &str, now: i64) -> Result<Imported, Refused> {
        let (store, names) = (Store::at(dir), Names::default());
        let import = Import { store: &store, model: "m", names: &names, source: None, now };
        import.run(Input::Stream(&mut text.as_bytes()), Form::Json)
    }

    fn put(dir: &Path, text: &str, now: i64) -> (u64, u64) {
        let put = import(dir, text, now).expect("imported").put;
        (put.written, put.known)
    }

    #[test]
    fn the_same_words_are_known_however_they_are_grouped() {
        let dir = tempfile::tempdir().expect("a directory");
        let two = r#"[{"label_key":"a","label":1},{"label_key":"b","label":"x","ts_label":"2026-01-01"}]"#;
        assert_eq!(put(dir.path(), two, NOW), (2, 0));
        assert_eq!(put(dir.path(), r#"{"label_key":"a","label":1}"#, NOW + DAY), (0, 1));
        let b = r#"{"label_key":"b","label":"x","ts_label":"2026-01-01"}"#;
        assert_eq!(put(dir.path(), &format!("{b}\n{b}"), NOW), (0, 2));
        let corrected = r#"{"label_key":"a","label":0}{"label_key":"a","label":1,"revision":1}"#;
        assert_eq!(put(dir.path(), corrected, NOW + DAY), (2, 0));
        let twice = r#"{"label_key":"c","label":1}{"label_key":"c","label":1}"#;
        assert_eq!(put(dir.path(), twice, NOW), (1, 1));
        let resolved = Store::at(dir.path()).resolved("m").expect("read");
        assert_eq!((resolved.len(), resolved.seen), (3, 5));
    }

    #[test]
    fn a_mistake_changes_nothing_however_much_came_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let many: String =
            (0..CHUNK + 5).map(|n| format!("{{\"label_key\":\"k{n}\",\"label\":1}}\n")).collect();
        let wrong = import(dir.path(), &format!("{many}{{\"label_key\":\"z\"}}"), NOW);
        let Err(Refused::Wrong(why)) = wrong else { panic!("refused") };
        assert!(why.starts_with("row 100006: z: expected label"), "{why}");
        let store = Store::at(dir.path());
        assert!(store.resolved("m").expect("read").is_empty());
        assert!(store.files("m").expect("read").is_empty());
        assert_eq!(put(dir.path(), &many, NOW), (CHUNK as u64 + 5, 0));
        assert_eq!(put(dir.path(), &many, NOW + DAY), (0, CHUNK as u64 + 5));
        assert_eq!(store.resolved("m").expect("read").len(), CHUNK + 5);
    }
}
