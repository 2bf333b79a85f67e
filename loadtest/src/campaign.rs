//! Many runs for one answer: the search, the knee, two servers in turn, an MLPerf-style run. What is run next, others decide (`search`, `knee`,
//! `mlperf`); here it is run, and everything that was measured is kept, a phase for each rate or round.

use std::time::Duration;

use crate::{
    judge::{self, Evidence},
    knee::{self, Curve, Point},
    mlperf,
    pattern::Pattern,
    plan::{Arrivals, Phase, Until},
    record::Measured,
    search::{self, Found, Search},
    slo::Slo,
    summary::{Figures, Frame, PhaseFrame, Summary, VariantFrame},
    trial,
    units::Span,
};

/// Puts phases on a server. The generator, or a server in virtual time.
pub trait Load {
    /// Runs the phases one after the other.
    ///
    /// # Errors
    /// In words: the server cannot be reached.
    fn run(&mut self, phases: &[Phase], seed: u64) -> Result<Measured, String>;

    /// The names of what is asked for.
    fn variants(&self) -> Vec<VariantFrame>;

    /// Tells a person how it goes, in a line.
    fn tell(&mut self, line: &str);

    /// Says how far it is, to whoever has a bar for it.
    fn stage(&mut self, _: Stage) {}
}

/// How far a campaign is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// As in search.
    pub name: &'static str,
    /// Runs that were made, and about how many are still to come.
    pub done: u32,
    pub left: u32,
    /// How long one of them takes.
    pub each: Duration,
    /// What is tried now.
    pub what: String,
}

/// How one trial goes.
#[derive(Clone, Debug)]
pub struct Trial {
    /// At the trial's own rate, not counted: queues and clocks settle. Zero for none.
    pub warm_up: Duration,
    pub duration: Duration,
    /// What is asked at other rates.
    pub pattern: Pattern,
    pub seed: u64,
}

/// Everything that was tried, a phase for each rate or round.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    pub phases: Vec<Phase>,
    pub measured: Measured,
}

impl Tried {
    /// Adds a run of one phase: to the phase of this name, or as a new one. Gives the phase's place.
    fn add(&mut self, phase: Phase, run: &Measured, at: usize) -> usize {
        let place = self.phases.iter().position(|p| p.name == phase.name).unwrap_or_else(|| {
            self.phases.push(phase);
            self.phases.len() - 1
        });
        let move_to = |place: usize| {
            let stretches = run.stretches.range((at, 0)..(at + 1, 0));
            let mut took = vec![0; place];
            took.push(run.took.get(at).copied().unwrap_or(0));
            Measured {
                stretches: stretches.map(|((_, t), cells)| ((place, *t), cells.clone())).collect(),
                took,
                ..run.clone()
            }
        };
        self.measured.append(&move_to(place));
        place
    }

    /// The frame of all this.
    pub fn frame(&self, variants: Vec<VariantFrame>, slo: &Slo) -> Frame {
        let phase = |(at, phase): (usize, &Phase)| PhaseFrame {
            name: phase.name.clone(),
            warm_up: false,
            // A rate that was tried again has been planned for longer.
            planned_s: self.measured.took.get(at).map(|took| *took as f64 / 1e9),
            within_ns: slo.within().map(|within| Span(within).nanos()),
        };
        Frame { phases: self.phases.iter().enumerate().map(phase).collect(), variants }
    }
}

/// Another seed for each trial, from one.
fn seed(base: u64, trial: u32) -> u64 {
    base.wrapping_add(u64::from(trial).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Trial {
    fn stage(&self, name: &'static str, (done, left): (u32, u32), what: String) -> Stage {
        Stage { name, done, left, each: self.warm_up + self.duration, what }
    }

    /// Runs one trial at `rate`; what it measured is in the last phase.
    fn at(
        &self,
        load: &mut dyn Load,
        rate: f64,
        trial: u32,
    ) -> Result<(Phase, Measured, usize), String> {
        let pattern =
            self.pattern.at_rate(rate).ok_or("a search needs poisson or constant arrivals")?;
        let phase = |name: String, duration, warm_up| -> Result<Phase, String> {
            let until = Until { duration: Some(duration), requests: None };
            Ok(Phase { name, arrivals: pattern.resolve()?, until, warm_up })
        };
        let counted = phase(rate_name(rate), self.duration, false)?;
        let mut phases = vec![counted.clone()];
        if !self.warm_up.is_zero() {
            phases.insert(0, phase("warm-up".into(), self.warm_up, true)?);
        }
        let measured = load.run(&phases, seed(self.seed, trial))?;
        Ok((counted, measured, phases.len() - 1))
    }
}

/// Runs of a rate of a knee at which the generator is late: that its limit is there is believed when it happens twice in a row, for one
/// hiccup of the machine would end the curve.
const KNEE_TRIES: u32 = 2;

/// What the phase of a rate is called.
pub fn rate_name(rate: f64) -> String {
    // Four digits tell rates apart that a search of 0.1% precision tries.
    let digits = (4.0 - rate.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{rate:.digits$}/s")
}

/// Good answers a second that so many callers get out of the server who wait for each other's answers not: where to begin.
pub fn calibrate(
    load: &mut dyn Load,
    callers: usize,
    duration: Duration,
    seed: u64,
) -> Result<f64, String> {
    let arrivals = Arrivals::Closed { callers, think: Duration::ZERO };
    let until = Until { duration: Some(duration), requests: None };
    let phase = Phase { name: "calibration".into(), arrivals, until, warm_up: false };
    let measured = load.run(&[phase], seed)?;
    let throughput = Evidence::of(&measured, 0).throughput();
    if throughput <= 0.0 && !measured.interrupted {
        let example =
            measured.examples.first().map_or(String::new(), |e| format!("; the first answer: {e}"));
        return Err(format!("no request had a good answer{example}"));
    }
    load.tell(&format!("{callers} callers that wait for their answers get {throughput:.0}/s"));
    Ok(throughput)
}

/// Searches for the highest rate that holds the objectives.
pub fn search(
    load: &mut dyn Load,
    trial: &Trial,
    slo: &Slo,
    options: search::Options,
) -> Result<(Tried, Found), String> {
    let mut search = Search::new(options);
    let mut tried = Tried::default();
    loop {
        let rate = match search.next() {
            search::Step::Try(rate) => rate,
            search::Step::Done(found) => return Ok((tried, found)),
        };
        load.stage(trial.stage(
            "search",
            (search.trials(), search.left()),
            search_words(&search, rate),
        ));
        let (phase, measured, at) = trial.at(load, rate, search.trials())?;
        if measured.interrupted {
            return Ok((tried, search.interrupted()));
        }
        let place = tried.add(phase, &measured, at);
        let evidence = Evidence::of(&tried.measured, place);
        let findings = judge::findings(&rate_name(rate), slo, &evidence);
        let told = trial::of(rate, &findings, &evidence);
        load.tell(&trial_line(&told, &findings, search.trials() + 1));
        search.record(told);
    }
}

/// What is tried, and what is known by now.
fn search_words(search: &Search, rate: f64) -> String {
    let known = match search.between() {
        (None, None) => String::new(),
        (Some(held), None) => format!(", above {}", rate_name(held)),
        (None, Some(broke)) => format!(", below {}", rate_name(broke)),
        (Some(held), Some(broke)) => {
            format!(", between {} and {}", rate_name(held), rate_name(broke))
        }
    };
    format!("{}{known}", rate_name(rate))
}

fn trial_line(told: &search::Trial, findings: &[crate::slo::Finding], trial: u32) -> String {
    let worst = findings.iter().max_by_key(|finding| finding.outcome);
    let why = worst.map_or(String::new(), |finding| format!(" ({})", finding.words()));
    let late = if told.generator_late { "; the generator was late" } else { "" };
    format!("trial {trial}: {}: {}{why}{late}", rate_name(told.rate), told.outcome)
}

/// Measures the curve of latency and goodput against offered load.
pub fn knee(
    load: &mut dyn Load,
    trial: &Trial,
    slo: &Slo,
    options: knee::Options,
) -> Result<(Tried, Curve), String> {
    let mut curve = Curve::new(options);
    let mut tried = Tried::default();
    let mut runs = 0;
    while let knee::Step::Measure(rate) = curve.next() {
        let mut best: Option<(Point, Phase, Measured, usize)> = None;
        for _ in 0..KNEE_TRIES {
            let what =
                format!("{}{}", rate_name(rate), if best.is_some() { ", again" } else { "" });
            load.stage(trial.stage("knee", (curve.points.len() as u32, curve.left()), what));
            let (phase, measured, at) = trial.at(load, rate, runs)?;
            runs += 1;
            if measured.interrupted {
                return Ok((tried, curve));
            }
            let mut one = Tried::default();
            one.add(phase.clone(), &measured, at);
            let mut frame = one.frame(load.variants(), slo);
            frame.phases[0].planned_s = Some(trial.duration.as_secs_f64());
            let point = Point::of(rate, &Summary::of(&one.measured, &frame).total);
            load.tell(&point.words());
            let late = point.generator_late;
            if best.as_ref().is_none_or(|(best, ..)| point.lag_p99 < best.lag_p99) {
                best = Some((point, phase, measured, at));
            }
            if !late {
                break;
            }
        }
        let Some((point, phase, measured, at)) = best else { break };
        tried.add(phase, &measured, at);
        curve.record(point);
    }
    Ok((tried, curve))
}

/// What two servers measured in turn.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    pub base: Tried,
    pub test: Tried,
    /// Of each round: the base's figures, and those of the server that is compared.
    pub figures: Vec<(Figures, Figures)>,
}

/// Runs the same phases on two servers in turn; who goes first changes with each round.
pub fn against(
    base: &mut dyn Load,
    test: &mut dyn Load,
    phases: &[Phase],
    slos: &[Slo],
    (rounds, base_seed): (u32, u64),
) -> Result<Rounds, String> {
    let mut all = Rounds::default();
    let planned = |at: usize| PhaseFrame {
        name: phases[at].name.clone(),
        warm_up: phases[at].warm_up,
        planned_s: phases[at].until.duration.map(|d| d.as_secs_f64()),
        within_ns: slos.get(at).and_then(Slo::within).map(|within| Span(within).nanos()),
    };
    let frame = |variants| Frame { phases: (0..phases.len()).map(planned).collect(), variants };
    for round in 0..rounds {
        let seed = seed(base_seed, round);
        // Both see the same load: the same moments, the same requests.
        let (first, second): (&mut dyn Load, &mut dyn Load) =
            if round % 2 == 0 { (&mut *base, &mut *test) } else { (&mut *test, &mut *base) };
        let each = phases.iter().filter_map(|phase| phase.until.duration).sum::<Duration>() * 2;
        let stage = |load: &dyn Load| {
            let name = load.variants().first().map_or(String::new(), |v| v.name.clone());
            let (done, left) = (round, rounds - round);
            Stage { name: "comparison", done, left, each, what: name }
        };
        let (of_first, of_second) = (stage(&*first), stage(&*second));
        first.stage(of_first);
        let one = first.run(phases, seed)?;
        second.stage(of_second);
        if one.interrupted {
            break;
        }
        let two = second.run(phases, seed)?;
        if two.interrupted {
            break;
        }
        let (of_base, of_test) = if round % 2 == 0 { (one, two) } else { (two, one) };
        let figures =
            |load: &dyn Load, measured| Summary::of(measured, &frame(load.variants())).total;
        let pair = (figures(base, &of_base), figures(test, &of_test));
        test.tell(&round_line(round + 1, rounds, &pair));
        all.figures.push(pair);
        for (at, phase) in phases.iter().enumerate().filter(|(_, phase)| !phase.warm_up) {
            let name = format!("{}, round {}", phase.name, round + 1);
            all.base.add(Phase { name: name.clone(), ..phase.clone() }, &of_base, at);
            all.test.add(Phase { name, ..phase.clone() }, &of_test, at);
        }
    }
    Ok(all)
}

fn round_line(round: u32, rounds: u32, (base, test): &(Figures, Figures)) -> String {
    let part = |figures: &Figures| {
        let p99 = Span(Duration::from_nanos(figures.latency.p99));
        format!("{:.0}/s, p99 {}", figures.throughput, crate::units::short(p99))
    };
    format!("round {round} of {rounds}: {} against {}", part(test), part(base))
}

/// An MLPerf-style run: on and on until duration and number are reached.
pub fn mlperf(
    load: &mut dyn Load,
    asked: &mlperf::Asked,
    (rate, callers): (f64, usize),
    samples_per_request: u64,
    base_seed: u64,
) -> Result<(Tried, mlperf::Report), String> {
    let mut tried = Tried::default();
    let mut slice = 0;
    while let Some(until) = asked.missing(&tried.measured, samples_per_request) {
        let phase = asked.scenario.phase(rate, callers, until);
        let measured = load.run(std::slice::from_ref(&phase), seed(base_seed, slice))?;
        let stuck = measured.stretches.is_empty();
        tried.add(phase, &measured, 0);
        slice += 1;
        if measured.interrupted || stuck {
            break;
        }
    }
    let report = asked.report(&tried.measured, samples_per_request);
    Ok((tried, report))
}

#[cfg(test)]
#[path = "campaign_tests.rs"]
mod tests;
