//! How much of a version's work each caller has under way: one with much less than its fair share goes before the others.
//!
//! Why not refuse those who have more: what nobody else asks for is theirs. So the many wait behind the few, within one
//! priority: a flood of one caller costs the others neither their places nor, but for what runs, their time.

use std::sync::atomic::{AtomicU32, Ordering};

/// Callers told apart; further ones share places.
const PLACES: usize = 64;

/// Of one version, the requests under way by caller.
pub struct Shares {
    held: [AtomicU32; PLACES],
    total: AtomicU32,
    /// Places that hold something.
    callers: AtomicU32,
}

impl Default for Shares {
    fn default() -> Self {
        Shares {
            held: [const { AtomicU32::new(0) }; PLACES],
            total: AtomicU32::new(0),
            callers: AtomicU32::new(0),
        }
    }
}

impl Shares {
    /// Counts a request in, and says whether it goes before the others; `leave` must follow.
    pub fn enter(&self, caller: usize) -> bool {
        let held = self.held[caller % PLACES].fetch_add(1, Ordering::Relaxed);
        if held == 0 {
            self.callers.fetch_add(1, Ordering::Relaxed);
        }
        let total = self.total.fetch_add(1, Ordering::Relaxed);
        favoured(held, total, self.callers.load(Ordering::Relaxed))
    }

    pub fn leave(&self, caller: usize) {
        if self.held[caller % PLACES].fetch_sub(1, Ordering::Relaxed) == 1 {
            self.callers.fetch_sub(1, Ordering::Relaxed);
        }
        self.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether one who has `held` of `total` among `callers` (itself counted) has less than half of a fair share. Why half:
/// callers that ask for about the same keep one line, in the order in which they came.
fn favoured(held: u32, total: u32, callers: u32) -> bool {
    2 * u64::from(held) * u64::from(callers) < u64::from(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_has_little_goes_before_who_has_much() {
        let shares = Shares::default();
        // Alone, nobody goes before themselves.
        assert!((0..100).all(|_| !shares.enter(1)));
        assert!(shares.enter(2), "a newcomer");
        assert!(!shares.enter(1));
        assert!((0..33).all(|_| shares.enter(2)), "up to half of a fair share");
        assert!(!shares.enter(2));
        assert!(shares.enter(3));
        (0..101).for_each(|_| shares.leave(1));
        (0..35).for_each(|_| shares.leave(2));
        assert!(!shares.enter(3), "alone again");
        (0..2).for_each(|_| shares.leave(3));
        assert_eq!([&shares.total, &shares.callers].map(|n| n.load(Ordering::Relaxed)), [0, 0]);
    }

    #[test]
    fn callers_that_ask_for_the_same_keep_one_line() {
        let shares = Shares::default();
        for round in 0..50 {
            for caller in 0..4 {
                let before = shares.enter(caller);
                assert!(!before || round == 0, "{caller} in round {round}");
            }
        }
    }

    proptest! {
        /// Never who has a fair share or more, and always who has none while somebody else has something.
        #[test]
        fn only_those_below_their_share(others in prop::collection::vec(0u32..1000, 0..20), held in 0u32..1000) {
            let total = others.iter().sum::<u32>() + held;
            let callers = others.iter().filter(|n| **n > 0).count() as u32 + 1;
            let before = favoured(held, total, callers);
            prop_assert!(!before || u64::from(held) * u64::from(callers) < u64::from(total));
            prop_assert!(before || held > 0 || total == 0);
        }
    }
}
