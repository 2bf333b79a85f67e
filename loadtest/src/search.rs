//! Finds the highest rate that holds the objectives: which rate to try next, and when enough is known. No clock, no server: it is told
//! how each trial went.
//!
//! From a first rate it goes up by doubling while the objectives hold, down by halving while they break, then cuts the bracket in
//! half until it is as narrow as asked for. Trials of one rate are judged together; a rate of which too little is known is tried
//! again, up to `repeats` times, and then counts by the measured figures alone. Both ends of the last bracket are tried a second time
//! before the answer stands, so that one hiccup does not decide it. Where results contradict each other (a rate broke, a higher one
//! held), the lower rate counts: the answer errs to the safe side.

use serde::{Deserialize, Serialize};

use crate::slo::Outcome;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The first rate that is tried, a second.
    pub start: f64,
    /// No lower rate is tried.
    pub lowest: f64,
    /// No higher rate is tried.
    pub highest: f64,
    /// How wide the bracket may be at the end, of its upper end: 0.02 is 2%.
    pub precision: f64,
    /// Trials of one rate, at most.
    pub repeats: u32,
    /// Trials altogether, at most.
    pub trials: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { start: 100.0, lowest: 0.1, highest: 1e7, precision: 0.02, repeats: 3, trials: 60 }
    }
}

/// Trials of the last bracket's ends, at least.
const CONFIRMED: u32 = 2;

/// What is known of one rate, all its trials together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Requests a second that were due.
    pub rate: f64,
    /// By the intervals of what was measured.
    pub outcome: Outcome,
    /// By the measured figures alone: what counts when `outcome` stays open.
    pub leans_to_hold: bool,
    /// The generator could not keep its schedule: the outcome says nothing of the server.
    pub generator_late: bool,
    /// Good answers a second: a server in overload tells its capacity by it.
    pub throughput: f64,
}

/// A rate and what its trials say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    pub trial: Trial,
    /// How often it was tried.
    pub times: u32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Put this rate on the server, and record all trials of it together.
    Try(f64),
    Done(Found),
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The bracket is as narrow as asked for.
    Precise,
    /// The lowest rate breaks the objectives.
    NothingHolds,
    /// The highest rate holds them.
    EverythingHolds,
    /// The generator cannot send more than the rate that holds.
    Generator,
    /// As many trials as allowed were made.
    Trials,
    /// Somebody ended it.
    Interrupted,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The highest rate that held, a second; none where nothing did.
    pub rate: Option<f64>,
    /// The lowest rate that did not.
    pub broke: Option<f64>,
    pub end: End,
    /// Whether the intervals of what was measured, not only the figures, say so at both ends.
    pub confident: bool,
    /// Everything tried, by rate.
    pub tried: Vec<Tried>,
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Search {
    options: Options,
    /// By rate, ascending.
    tried: Vec<Tried>,
    trials: u32,
}

impl Search {
    pub fn new(options: Options) -> Search {
        Search { options, tried: Vec::new(), trials: 0 }
    }

    /// Tells it what all trials of `trial.rate` together say.
    pub fn record(&mut self, trial: Trial) {
        self.trials += 1;
        match self.tried.binary_search_by(|t| t.trial.rate.total_cmp(&trial.rate)) {
            Ok(at) => {
                self.tried[at].trial = trial;
                self.tried[at].times += 1;
            }
            Err(at) => self.tried.insert(at, Tried { trial, times: 1 }),
        }
    }

    /// Trials made so far.
    pub fn trials(&self) -> u32 {
        self.trials
    }

    /// The highest rate that holds and the lowest that does not, as far as they are known.
    pub fn between(&self) -> (Option<f64>, Option<f64>) {
        let (low, high) = self.bracket();
        (low.map(|tried| tried.trial.rate), high.map(|tried| tried.trial.rate))
    }

    /// About how many trials are still to come: cuts until the bracket is narrow enough, and its ends once more.
    pub fn left(&self) -> u32 {
        let cuts = |width: f64| (width / self.options.precision).log2().ceil().max(0.0) as u32;
        let more = |tried: &Tried| CONFIRMED.min(self.options.repeats).saturating_sub(tried.times);
        let left = match self.bracket() {
            (Some(low), Some(high)) => {
                match cuts((high.trial.rate - low.trial.rate) / high.trial.rate) {
                    0 => more(low) + more(high),
                    cuts => cuts + CONFIRMED,
                }
            }
            // A doubling or halving leaves a bracket of half its upper end.
            (None, None) => 2 + cuts(0.5) + CONFIRMED,
            _ => 1 + cuts(0.5) + CONFIRMED,
        };
        left.min(self.options.trials.saturating_sub(self.trials))
    }

    /// What is known, where it is ended early.
    pub fn interrupted(&self) -> Found {
        self.found(End::Interrupted)
    }

    /// What to do next.
    pub fn next(&self) -> Step {
        let (low, high) = self.bracket();
        if self.trials >= self.options.trials {
            return self.done(End::Trials);
        }
        if let Some(open) = self.tried.iter().find(|tried| self.is_open(tried)) {
            return Step::Try(open.trial.rate);
        }
        let Options { start, lowest, highest, .. } = self.options;
        match (low, high) {
            (None, None) => Step::Try(start.clamp(lowest, highest)),
            (Some(low), None) if low.trial.rate >= highest => {
                self.confirm(&[low], End::EverythingHolds)
            }
            (Some(low), None) => Step::Try((low.trial.rate * 2.0).min(highest)),
            (None, Some(high)) if high.trial.rate <= lowest => {
                self.confirm(&[high], End::NothingHolds)
            }
            (None, Some(high)) => Step::Try(below(high).max(lowest)),
            (Some(low), Some(high)) => self.narrow(low, high),
        }
    }

    fn narrow(&self, low: &Tried, high: &Tried) -> Step {
        let (bottom, top) = (low.trial.rate, high.trial.rate);
        if (top - bottom) / top > self.options.precision {
            return Step::Try(between(low, high));
        }
        let end = if high.trial.generator_late { End::Generator } else { End::Precise };
        self.confirm(&[low, high], end)
    }

    /// Done, once each of these was tried often enough.
    fn confirm(&self, ends: &[&Tried], end: End) -> Step {
        let enough = CONFIRMED.min(self.options.repeats);
        match ends.iter().find(|tried| tried.times < enough) {
            Some(tried) => Step::Try(tried.trial.rate),
            None => self.done(end),
        }
    }

    fn done(&self, end: End) -> Step {
        Step::Done(self.found(end))
    }

    fn found(&self, end: End) -> Found {
        let (low, high) = self.bracket();
        let sure = |tried: Option<&Tried>, outcome| {
            tried.is_none_or(|t| t.trial.outcome == outcome && !t.trial.generator_late)
        };
        Found {
            rate: low.map(|tried| tried.trial.rate),
            broke: high.map(|tried| tried.trial.rate),
            end,
            confident: sure(low, Outcome::Held) && sure(high, Outcome::Broken),
            tried: self.tried.clone(),
        }
    }

    /// Too little is known of it, and it may be tried again.
    fn is_open(&self, tried: &Tried) -> bool {
        let undecided = tried.trial.outcome == Outcome::TooLittle && !tried.trial.generator_late;
        // What broke below something that held is contradicted: another trial settles which.
        let contradicted = !holds(tried)
            && !tried.trial.generator_late
            && self.tried.iter().any(|t| t.trial.rate > tried.trial.rate && holds(t));
        (undecided || contradicted) && tried.times < self.options.repeats
    }

    /// The highest rate that holds with nothing broken below it, and the lowest that does not hold.
    fn bracket(&self) -> (Option<&Tried>, Option<&Tried>) {
        let first = self.tried.iter().position(|tried| !holds(tried)).unwrap_or(self.tried.len());
        (self.tried[..first].last(), self.tried.get(first))
    }
}

fn holds(tried: &Tried) -> bool {
    let trial = &tried.trial;
    !trial.generator_late
        && match trial.outcome {
            Outcome::Held => true,
            Outcome::Broken => false,
            Outcome::TooLittle => trial.leans_to_hold,
        }
}

/// Where to go down to from a rate that breaks: half of it, or to what the server managed, if that is less.
fn below(high: &Tried) -> f64 {
    let half = high.trial.rate / 2.0;
    let managed = high.trial.throughput * 0.9;
    if managed > high.trial.rate / 100.0 { half.min(managed) } else { half }
}

/// Where to cut a bracket: in the middle; in a wide one, near what the server managed in overload, since the answer is rarely far from it.
fn between(low: &Tried, high: &Tried) -> f64 {
    let (bottom, top) = (low.trial.rate, high.trial.rate);
    let managed = high.trial.throughput * 0.95;
    if top > bottom * 1.25 && managed > bottom * 0.5 && managed < top * 0.9 {
        managed.max(bottom * 1.1)
    } else {
        (bottom + top) / 2.0
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
