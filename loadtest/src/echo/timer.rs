//! Wakes futures at their moment, to some microseconds: an event loop's own timers are precise to a millisecond.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// Before a moment the thread stays awake for so long: waking up takes about that.
const AWAKE: Duration = Duration::from_micros(60);

type Waiting = BTreeMap<(Instant, u64), oneshot::Sender<()>>;

#[derive(Default)]
struct State {
    waiting: Waiting,
    number: u64,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits for moments.
pub struct Timer {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Timer {
    pub fn start() -> Result<Timer, String> {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let thread = thread::Builder::new().name("echo-timer".to_owned()).spawn(move || {
            // Where the system refuses, a moment comes some 50 µs later.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            wake(&own);
        });
        let thread = thread.map_err(|e| format!("a thread cannot be started: {e}"))?;
        Ok(Timer { shared, thread: Some(thread) })
    }

    /// Waits until then. What has passed does not wait.
    pub async fn at(&self, moment: Instant) {
        if moment <= Instant::now() {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            let number = state.number;
            state.number += 1;
            let first = state.waiting.first_key_value().is_none_or(|((m, _), _)| moment < *m);
            state.waiting.insert((moment, number), sender);
            if first {
                self.shared.changed.notify_one();
            }
        }
        let _ = receiver.await;
    }
}

fn wake(shared: &Shared) {
    let mut state = shared.lock();
    while !state.over {
        let now = Instant::now();
        let Some(((moment, _), _)) = state.waiting.first_key_value() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = moment.saturating_duration_since(now);
        if left.is_zero() {
            if let Some((_, sender)) = state.waiting.pop_first() {
                // Who waited may have left.
                let _ = sender.send(());
            }
        } else if left <= AWAKE {
            drop(state);
            std::hint::spin_loop();
            state = shared.lock();
        } else {
            let waited = shared.changed.wait_timeout(state, left - AWAKE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
