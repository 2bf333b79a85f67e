//! How a run goes, told on standard error while it does: a view at a terminal, a line a second elsewhere.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use super::live::{Live, Look};
use crate::{
    campaign::Stage,
    plan::Phase,
    record::{Code, Times},
    run::Progress,
    units::{self, Span},
};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Tells how a run goes.
#[derive(Debug)]
pub enum Teller {
    Quiet,
    /// Into a file, a pipe, a log.
    Lines(Lines),
    /// At a terminal.
    Live(Box<Live>),
}

/// What the next line is made of.
#[derive(Debug, Default)]
pub struct Lines {
    told: Option<Instant>,
    /// Since the last line.
    latency: Times,
    lag: Times,
    span: Duration,
    phase: usize,
}

impl Teller {
    pub fn new(quiet: bool) -> Teller {
        match Look::here() {
            _ if quiet => Teller::Quiet,
            Some(_) => Teller::Live(Box::default()),
            None => Teller::Lines(Lines::default()),
        }
    }

    /// One line that stays. A reader that has gone is no failure.
    pub fn line(&mut self, line: &str) {
        let mut out = io::stderr().lock();
        match self {
            Teller::Quiet => return,
            Teller::Lines(_) => {}
            Teller::Live(live) => live.clear(&mut out),
        }
        let _ = writeln!(out, "{line}");
    }

    /// Another run begins.
    pub fn begin(&mut self) {
        if let Teller::Live(live) = self {
            live.begin();
        }
    }

    /// How far a campaign of many runs is, as far as there is a bar to show it.
    pub fn stage(&mut self, stage: Stage) {
        if let Teller::Live(live) = self {
            live.stage(stage);
        }
    }

    /// To be called with every progress.
    pub fn progress(&mut self, phases: &[Phase], progress: &Progress) {
        match self {
            Teller::Quiet => {}
            Teller::Lines(lines) => {
                if let Some(line) = lines.progress(phases, progress) {
                    self.line(&line);
                }
            }
            Teller::Live(live) => {
                live.take(progress);
                // Asked each time: people make their windows larger and smaller.
                if let Some(look) = Look::here() {
                    let lines = live.lines(phases.get(progress.phase), progress, look);
                    live.draw(&lines, &mut io::stderr().lock());
                }
            }
        }
    }

    /// The run is over: what comes next stands where the view was.
    pub fn end(&mut self) {
        if let Teller::Live(live) = self {
            live.clear(&mut io::stderr().lock());
        }
    }
}

impl Lines {
    /// A line, about once a second.
    fn progress(&mut self, phases: &[Phase], progress: &Progress) -> Option<String> {
        if self.phase != progress.phase {
            (self.phase, self.told) = (progress.phase, None);
        }
        self.latency.merge(&progress.latency);
        self.lag.merge(&progress.lag);
        self.span += progress.span;
        if self.told.is_some_and(|told| told.elapsed() < EVERY) || self.span < EVERY {
            return None;
        }
        self.told = Some(Instant::now());
        let name = phases.get(progress.phase).map_or("", |phase| &phase.name);
        let line = line(name, progress, (&self.latency, &self.lag, self.span));
        (self.latency, self.lag, self.span) = (Times::default(), Times::default(), Duration::ZERO);
        Some(line)
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
