//! The one place that reads the clock for the request path.

use std::time::Instant;

use crate::types::time::Tick;

/// Now, on the monotonic clock.
pub fn now() -> Tick {
    Tick::at(Instant::now())
}
