//! Validates a repository without serving it: what `onnxd check` prints.

use std::{sync::Arc, time::Instant};

use super::{
    candidate,
    entry::{Entry, entries},
    loader::{Backends, guarded, open},
    measured::Measurements,
    options::{Options, Readiness},
    store::Repository,
};

/// One version that would be loaded, or a model of which none could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub model: Arc<str>,
    /// `None`: the model as a whole (a broken model.yaml, no version).
    pub version: Option<u64>,
    /// The runtime that would serve it, or the reason why it cannot.
    pub outcome: Result<String, String>,
}

/// What a server would make of a repository.
pub struct Verdict {
    /// By model, in the order tried.
    pub versions: Vec<Checked>,
    /// Whether a server with these options would become ready.
    pub ready: bool,
}

/// Opens what a server would load, one after another, and closes it again. The error is one that would end the start.
pub fn check(options: &Options, backends: &Backends) -> Result<Verdict, String> {
    options.check()?;
    let repository = Arc::new(Repository::scan(&options.models)?);
    let mut verdict = Verdict { versions: Vec::new(), ready: true };
    for entry in entries(&repository, options)?.values_mut().filter(|e| e.wanted()) {
        check_model(backends, entry, options.readiness, &mut verdict);
    }
    Ok(verdict)
}

fn check_model(
    backends: &Backends,
    entry: &mut Entry,
    readiness: Readiness,
    verdict: &mut Verdict,
) {
    let model = entry.name.clone();
    // Whoever checks writes nothing, and believes nothing that was written.
    let measurements = Measurements::new(None);
    if let Some(problem) = entry.problem() {
        let outcome = Err(problem.to_string());
        verdict.versions.push(Checked { model: model.clone(), version: None, outcome });
    }
    loop {
        let jobs = entry.advance(Instant::now());
        if jobs.is_empty() {
            break;
        }
        for job in jobs {
            let outcome = guarded(|| {
                let opened = open(backends, &measurements, 1, &job)?;
                if let Some(opened) = &opened {
                    candidate::check(&job, opened)?;
                }
                Ok(opened.map(|o| o.backend.describe()).unwrap_or_default())
            });
            entry.tried(job.number, outcome.as_ref().map(|_| ()).map_err(String::clone));
            verdict.versions.push(Checked {
                model: model.clone(),
                version: Some(job.number),
                outcome,
            });
        }
    }
    verdict.ready &= entry.done(readiness);
}
