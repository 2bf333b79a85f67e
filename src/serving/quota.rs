//! A caller's quota: requests per second with a burst (GCRA), and requests at once. Pure: it is told the time.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::types::time::Tick;

/// What a caller may have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// `None`: no limit.
    pub rate: Option<Rate>,
    /// Requests at once; `None`: no limit.
    pub at_once: Option<u32>,
}

/// A rate as GCRA has it: each request moves a theoretical arrival time on by an interval, and may come before that time
/// by as much as the burst allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
    early: u64,
}

impl Rate {
    /// `burst`: how many may come at the same moment after a pause; at least one.
    pub fn new(per_second: f64, burst: u32) -> Rate {
        // Cast saturates: a rate near zero is a request in centuries.
        let interval = ((1e9 / per_second) as u64).max(1);
        Rate { interval, early: interval.saturating_mul(u64::from(burst.saturating_sub(1))) }
    }

    /// What the arrival time becomes with one more request at `now`, or how long until one has room.
    fn next(self, arrival: u64, now: Tick) -> Result<u64, Duration> {
        let earliest = arrival.saturating_sub(self.early);
        if now.0 < earliest {
            return Err(Duration::from_nanos(earliest - now.0));
        }
        Ok(arrival.max(now.0).saturating_add(self.interval))
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// One has room after this long.
    Rate(Duration),
    AtOnce(u32),
}

/// What a caller has used; shared by all threads.
#[derive(Debug, Default)]
pub struct Used {
    arrival: AtomicU64,
    at_once: AtomicU32,
}

impl Used {
    /// Takes one request in; `leave` must follow.
    ///
    /// # Errors
    /// Where the quota has no room; nothing is used then.
    pub fn enter(&self, quota: Quota, now: Tick) -> Result<(), Over> {
        let before = self.at_once.fetch_add(1, Ordering::Relaxed);
        if let Some(limit) = quota.at_once.filter(|limit| before >= *limit) {
            self.leave();
            return Err(Over::AtOnce(limit));
        }
        quota.rate.map_or(Ok(()), |rate| self.spend(rate, now)).inspect_err(|_| self.leave())
    }

    fn spend(&self, rate: Rate, now: Tick) -> Result<(), Over> {
        let mut seen = self.arrival.load(Ordering::Relaxed);
        loop {
            let next = rate.next(seen, now).map_err(Over::Rate)?;
            let swapped = self.arrival.compare_exchange_weak(
                seen,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return Ok(()),
                Err(other) => seen = other,
            }
        }
    }

    /// A request that was taken in is over.
    pub fn leave(&self) {
        self.at_once.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests at once, now.
    pub fn at_once(&self) -> u32 {
        self.at_once.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(per_second: f64, burst: u32) -> Quota {
        Quota { rate: Some(Rate::new(per_second, burst)), at_once: None }
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (used, quota) = (Used::default(), rate(10.0, 3));
        let at = |ms: u64| used.enter(quota, Tick(5 * SECOND + ms * 1_000_000));
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(Over::Rate(Duration::from_millis(100))));
        assert_eq!(at(99), Err(Over::Rate(Duration::from_millis(1))));
        assert_eq!(at(100), Ok(()));
        assert_eq!(at(100), Err(Over::Rate(Duration::from_millis(100))));
        // A pause fills the bucket, and no more than that.
        assert_eq!([at(9000), at(9000), at(9000)], [Ok(()); 3]);
        assert!(at(9000).is_err());
    }

    #[test]
    fn so_many_at_once() {
        let (used, quota) = (Used::default(), Quota { rate: None, at_once: Some(2) });
        let enter = || used.enter(quota, Tick(0));
        assert_eq!([enter(), enter(), enter()], [Ok(()), Ok(()), Err(Over::AtOnce(2))]);
        used.leave();
        assert_eq!([enter(), enter()], [Ok(()), Err(Over::AtOnce(2))]);
        assert_eq!(used.at_once(), 2);
    }

    #[test]
    fn what_the_rate_refuses_holds_no_place() {
        let (used, quota) = (Used::default(), Quota { at_once: Some(1), ..rate(1.0, 1) });
        assert_eq!(used.enter(quota, Tick(SECOND)), Ok(()));
        used.leave();
        assert!(matches!(used.enter(quota, Tick(SECOND)), Err(Over::Rate(_))));
        assert_eq!(used.at_once(), 0);
    }

    #[test]
    fn extremes_do_not_overflow() {
        for (per_second, burst) in [(f64::MIN_POSITIVE, u32::MAX), (1e300, 1), (0.001, u32::MAX)] {
            let (used, quota) = (Used::default(), rate(per_second, burst));
            for now in [0, 1, u64::MAX] {
                let _ = used.enter(quota, Tick(now));
            }
        }
    }

    proptest! {
        /// Over any stretch of time, no more pass than the burst and what the rate gives for the stretch; who comes back
        /// after the wait that was named has room, and a moment earlier has none.
        #[test]
        fn never_more_and_never_less(
            per_second in 1u32..1000,
            burst in 1u32..20,
            gaps in prop::collection::vec(0u64..50_000_000, 1..200),
        ) {
            let (used, quota) = (Used::default(), rate(f64::from(per_second), burst));
            let mut passed: Vec<u64> = Vec::new();
            let mut now = 3 * SECOND;
            for gap in gaps {
                now += gap;
                match used.enter(quota, Tick(now)) {
                    Ok(()) => passed.push(now),
                    Err(Over::Rate(wait)) => {
                        prop_assert!(!wait.is_zero());
                        let back = now + wait.as_nanos() as u64;
                        prop_assert!(used.enter(quota, Tick(back - 1)).is_err());
                        prop_assert_eq!(used.enter(quota, Tick(back)), Ok(()));
                        now = back;
                        passed.push(now);
                    }
                    Err(other) => prop_assert!(false, "{:?}", other),
                }
            }
            let interval = (1e9 / f64::from(per_second)) as u64;
            for (first, start) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first) {
                    let most = u64::from(burst) + (end - start) / interval;
                    prop_assert!((last - first + 1) as u64 <= most);
                }
            }
        }
    }
}
