//! Generators on several machines begin at one moment: the next full multiple of a span on everybody's clock.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// So often it is looked whether somebody interrupts the wait.
const POLL: Duration = Duration::from_millis(50);

/// How long it is from `now` (since 1970, UTC) to the next full multiple of `every`. Two machines agree on the moment as well as
/// their clocks do, unless one asks just before such a moment and the other just after it.
pub fn left(now: Duration, every: Duration) -> Duration {
    let Some(past) = now.as_nanos().checked_rem(every.as_nanos()) else { return Duration::ZERO };
    // What is left is below `every`; one of 584 years is not waited for in any case.
    Duration::from_nanos(u64::try_from(every.as_nanos() - past).unwrap_or(u64::MAX))
}

/// Waits for that moment; false where `stop` was set before.
pub fn wait(every: Duration, stop: &AtomicBool) -> bool {
    let since = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let due = since() + left(since(), every);
    loop {
        let left = due.saturating_sub(since());
        if left.is_zero() {
            return true;
        }
        if stop.load(Ordering::SeqCst) {
            return false;
        }
        thread::sleep(left.min(POLL));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_moment_is_everybodys(now in 0u64..4_000_000_000_000, every in 1u64..100_000) {
            let (now, every) = (Duration::from_micros(now), Duration::from_micros(every));
            let left = left(now, every);
            prop_assert!(left > Duration::ZERO && left <= every);
            prop_assert_eq!((now + left).as_nanos() % every.as_nanos(), 0);
        }
    }

    #[test]
    fn a_wait_ends_at_its_moment_or_with_the_run() {
        assert_eq!(left(Duration::from_secs(7), Duration::ZERO), Duration::ZERO);
        let never = AtomicBool::new(false);
        assert!(wait(Duration::from_millis(20), &never));
        never.store(true, Ordering::SeqCst);
        assert!(!wait(Duration::from_secs(100_000_000_000), &never));
    }
}
