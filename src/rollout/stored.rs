//! The traffic rules of a model in its object store: replaced only as they were read, with an object for each change that is never
//! written over.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::book::{Refusal, entry, written};
use crate::{
    repository::{
        remote_source::Source,
        remote_write::{Put, Tag},
        traffic::{self, Entry},
    },
    types::traffic::Traffic,
};

/// Beside a model's traffic.yaml: an object for each change, by its generation.
const AUDIT: &str = "traffic.audit";
/// Far more than any has.
const MOST_BYTES: u64 = 256 << 10;
/// Changes that `history` reads, the latest ones.
const MOST_CHANGES: usize = 1000;

/// The objects of one model.
pub struct Stored {
    source: Arc<Source>,
    /// What its keys begin with.
    folder: String,
}

impl Stored {
    /// # Errors
    /// The store does not answer.
    pub fn of(source: &Arc<Source>, model: &str) -> Result<Stored, String> {
        let below = format!("{model}/");
        // A model that lies there alone has its rules beside it.
        let nested = wait(source.has_any(&below))?;
        Ok(Stored { source: source.clone(), folder: if nested { below } else { String::new() } })
    }

    fn key(&self) -> String {
        format!("{}{}", self.folder, traffic::FILE)
    }

    /// Where it is, for a person.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.source.url, self.key())
    }

    pub fn read(&self) -> Result<Traffic, String> {
        self.tagged().map(|(rules, _)| rules)
    }

    fn tagged(&self) -> Result<(Traffic, Option<Tag>), String> {
        let Some((bytes, tag)) = wait(self.source.get(&self.key(), MOST_BYTES))? else {
            return Ok((Traffic::default(), None));
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| format!("{}: expected UTF-8 text", traffic::FILE))?;
        traffic::parse(&text, traffic::FILE).map(|rules| (rules, Some(tag)))
    }

    pub fn write(&self, after: &Traffic) -> Result<(), Refusal> {
        let (there, tag) = self.tagged().map_err(Refusal::Disk)?;
        let expected = after.generation.saturating_sub(1);
        if there.generation != expected {
            return Err(Refusal::Conflict { there: there.generation, expected });
        }
        self.audit(&there).map_err(Refusal::Disk)?;
        let text = written(after).map_err(Refusal::Disk)?;
        match wait(self.source.put(&self.key(), text.into_bytes(), tag)).map_err(Refusal::Disk)? {
            Put::Done => self.audit(after).map_err(Refusal::Disk),
            // Between the look and the change.
            Put::Taken => {
                let there = self.read().map_err(Refusal::Disk)?.generation;
                Err(Refusal::Conflict { there, expected })
            }
        }
    }

    fn audit(&self, rules: &Traffic) -> Result<(), String> {
        let Some(entry) = entry(rules) else { return Ok(()) };
        let key = format!("{}{AUDIT}/{:09}.json", self.folder, entry.generation);
        let text = serde_json::to_vec(&entry).map_err(|error| error.to_string())?;
        // One that is there says the same.
        wait(self.source.put(&key, text, None)).map(drop)
    }

    pub fn history(&self) -> Result<Vec<Entry>, String> {
        let below = format!("{}{AUDIT}/", self.folder);
        let mut keys = wait(self.source.keys(&below))?;
        keys.sort_unstable();
        let latest = keys.split_off(keys.len().saturating_sub(MOST_CHANGES));
        let mut entries = Vec::new();
        for key in latest {
            if let Some((bytes, _)) = wait(self.source.get(&key, MOST_BYTES))? {
                entries.extend(serde_json::from_slice::<Entry>(&bytes));
            }
        }
        Ok(entries)
    }
}

/// Waits on a thread that may: `Book` says so.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    Handle::current().block_on(answer)
}
