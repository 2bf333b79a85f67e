//! Sessions of a version beside the one that all share: one for each thread that runs it, since a shared one contends for its arena.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{
    candidate::Checked,
    job::Job,
    loader::Opened,
    wrapped::{Budget, Wrapped},
};
use crate::{
    batcher::{pool::Threads, served::Sessions},
    runtime::{probe, session::Session},
};

/// Weights below this: a session for each thread. Above, the memory is worth more than the contention.
const REPLICATED_WEIGHTS: u64 = 16 << 20;
/// Memory that all those further sessions of all models may take together. What does not fit shares.
pub const BUDGET: u64 = 256 << 20;
/// What a session takes beside its weights, by experience.
const SESSION_OVERHEAD: u64 = 512 << 10;
/// Further sessions of models below this are run once before they serve; above, a first run costs little more than any.
const WARM_BELOW: Duration = Duration::from_millis(5);

/// The threads that are to have one. A version in the turn runs on the network threads, and elsewhere only where a turn is full
/// or a request large: until that happens (`wide`), the others have none, which makes it quick to load. Network threads run
/// nothing but the turn.
fn slots(threads: Threads, turn: bool, wide: bool) -> Range<usize> {
    match (turn, wide) {
        (true, false) => 0..threads.network,
        (true, true) => 0..threads.slots(),
        (false, _) => threads.network..threads.slots(),
    }
}

/// A version's sessions.
pub struct Replicas {
    pub sessions: Sessions,
    /// How many threads have one of their own.
    pub given: usize,
    /// Further threads might have one, should they run it.
    pub lacking: bool,
}

/// Gives threads a session of their own where the model is small and memory allows; `turn`: the version runs there.
pub fn open(
    budget: &Arc<Budget>,
    threads: Threads,
    job: &Job,
    opened: &Opened,
    checked: &Checked,
    turn: bool,
) -> Replicas {
    let sessions = Sessions::new(opened.session.clone(), threads.slots());
    // A successor is what callers made of the one before.
    let wide = job.wide || job.predecessor.as_ref().is_some_and(|old| old.served.widely());
    let slots = slots(threads, turn, wide);
    let (wanted, beyond) = (slots.len(), slots.end < threads.slots());
    let given = replicate(budget, &sessions, opened, checked, slots);
    Replicas { sessions, given, lacking: beyond && given == wanted }
}

/// Says how many of `slots` got one.
fn replicate(
    budget: &Arc<Budget>,
    sessions: &Sessions,
    opened: &Opened,
    checked: &Checked,
    slots: Range<usize>,
) -> usize {
    let options = &opened.session_options;
    // Neither a device's memory nor threads of their own for sessions that few runs at a time use.
    let shared = opened.session.device().is_some() || options.intra_op_threads > 1;
    if shared || opened.weights >= REPLICATED_WEIGHTS {
        return 0;
    }
    let single = opened.probe.as_ref().and_then(|p| p.rows.first());
    let warm = single.is_some_and(|(_, took)| *took < WARM_BELOW);
    let mut given = 0;
    for slot in slots {
        let Some(memory) = budget.reserve(opened.weights + SESSION_OVERHEAD) else {
            break;
        };
        match opened.backend.open(&opened.source, options) {
            Ok(session) => {
                let signature = opened.signature.clone();
                let own = Wrapped::new(session, signature, Some(memory));
                // For what it does to the session: its first run allocates.
                if let Some(sample) = checked.samples.first().filter(|_| warm) {
                    let _ = own.run(&sample.views(), None);
                } else if warm {
                    probe::probe(&own, &[1]);
                }
                sessions.set_own(slot, Arc::new(own));
            }
            Err(reason) => {
                let model = &opened.source.label;
                tracing::warn!(model, reason, "a further session could not be opened");
                break;
            }
        }
        given += 1;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_where_runs_are() {
        let threads = Threads { network: 2, executors: 3 };
        assert_eq!(slots(threads, true, false), 0..2, "the turn's");
        assert_eq!(slots(threads, true, true), 0..6, "and the executors', and the reserve's");
        for wide in [false, true] {
            assert_eq!(slots(threads, false, wide), 2..6, "all but the turn's");
        }
    }
}
