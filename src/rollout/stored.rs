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
    /// The store does not answer, or has no such model.
    pub fn of(source: &Arc<Source>, model: &str) -> Result<Stored, String> {
        let below = format!("{model}/");
        let folder = match wait(source.has_any(&below))? {
            true => below,
            // A model that lies there alone has its rules beside it.
            false if model == source.name => String::new(),
            false => return Err(format!("the store has no model '{model}' any more")),
        };
        Ok(Stored { source: source.clone(), folder })
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
            Put::Taken => match self.read().map_err(Refusal::Disk)? {
                // By this very change: its answer was lost, and it was sent again.
                there if there == *after => self.audit(after).map_err(Refusal::Disk),
                // By another, between the look and the change.
                there => Err(Refusal::Conflict { there: there.generation, expected }),
            },
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

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::types::traffic::Change;

    fn rules(generation: u64, by: &str) -> Traffic {
        let [by, action, at, why] = [by, "set", "2026-01-01T00:00:00Z", ""].map(str::to_owned);
        let change = Some(Change { action, by, at, why });
        Traffic { generation, primary: Some(generation), change, ..Traffic::default() }
    }

    /// A store with these objects, as the repository `prod`.
    fn store(keys: &[&str]) -> (Arc<InMemory>, Arc<Source>) {
        let store = Arc::new(InMemory::new());
        for key in keys {
            wait(store.put(&Path::from(*key), "x".into())).unwrap();
        }
        (store.clone(), Arc::new(Source::at(store, "prod")))
    }

    #[test]
    fn changes_come_one_after_the_other_and_each_is_kept() {
        let runtime = Runtime::new().unwrap();
        let _entered = runtime.enter();
        let (store, source) = store(&["prod/m/1/model.onnx"]);
        let [one, other] = [(); 2].map(|()| Stored::of(&source, "m").unwrap());
        one.write(&rules(1, "ana")).unwrap();
        let late = other.write(&rules(1, "bob"));
        assert_eq!(late, Err(Refusal::Conflict { there: 1, expected: 0 }));
        other.write(&rules(2, "bob")).unwrap();
        assert_eq!(one.read().unwrap(), rules(2, "bob"));
        // Killed before its line was written: the next change adds it.
        wait(store.delete(&Path::from("prod/m/traffic.audit/000000002.json"))).unwrap();
        one.write(&rules(3, "ana")).unwrap();
        let history: Vec<u64> = other.history().unwrap().iter().map(|e| e.generation).collect();
        assert_eq!(history, [1, 2, 3]);
    }

    #[test]
    fn rules_lie_beside_a_model_that_lies_alone_and_nowhere_for_one_that_is_gone() {
        let runtime = Runtime::new().unwrap();
        let _entered = runtime.enter();
        let (_, alone) = store(&["prod/model.onnx"]);
        assert_eq!(Stored::of(&alone, "prod").unwrap().shown(), "s3://test/prod/traffic.yaml");
        let (_, many) = store(&["prod/m/1/model.onnx"]);
        assert_eq!(Stored::of(&many, "m").unwrap().shown(), "s3://test/prod/m/traffic.yaml");
        let gone = Stored::of(&many, "n").err().unwrap_or_default();
        assert!(gone.contains("no model 'n'"), "{gone}");
    }
}
