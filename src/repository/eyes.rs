//! Looks at the repository on a thread of its own, so that a slow disk holds up nobody else.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::{calls::CallId, store::Repository};

/// What is to be looked at.
pub struct Look {
    pub call: CallId,
    /// `None`: the whole repository.
    pub models: Option<Vec<String>>,
}

/// What was seen.
pub struct Sight {
    /// The call that wants to know.
    pub call: Option<CallId>,
    /// Models that are not in it are not there any more.
    pub whole: bool,
    /// With `whole: false`, only what was looked for. The error is one of the place.
    pub found: Result<Arc<Repository>, String>,
}

/// Looks until nobody asks any more. `place` is the repository as it was found at the start.
pub fn run(place: &Repository, looks: &Receiver<Look>, sights: &Sender<Sight>) {
    for Look { call, models } in looks {
        let found = match &models {
            Some(models) => place.look(models.iter().map(String::as_str)),
            None => place.again(),
        };
        let sight = Sight { call: Some(call), whole: models.is_none(), found: found.map(Arc::new) };
        if sights.send(sight).is_err() {
            return;
        }
    }
}
