//! How a run goes, told on standard error while it does: a line a second.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use crate::{
    plan::Phase,
    record::{Code, Times},
    run::Progress,
    units::{self, Span},
};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Tells how a run goes.
#[derive(Debug)]
pub struct Teller {
    quiet: bool,
    told: Option<Instant>,
    /// Since the last line.
    latency: Times,
    lag: Times,
    span: Duration,
    phase: usize,
}

impl Teller {
    pub fn new(quiet: bool) -> Teller {
        Teller {
            quiet,
            told: None,
            latency: Times::default(),
            lag: Times::default(),
            span: Duration::ZERO,
            phase: 0,
        }
    }

    /// One line. A reader that has gone is no failure.
    pub fn line(&mut self, line: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// To be called with every progress; tells about once a second.
    pub fn progress(&mut self, phases: &[Phase], progress: &Progress) {
        if self.quiet {
            return;
        }
        if self.phase != progress.phase {
            (self.phase, self.told) = (progress.phase, None);
        }
        self.latency.merge(&progress.latency);
        self.lag.merge(&progress.lag);
        self.span += progress.span;
        if self.told.is_some_and(|told| told.elapsed() < EVERY) || self.span < EVERY {
            return;
        }
        self.told = Some(Instant::now());
        let name = phases.get(progress.phase).map_or("", |phase| &phase.name);
        let line = line(name, progress, (&self.latency, &self.lag, self.span));
        (self.latency, self.lag, self.span) = (Times::default(), Times::default(), Duration::ZERO);
        self.line(&line);
    }
}

fn line(
    name: &str,
    progress: &Progress,
    (latency, lag, span): (&Times, &Times, Duration),
) -> String {
    let time = |nanos| units::short(Span(Duration::from_nanos(nanos)));
    let failed: u64 = progress
        .ended
        .iter()
        .filter(|(code, _)| **code != Code::Ok && !code.shed())
        .map(|(_, count)| count)
        .sum();
    let shed: u64 = progress.ended.iter().filter(|(code, _)| code.shed()).map(|(_, n)| n).sum();
    let rate = latency.count() as f64 / span.as_secs_f64();
    let mut line = format!(
        "{name} {:.0}s: {rate:.0}/s answered, p50 {}, p99 {}, {} in flight",
        progress.elapsed.as_secs_f64(),
        time(latency.quantile(0.5)),
        time(latency.quantile(0.99)),
        progress.in_flight,
    );
    if progress.waiting > 0 {
        line += &format!(", {} waiting for a connection", progress.waiting);
    }
    for (count, what) in [(failed, "failed"), (shed, "shed")] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    if lag.quantile(0.99) > crate::trial::LATE_NS {
        line += &format!(", generator late by {} (p99)", time(lag.quantile(0.99)));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_line_says_what_matters() {
        let progress = Progress {
            elapsed: Duration::from_millis(3020),
            ended: BTreeMap::from([(Code::Ok, 90), (Code::Http(429), 3), (Code::TimedOut, 1)]),
            in_flight: 7,
            waiting: 2,
            ..Progress::default()
        };
        let latency: Times = [(1_000_000, 98), (9_000_000, 2)].into_iter().collect();
        let lag: Times = [(5000, 100)].into_iter().collect();
        let told = line("steady", &progress, (&latency, &lag, Duration::from_secs(1)));
        assert_eq!(
            told,
            "steady 3s: 100/s answered, p50 1.00ms, p99 9.00ms, 7 in flight, 2 waiting for a connection, 1 failed, 3 shed"
        );
        let late: Times = [(5_000_000, 100)].into_iter().collect();
        let told = line("steady", &progress, (&latency, &late, Duration::from_secs(1)));
        assert!(told.ends_with("generator late by 5.00ms (p99)"), "{told}");
    }
}
