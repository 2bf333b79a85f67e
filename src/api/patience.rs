//! How long a peer may take: a pure judgement over what its connection has done lately.

use std::time::Duration;

use crate::{telemetry::registry::Cut, types::time::Tick};

/// What a peer may take its time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a request's head, and for the first one to come at all.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For `TAKEN` bytes of the answers that wait for it, or all of them.
    pub write: Duration,
}

/// Bytes of answers that a peer must take within the write limit: a kilobyte a second, by the default. Why not any byte:
/// a peer that takes one at a time holds its answers for ever.
pub const TAKEN: u64 = 64 << 10;

/// What a connection has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes read from the socket, and written to it.
    pub received: u64,
    pub written: u64,
    /// Requests whose head has come.
    pub begun: u64,
    /// Requests that are not answered yet.
    pub open: u64,
    /// Bytes of answers wait for the peer.
    pub owed: bool,
    /// Its idle connections may speak (pings), and a head is no matter of bytes alone.
    pub http2: bool,
}

/// One connection's judge; it is shown the connection every `period`.
#[derive(Debug)]
pub struct Patience {
    limits: Limits,
    /// When something was last asked for or being answered, and what had come by then.
    asked: Tick,
    received: u64,
    begun: u64,
    /// When bytes of an unfinished head were first seen.
    head: Option<Tick>,
    /// Since when less than `TAKEN` was taken of what is owed, and what had been written by then.
    waiting: Option<(Tick, u64)>,
}

impl Limits {
    /// How often to look: a peer gets at most a quarter more than its limit.
    pub fn period(&self) -> Duration {
        let shortest = self.head.min(self.idle).min(self.write);
        (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(5))
    }
}

impl Patience {
    pub fn new(limits: Limits, now: Tick) -> Patience {
        Patience { limits, asked: now, received: 0, begun: 0, head: None, waiting: None }
    }

    /// Whether the connection is to be ended, and why.
    pub fn look(&mut self, seen: Seen, now: Tick) -> Option<Cut> {
        if self.reads_too_slowly(seen, now) {
            return Some(Cut::SlowRead);
        }
        if seen.open > 0 || seen.owed || seen.begun != self.begun {
            (self.asked, self.received, self.begun) = (now, seen.received, seen.begun);
            self.head = None;
            return None;
        }
        if !seen.http2 && (seen.begun == 0 || seen.received != self.received) {
            // The first head counts from the start, later ones from their first bytes.
            let first = if seen.begun == 0 { self.asked } else { now };
            let since = *self.head.get_or_insert(first);
            return (now.since(since) >= self.limits.head).then_some(Cut::SlowHead);
        }
        (now.since(self.asked) >= self.limits.idle).then_some(Cut::Idle)
    }

    fn reads_too_slowly(&mut self, seen: Seen, now: Tick) -> bool {
        match self.waiting {
            _ if !seen.owed => self.waiting = None,
            Some((since, written)) if seen.written - written < TAKEN => {
                return now.since(since) >= self.limits.write;
            }
            _ => self.waiting = Some((now, seen.written)),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(100),
        write: Duration::from_secs(20),
    };

    /// The second at which the connection is ended, and why; `seen` says what it looks like at each second.
    fn ended(seen: impl Fn(u64) -> Seen) -> Option<(u64, Cut)> {
        let at = |second: u64| Tick(0).after(Duration::from_secs(second));
        let mut patience = Patience::new(LIMITS, at(0));
        (0..1000).find_map(|second| Some((second, patience.look(seen(second), at(second))?)))
    }

    #[test]
    fn a_head_has_its_time_from_the_start_or_from_its_first_byte() {
        assert_eq!(ended(|_| Seen::default()), Some((10, Cut::SlowHead)));
        // A byte a second, no head.
        let drip = |received| Seen { received, ..Seen::default() };
        assert_eq!(ended(drip), Some((10, Cut::SlowHead)));
        // A request, then nothing until the 50th second, then a byte a second.
        let second =
            |at: u64| Seen { begun: 1, received: 100 + at.max(50) - 50, ..Seen::default() };
        assert_eq!(ended(second), Some((61, Cut::SlowHead)));
    }

    #[test]
    fn between_requests_is_idle() {
        let one = Seen { begun: 1, received: 100, ..Seen::default() };
        assert_eq!(ended(|_| one), Some((100, Cut::Idle)));
        // Pings are no requests, and no heads.
        let pings = |received| Seen { http2: true, received, ..Seen::default() };
        assert_eq!(ended(pings), Some((100, Cut::Idle)));
        assert_eq!(
            ended(|at| Seen { begun: at / 99, received: at / 99, ..Seen::default() }),
            Some((10, Cut::SlowHead))
        );
        assert_eq!(
            ended(|at| Seen { begun: at / 9 + 1, received: at / 9, ..Seen::default() }),
            None
        );
        // A long run is no idleness.
        assert_eq!(ended(|_| Seen { open: 1, ..one }), None);
    }

    #[test]
    fn answers_must_be_taken_at_some_pace() {
        let taking = |rate: u64| {
            ended(move |at| Seen { open: 1, owed: true, written: at * rate, ..Seen::default() })
        };
        assert_eq!(taking(0), Some((20, Cut::SlowRead)));
        assert_eq!(taking(1000), Some((20, Cut::SlowRead)));
        assert_eq!(taking(TAKEN / 19 + 1), None);
        // What is taken in time starts anew.
        assert_eq!(ended(|at| Seen { open: 1, owed: at % 20 > 0, ..Seen::default() }), None);
    }

    #[test]
    fn looks_are_often_enough() {
        assert_eq!(LIMITS.period(), Duration::from_millis(2500));
        let day = Duration::from_secs(86_400);
        assert_eq!(Limits { head: day, idle: day, write: day }.period(), Duration::from_secs(5));
    }

    proptest! {
        /// Whoever asks at least once in each head limit, and takes what it is owed, is never ended.
        #[test]
        fn honest_peers_stay(gaps in proptest::collection::vec((1..9u64, 0..5u64, any::<bool>()), 1..100)) {
            let mut patience = Patience::new(LIMITS, Tick(0));
            let (mut now, mut seen) = (Tick(0), Seen::default());
            for (wait, requests, open) in gaps {
                now = now.after(Duration::from_secs(wait));
                seen.begun += requests + 1;
                seen.received += 100 * (requests + 1);
                seen.open = u64::from(open);
                prop_assert_eq!(patience.look(seen, now), None);
            }
        }

        /// A peer that does nothing more is ended, whatever it did before.
        #[test]
        fn nobody_stays_for_ever(received in 0..5u64, begun in 0..5u64, owed in any::<bool>(), http2 in any::<bool>()) {
            let seen = Seen { received, begun, owed, http2, ..Seen::default() };
            let end = ended(|_| seen);
            prop_assert!(end.is_some_and(|(second, _)| second <= 100), "{:?}", end);
        }
    }
}
