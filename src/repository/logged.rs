//! A version's prediction log, by what is known of the version once it has opened.

use std::sync::Arc;

use super::{job::Job, loader::Opened};
use crate::predlog::{
    capture::VersionLog,
    store::{Logs, Subjected},
};

/// The log of a version; `None` where it has none.
///
/// # Errors
/// What `log` of its model.yaml says does not fit the model, or its reference cannot be read.
pub fn attach(
    logs: &Logs,
    job: &Job,
    label: &Arc<str>,
    opened: &Opened,
) -> Result<Option<Arc<VersionLog>>, String> {
    let reference = match job.options.log.enabled {
        true => job.repository.reference(&job.file)?,
        false => None,
    };
    let version = Subjected {
        model: &job.model,
        version: label,
        digest: &opened.sha256,
        signature: &opened.signature,
        metadata: &opened.source.graph.metadata,
        reference,
        device: opened.session.device().unwrap_or("cpu").to_owned(),
    };
    logs.attach(version, &job.options.log)
}
