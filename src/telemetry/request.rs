//! What becomes known of a request on its way, for whoever watches it: the access log and traces.
//!
//! Why a thread's own place and no argument: what is worth telling (who asks, which version, where the time went) is found
//! out on several floors, and a request that nobody watches must not carry room for it.

use std::{cell::RefCell, sync::Arc};

use super::stats::Spans;
use crate::types::{error::Code, trace::TraceIds};

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Who asks, as logs may call it.
    pub caller: Option<Arc<str>>,
    pub model: Option<Arc<str>>,
    pub version: Option<Arc<str>>,
    /// Inferences: more than one on a stream.
    pub inferences: u64,
    /// Rows of those that were answered.
    pub rows: usize,
    /// Where the time of the last one went.
    pub spans: Spans,
    /// How the last one failed.
    pub code: Option<Code>,
    /// The span that was made of it.
    pub span: Option<TraceIds>,
}

impl Known {
    /// An inference of so many rows was answered.
    pub fn answered(&mut self, rows: usize, spans: Spans) {
        self.inferences += 1;
        self.rows = self.rows.saturating_add(rows);
        self.spans = spans;
    }
}

thread_local! {
    static WATCHED: RefCell<Option<Box<Known>>> = const { RefCell::new(None) };
}

/// Runs `f`, a step of the watched request: what it notes goes to `known`.
pub fn within<R>(known: &mut Option<Box<Known>>, f: impl FnOnce() -> R) -> R {
    WATCHED.set(known.take());
    let result = f();
    *known = WATCHED.take();
    result
}

/// Tells whoever watches the request that this thread is working on; nobody, mostly.
pub fn note(tell: impl FnOnce(&mut Known)) {
    WATCHED.with_borrow_mut(|watched| {
        if let Some(known) = watched {
            tell(known);
        }
    });
}

/// The span of the request that this thread works on, where one was made.
pub fn span() -> Option<TraceIds> {
    WATCHED.with_borrow(|watched| watched.as_ref()?.span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_reach_the_watched_request_and_no_other() {
        note(|_| panic!("nobody watches"));
        let mut first = Some(Box::<Known>::default());
        let mut second = first.clone();
        within(&mut first, || note(|known| known.rows = 1));
        within(&mut second, || note(|known| known.rows = 2));
        within(&mut first, || note(|known| known.inferences += 1));
        note(|_| panic!("nobody watches any more"));
        let read = |known: Option<Box<Known>>| known.map(|k| (k.rows, k.inferences));
        assert_eq!((read(first), read(second)), (Some((1, 1)), Some((2, 0))));
    }
}
