//! Events in time: a thread for each waits for its moment, runs its command, and tells what came of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Ended, Happened, Planned};
use crate::plan::Tls;

/// News that nobody took: the oldest go first.
const MAX_NEWS: usize = 256;

/// The events of a run under way.
#[derive(Debug)]
pub struct Timeline {
    shared: Arc<Shared>,
    threads: Vec<(Planned, JoinHandle<Happened>)>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The moment the run began.
    origin: Instant,
    environment: Vec<(String, String)>,
    tls: Tls,
    /// Somebody interrupted the run, before it knows.
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    /// By phase.
    began: Vec<Option<Instant>>,
    over: bool,
    interrupted: bool,
    news: VecDeque<String>,
}

impl Timeline {
    /// Waits for the moments of `events`. Seconds count from `origin`; `environment` is added to that of commands, `tls` is how a
    /// called server's certificate is looked at. What is under way is ended as soon as `stop` is set.
    pub fn begin(
        events: &[Planned],
        origin: Instant,
        environment: Vec<(String, String)>,
        tls: Tls,
        stop: Arc<AtomicBool>,
    ) -> Result<Timeline, String> {
        let phases = events.iter().map(|event| event.phase + 1).max().unwrap_or(0);
        let state = Mutex::new(State { began: vec![None; phases], ..State::default() });
        let changed = Condvar::new();
        let shared = Arc::new(Shared { state, changed, origin, environment, tls, stop });
        let mut timeline = Timeline { shared, threads: Vec::with_capacity(events.len()) };
        for event in events {
            let (ours, shared) = (event.clone(), Arc::clone(&timeline.shared));
            let spawned = thread::Builder::new()
                .name("event".to_owned())
                .spawn(move || shared.carry_out(&ours))
                .map_err(|e| {
                    format!("the thread of event '{}' cannot be started: {e}", event.name)
                });
            match spawned {
                Ok(thread) => timeline.threads.push((event.clone(), thread)),
                Err(error) => {
                    timeline.end(true);
                    return Err(error);
                }
            }
        }
        Ok(timeline)
    }

    /// A phase's clock began. Said again, it changes nothing.
    pub fn phase(&self, phase: usize, began: Instant) {
        if let Some(known) = self.shared.lock().began.get_mut(phase) {
            known.get_or_insert(began);
        }
        self.shared.changed.notify_all();
    }

    /// What happened since this was asked last, a line each.
    pub fn news(&self) -> Vec<String> {
        self.shared.lock().news.drain(..).collect()
    }

    /// The run is over. Commands under way are waited for, or ended where the run was interrupted; those whose moment did not come
    /// are not run.
    pub fn end(self, interrupted: bool) -> Vec<Happened> {
        {
            let mut state = self.shared.lock();
            state.over = true;
            state.interrupted |= interrupted;
        }
        self.shared.changed.notify_all();
        let ended = |(event, thread): (Planned, JoinHandle<Happened>)| {
            thread.join().unwrap_or_else(|_| {
                let why = "its thread panicked".to_owned();
                happened(&event, Ended::NotStarted(why), None, String::new())
            })
        };
        self.threads.into_iter().map(ended).collect()
    }
}

impl Shared {
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.lock().interrupted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a phase is so old; false where the run is over before.
    fn reached(&self, phase: usize, at: Duration) -> bool {
        let mut state = self.lock();
        loop {
            if state.over || state.interrupted {
                return false;
            }
            let due = state.began.get(phase).copied().flatten().map(|began| began + at);
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => return true,
                Some(left) => {
                    let woken = self.changed.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn tell(&self, line: String) {
        let mut state = self.lock();
        if state.news.len() == MAX_NEWS {
            state.news.pop_front();
        }
        state.news.push_back(line);
    }

    fn carry_out(&self, event: &Planned) -> Happened {
        if !self.reached(event.phase, event.at) {
            let interrupted = self.interrupted();
            let ended = if interrupted { Ended::Interrupted } else { Ended::NotReached };
            return happened(event, ended, None, String::new());
        }
        let from = self.origin.elapsed().as_secs_f64();
        self.tell(format!("event '{}' at {from:.1} s: {}", event.name, event.run));
        let stop = || self.interrupted();
        let ran = event.run.carry_out(&self.environment, &self.tls, event.timeout, stop);
        let to = self.origin.elapsed().as_secs_f64();
        self.tell(format!("event '{}' after {:.1} s: {}", event.name, to - from, ran.ended));
        let span = if matches!(ran.ended, Ended::NotStarted(_)) { None } else { Some((from, to)) };
        happened(event, ran.ended, span, ran.output)
    }
}

fn happened(event: &Planned, ended: Ended, span: Option<(f64, f64)>, output: String) -> Happened {
    Happened {
        name: event.name.clone(),
        command: event.run.to_string(),
        required: event.required,
        ended,
        from_s: span.map(|(from, _)| from),
        to_s: span.map(|(_, to)| to),
        window_s: event.window.as_secs_f64(),
        output,
        slo: event.slo,
    }
}
