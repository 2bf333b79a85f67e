//! When a primary that keeps failing is left alone for a while, where somebody else can answer: a circuit breaker, told the time.

use std::time::Duration;

use crate::types::time::Tick;

/// So many failures in a row open it.
const FAILURES: u32 = 5;
/// It stays open for so long at first, twice as long each time a trial fails, up to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Closed: everybody is let through. Open: nobody, until its time is over; then one, whose fate decides.
#[derive(Debug, Default)]
pub struct Breaker {
    /// In a row.
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Tick,
    lasts: Duration,
    /// One is on trial, since then.
    trial: Option<Tick>,
}

impl Breaker {
    /// Whether one may pass. Whoever passes is to say how it ended; a trial of which nobody hears is over after as long as
    /// the breaker was open.
    pub fn passes(&mut self, now: Tick) -> bool {
        let Some(open) = &mut self.open else { return true };
        let tried = open.trial.is_some_and(|since| now < since.after(open.lasts));
        if now < open.until || tried {
            return false;
        }
        open.trial = Some(now);
        true
    }

    /// One that passed was answered.
    pub fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// One that passed was answered with what is the request's own fault, which says nothing of the primary: another is on trial.
    pub fn told_nothing(&mut self) {
        if let Some(open) = &mut self.open {
            open.trial = None;
        }
    }

    /// One that passed was not.
    pub fn failed(&mut self, now: Tick) {
        self.failures = self.failures.saturating_add(1);
        match &mut self.open {
            Some(open) => {
                let tried = open.trial.take();
                // Otherwise it passed before this opened.
                if tried.is_some() {
                    open.lasts = (open.lasts * 2).min(LONGEST);
                    open.until = now.after(open.lasts);
                }
            }
            None if self.failures >= FAILURES => {
                self.open = Some(Open { until: now.after(FIRST), lasts: FIRST, trial: None });
            }
            None => {}
        }
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_trial_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES - 1 {
            breaker.failed(at(0));
        }
        breaker.succeeded();
        for _ in 0..FAILURES {
            assert!(breaker.passes(at(1)));
            breaker.failed(at(1));
        }
        assert!(breaker.is_open() && !breaker.passes(at(1000)));
        assert!(breaker.passes(at(1001)), "one is let through");
        assert!(!breaker.passes(at(1001)), "and no second");
        breaker.failed(at(1002));
        assert!(!breaker.passes(at(2999)), "twice as long");
        assert!(breaker.passes(at(3002)));
        breaker.succeeded();
        assert!(!breaker.is_open() && breaker.passes(at(3003)));
    }

    #[test]
    fn a_trial_that_nobody_hears_of_does_not_close_it_for_ever() {
        let mut breaker = Breaker::default();
        (0..FAILURES).for_each(|_| breaker.failed(at(0)));
        assert!(breaker.passes(at(1000)));
        assert!(!breaker.passes(at(1999)));
        assert!(breaker.passes(at(2000)));
    }

    #[test]
    fn a_trial_that_says_nothing_makes_room_for_another() {
        let mut breaker = Breaker::default();
        (0..FAILURES).for_each(|_| breaker.failed(at(0)));
        assert!(breaker.passes(at(1000)));
        breaker.told_nothing();
        assert!(breaker.is_open() && breaker.passes(at(1001)));
        let mut closed = Breaker::default();
        closed.failed(at(0));
        closed.told_nothing();
        assert_eq!(closed.failures, 1, "it neither counts nor excuses");
    }

    proptest! {
        /// Whatever happens: within the longest time after the last event somebody is let through.
        #[test]
        fn it_never_stays_shut(events in proptest::collection::vec((0u64..5000, 0u8..4), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            for (wait, event) in events {
                now += wait;
                match event {
                    0 => drop(breaker.passes(at(now))),
                    1 => breaker.failed(at(now)),
                    2 => breaker.told_nothing(),
                    _ => breaker.succeeded(),
                }
            }
            let longest = LONGEST.as_millis() as u64;
            prop_assert!(breaker.passes(at(now + longest)));
        }
    }
}
