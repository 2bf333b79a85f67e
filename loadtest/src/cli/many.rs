//! The many-run forms of `run`: `--search`, `--knee` and `--against`.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{
    Failure,
    draft::Draft,
    output,
    run::{Args, now, part},
    session::{SEED, Session},
};
use crate::{
    campaign::{self, Load, Tried},
    compare::{Comparison, Limit},
    knee,
    pattern::Pattern,
    plan::Shard,
    report::json::Report,
    scenario::Scenario,
    search,
    slo::Slo,
    units::{Rate, Share, Span},
    watch::Seen,
};

/// Many runs for one answer.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Search, knee and comparison")]
pub struct ManyFlags {
    /// Find the highest rate that holds the objectives
    #[arg(long, conflicts_with_all = ["knee", "against"])]
    pub search: bool,
    /// Measure latency and goodput against offered load, to beyond saturation
    #[arg(long, conflicts_with = "against")]
    pub knee: bool,
    /// Another server to compare with: both are measured in turn, round by round
    #[arg(long, value_name = "URL")]
    pub against: Option<String>,
    /// How long each trial of a search or knee takes [default: 10s, 5s for a knee]
    #[arg(long, value_name = "SPAN")]
    pub trial: Option<Span>,
    /// How close the search comes, as a share of the rate [default: 2%]
    #[arg(long, value_name = "SHARE", requires = "search")]
    pub precision: Option<Share>,
    /// Trials of one rate at most [default: 3]
    #[arg(long, value_name = "N", requires = "search")]
    pub repeats: Option<u32>,
    /// No lower rate is tried
    #[arg(long, value_name = "RATE", requires = "search")]
    pub min_rate: Option<Rate>,
    /// No higher rate is tried
    #[arg(long, value_name = "RATE")]
    pub max_rate: Option<Rate>,
    /// The rates of a knee [default: shares of the capacity, which is looked for]
    #[arg(long, value_name = "RATE,…", value_delimiter = ',', requires = "knee")]
    pub rates: Vec<Rate>,
    /// Rounds of a comparison [default: 10]
    #[arg(long, value_name = "N", requires = "against", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: Option<u32>,
    /// A limit on a ratio to the other server, as in p99<1.05 or throughput>0.95; may be repeated
    #[arg(long, value_name = "LIMIT", requires = "against")]
    pub ratio: Vec<Limit>,
}

/// Callers that find out where a search or a knee begins.
const CALLERS: usize = 8;
const CALIBRATION: Duration = Duration::from_secs(2);

impl ManyFlags {
    pub fn asked(&self) -> bool {
        self.search || self.knee || self.against.is_some()
    }
}

pub fn run(
    args: &Args,
    scenario: &Scenario,
    url: &str,
    stop: Arc<AtomicBool>,
) -> Result<ExitCode, Failure> {
    if args.shard.shard.is_some() || args.shard.start_every.is_some() {
        return Err(Failure::usage(
            "--shard and --start-every share out one load; a search, a knee or a comparison is many".into(),
        ));
    }
    if !scenario.events.is_empty() {
        return Err(Failure::usage(
            "events belong to one load; a search, a knee or a comparison is many".into(),
        ));
    }
    let open = |url: &str| Session::open(scenario, url, Shard::WHOLE, stop.clone(), args.out.quiet);
    let begun = now();
    let mut report = match &args.many.against {
        Some(base) => {
            let resolved = resolved(scenario)?;
            let (mut test, mut base) = (open(url)?, open(base)?);
            against(args, scenario, &mut test, &mut base, resolved)?
        }
        None => {
            let slo = objectives(scenario)?;
            if args.many.search && slo.is_empty() {
                return Err(Failure::usage(
                    "--search: expected an objective, as in --slo 'p99<20ms'".into(),
                ));
            }
            let trial = trial(args, scenario)?;
            let mut session = open(url)?;
            if args.many.search {
                search(args, scenario, &mut session, (&trial, slo))?
            } else {
                knee(args, scenario, &mut session, (&trial, slo))?
            }
        }
    };
    report.parts = vec![part(Shard::WHOLE, begun, Seen::default())];
    args.out.write(&report)?;
    Ok(output::code(output::outcome(&report)))
}

fn resolved(scenario: &Scenario) -> Result<crate::scenario::Resolved, Failure> {
    if scenario.phases.is_empty() {
        return Err(Failure::usage(
            "no load to put on them; expected --rate, --arrivals or a scenario with phases".into(),
        ));
    }
    Ok(scenario.resolve()?)
}

/// The objectives of a search: the scenario's, or those of its last phase.
fn objectives(scenario: &Scenario) -> Result<Slo, Failure> {
    let last = scenario.phases.iter().rev().find(|phase| !phase.warm_up);
    let slo = last.map_or(scenario.slo, |phase| phase.slo.over(&scenario.slo));
    slo.check().map_err(|e| Failure::failed(format!("slo: {e}")))?;
    Ok(slo)
}

/// How each trial goes: the way of arriving is that of the last phase, or Poisson.
fn trial(args: &Args, scenario: &Scenario) -> Result<campaign::Trial, Failure> {
    let last = scenario.phases.iter().rev().find(|phase| !phase.warm_up);
    let pattern = last.map_or(Pattern::Poisson(Rate(1.0)), |phase| phase.arrivals.clone());
    if pattern.at_rate(1.0).is_none() {
        return Err(Failure::usage(
            "a search or a knee tries many rates; expected poisson or constant arrivals".into(),
        ));
    }
    let default = Span(Duration::from_secs(if args.many.search { 10 } else { 5 }));
    let duration = args.many.trial.or(args.load.duration).unwrap_or(default);
    if duration.0.is_zero() {
        return Err(Failure::usage("--trial: expected more than 0".into()));
    }
    Ok(campaign::Trial {
        warm_up: args.load.warm_up.map_or(Duration::from_secs(1), |span| span.0),
        duration: duration.0,
        pattern,
        seed: scenario.seed.unwrap_or(SEED),
    })
}

/// Where to begin: at the rate that is stated, or at half of what some callers get who wait for their answers.
fn start(args: &Args, session: &mut Session, seed: u64) -> Result<Option<f64>, Failure> {
    if let Some(Rate(rate)) = args.load.rate {
        return Ok(Some(rate));
    }
    let callers = CALLERS.min(session.callers());
    let throughput = campaign::calibrate(session, callers, CALIBRATION, seed)?;
    Ok((throughput > 0.0).then_some(throughput / 2.0))
}

fn search(
    args: &Args,
    scenario: &Scenario,
    session: &mut Session,
    (trial, slo): (&campaign::Trial, Slo),
) -> Result<Report, Failure> {
    let base = search::Options::default();
    let many = &args.many;
    let precision = many.precision.map_or(base.precision, |share| share.0);
    if !(0.001..=0.5).contains(&precision) {
        return Err(Failure::usage(format!(
            "--precision: expected 0.1% to 50%, got {}",
            Share(precision)
        )));
    }
    let start = start(args, session, trial.seed)?;
    let options = search::Options {
        start: start.unwrap_or(base.start),
        lowest: many.min_rate.map_or(base.lowest, |rate| rate.0),
        highest: many.max_rate.map_or(base.highest, |rate| rate.0),
        precision,
        repeats: many.repeats.unwrap_or(base.repeats).max(1),
        ..base
    };
    if options.lowest > options.highest {
        return Err(Failure::usage("--min-rate: expected no more than --max-rate".into()));
    }
    let (tried, found) = campaign::search(session, trial, &slo, options)?;
    // The verdict is on the rate that holds; what broke was meant to.
    let held = found.rate.map(campaign::rate_name);
    let of_phase = |name: &String| if Some(name) == held.as_ref() { slo } else { Slo::default() };
    let slos = tried.phases.iter().map(|phase| of_phase(&phase.name)).collect();
    let mut report = self::report(session, scenario, &tried, (&slo, slos));
    report.search = Some(found);
    Ok(report)
}

fn report(
    session: &Session,
    scenario: &Scenario,
    tried: &Tried,
    (slo, slos): (&Slo, Vec<Slo>),
) -> Report {
    let frame = tried.frame(session.variants(), slo);
    Draft::of(session, scenario).with_phases(&tried.phases).report(&tried.measured, frame, slos)
}

fn knee(
    args: &Args,
    scenario: &Scenario,
    session: &mut Session,
    (trial, slo): (&campaign::Trial, Slo),
) -> Result<Report, Failure> {
    let rates: Vec<f64> = args.many.rates.iter().map(|rate| rate.0).collect();
    let start = if rates.is_empty() { start(args, session, trial.seed)? } else { None };
    let options = knee::Options {
        start: start.unwrap_or(search::Options::default().start),
        highest: args.many.max_rate.map_or(search::Options::default().highest, |rate| rate.0),
        rates,
    };
    let (tried, curve) = campaign::knee(session, trial, &slo, options)?;
    let mut report = self::report(session, scenario, &tried, (&slo, Vec::new()));
    report.knee = Some(curve);
    Ok(report)
}

/// Rounds where nothing is said.
const ROUNDS: u32 = 10;

fn against(
    args: &Args,
    scenario: &Scenario,
    test: &mut Session,
    base: &mut Session,
    resolved: crate::scenario::Resolved,
) -> Result<Report, Failure> {
    let seed = scenario.seed.unwrap_or(SEED);
    let rounds = args.many.rounds.unwrap_or(ROUNDS);
    let rounds = campaign::against(base, test, &resolved.phases, &resolved.slos, (rounds, seed))?;
    let comparison = Comparison::of_rounds(&base.url, &test.url, &rounds.figures, seed);
    let slo = resolved.slos.iter().find(|slo| !slo.is_empty()).copied().unwrap_or_default();
    let mut report = self::report(test, scenario, &rounds.test, (&slo, Vec::new()));
    report.plan.against = Some(base.url.clone());
    report.comparison = Some(comparison.judge(&args.many.ratio));
    Ok(report)
}
