//! When a request that comes now will be answered: servers that take one at a time, a line before them, stalls.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// The servers and who waits for them. Times in nanoseconds since the start.
#[derive(Debug)]
pub struct Line {
    /// When each of the servers will be free; `None`: there is always another one.
    free_at: Option<BinaryHeap<Reverse<u64>>>,
    /// When the services of those who wait will begin.
    begins: BinaryHeap<Reverse<u64>>,
    limit: usize,
    /// Length and period.
    stall: Option<(u64, u64)>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Line {
    pub fn new(
        servers: Option<usize>,
        queue: Option<usize>,
        stall: Option<(Duration, Duration)>,
    ) -> Line {
        Line {
            free_at: servers.map(|servers| (0..servers.max(1)).map(|_| Reverse(0)).collect()),
            begins: BinaryHeap::new(),
            limit: queue.unwrap_or(usize::MAX),
            stall: stall.map(|(length, period)| (nanos(length), nanos(period).max(1))),
        }
    }

    /// A request comes at `now` whose service takes `service`: when it is answered; `None`: the line is full.
    pub fn come(&mut self, now: u64, service: Duration) -> Option<u64> {
        let service = nanos(service);
        let Some(free_at) = &mut self.free_at else {
            return Some(self.stalled(now.saturating_add(service)));
        };
        while self.begins.peek().is_some_and(|Reverse(begin)| *begin <= now) {
            self.begins.pop();
        }
        let first = free_at.peek().map_or(now, |Reverse(free)| *free);
        if first > now && self.begins.len() >= self.limit {
            return None;
        }
        let begin = first.max(now);
        let end = begin.saturating_add(service);
        free_at.pop();
        free_at.push(Reverse(end));
        if begin > now {
            self.begins.push(Reverse(begin));
        }
        Some(self.stalled(end))
    }

    /// What would be answered during a stall is answered at its end.
    fn stalled(&self, at: u64) -> u64 {
        match self.stall {
            // The first stall begins after one period.
            Some((length, period)) if at >= period && at % period < length => {
                (at / period).saturating_mul(period).saturating_add(length)
            }
            _ => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn without_a_number_of_servers_nobody_waits() {
        let mut line = Line::new(None, Some(0), None);
        assert_eq!((line.come(5, ms(1)), line.come(5, ms(1))), (Some(5 + MS), Some(5 + MS)));
    }

    #[test]
    fn who_comes_first_is_served_first_and_the_line_has_an_end() {
        let mut line = Line::new(Some(2), Some(1), None);
        let ends =
            [line.come(0, ms(10)), line.come(0, ms(4)), line.come(0, ms(1)), line.come(0, ms(1))];
        assert_eq!(ends, [Some(10 * MS), Some(4 * MS), Some(5 * MS), None]);
        // The one who waited is served: there is room again.
        assert_eq!(line.come(4 * MS, ms(1)), Some(6 * MS));
        assert_eq!(line.come(20 * MS, ms(1)), Some(21 * MS));
    }

    #[test]
    fn stalls_hold_answers_back() {
        let mut line = Line::new(None, None, Some((ms(200), ms(1000))));
        assert_eq!(line.come(0, ms(100)), Some(100 * MS));
        assert_eq!(line.come(1000 * MS, ms(0)), Some(1200 * MS));
        assert_eq!(line.come(1150 * MS, ms(100)), Some(1250 * MS));
        assert_eq!(line.come(1900 * MS, ms(150)), Some(2200 * MS));
    }
}
