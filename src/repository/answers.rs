//! Whether a version's answers are kept, and what its identity is in the cache.

use super::{job::Job, loader::Opened, options::ModelOptions};
use crate::{
    cache::{ask::Cached, options::CacheOptions, store::Stores},
    predlog::options::LogOptions,
    runtime::ops,
};

/// What was decided.
pub struct Answers {
    pub cached: Option<Cached>,
    /// That, in words.
    pub said: String,
}

impl Answers {
    pub fn decide(job: &Job, opened: &Opened, stores: &Stores) -> Answers {
        let options = job.options.cache;
        let graph = &opened.source.graph;
        if options.max_bytes == 0 {
            return Answers { cached: None, said: "off: cache.max_bytes is 0".into() };
        }
        if graph.random {
            let op = graph.find_op(|_, op| ops::is_random(op));
            let op = op.unwrap_or_else(|| "Dropout".into());
            let said = format!("off: the graph has {op}, which answers the same input differently");
            tracing::warn!(model = &*job.model, version = job.number, "the cache is {said}");
            return Answers { cached: None, said };
        }
        let store = stores.of(&job.model, options);
        let cached = Cached::new(store, &identity(job, opened).each_ref().map(Vec::as_slice));
        let ttl = match options.ttl_ms {
            0 => "for as long as there is room".into(),
            ms => format!("for {ms} ms"),
        };
        let said = format!("on: {} bytes for all versions, answers kept {ttl}", options.max_bytes);
        Answers { cached: Some(cached), said }
    }
}

/// All that the answers of a version depend on beside what it is asked: the same files under another number, on another
/// runtime or opened otherwise are another version.
fn identity(job: &Job, opened: &Opened) -> [Vec<u8>; 5] {
    // What the budget is, and what is logged, does not matter to an answer.
    let (cache, log) = (CacheOptions::default(), LogOptions::default());
    let options = ModelOptions { cache, log, ..(*job.options).clone() };
    [
        opened.sha256.clone().into_bytes(),
        job.number.to_le_bytes().into(),
        opened.backend.describe().into_bytes(),
        opened.session.providers().join(",").into_bytes(),
        // Plain values: this cannot fail. If it did, the version would share nothing with one opened otherwise.
        serde_json::to_vec(&options).unwrap_or_else(|error| error.to_string().into_bytes()),
    ]
}
