//! `Tick`: monotonic time as a number, so that pure code is told the time and never asks for it.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Nanoseconds since an instant early in the process's life. Never goes back, knows nothing of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

static ORIGIN: OnceLock<Instant> = OnceLock::new();

impl Tick {
    /// The tick of an instant (the shell's `Tick::at(Instant::now())`).
    pub fn at(instant: Instant) -> Tick {
        let origin = *ORIGIN.get_or_init(|| instant);
        Tick(instant.saturating_duration_since(origin).as_nanos() as u64)
    }

    /// The instant of this tick, for timers of the shell.
    pub fn instant(self) -> Instant {
        *ORIGIN.get_or_init(Instant::now) + Duration::from_nanos(self.0)
    }

    pub fn after(self, wait: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to here; zero where `earlier` is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
