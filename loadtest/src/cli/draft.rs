//! A report as far as the plan alone says it; the command adds what was found.

use super::session::{SEED, Session};
use crate::{
    judge,
    pattern::Pattern,
    plan::{Arrivals, Phase},
    prepare::log::Replayed,
    record::Measured,
    report::json::{PhasePlan, Plan, Report, SCHEMA},
    scenario::Scenario,
    slo::Slo,
    summary::{Frame, Summary},
    units::{Rate, Span},
};

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Draft {
    name: Option<String>,
    pub plan: Plan,
    replayed: Vec<Replayed>,
}

impl Draft {
    /// Of a session, with the phases of its scenario.
    pub fn of(session: &Session, scenario: &Scenario) -> Draft {
        let (sizes, timeout) = session.sizes();
        let phase = |(at, spec): (usize, &crate::scenario::PhaseSpec)| PhasePlan {
            name: spec.name.clone().unwrap_or_else(|| format!("phase {}", at + 1)),
            arrivals: spec.arrivals.clone(),
            duration: spec.duration,
            requests: spec.requests,
            warm_up: spec.warm_up,
        };
        let plan = Plan {
            url: session.url.clone(),
            against: None,
            protocol: session.protocol(),
            mix: scenario.mix.clone(),
            phases: scenario.phases.iter().enumerate().map(phase).collect(),
            seed: scenario.seed.unwrap_or(SEED),
            connections: sizes.connections,
            streams: sizes.streams,
            threads: sizes.threads,
            timeout: Span(timeout),
        };
        Draft { name: scenario.name.clone(), plan, replayed: session.replayed.clone() }
    }

    /// With these phases in place of the scenario's.
    pub fn with_phases(mut self, phases: &[Phase]) -> Draft {
        self.plan.phases = phases.iter().map(planned).collect();
        self
    }

    /// The report of what was measured, with its summary and verdict; without the generators that took part.
    pub fn report(self, measured: &Measured, frame: Frame, slos: Vec<Slo>) -> Report {
        let mut report = Report {
            schema_version: SCHEMA,
            name: self.name,
            digest: self.plan.digest(),
            plan: self.plan,
            replayed: self.replayed,
            parts: Vec::new(),
            summary: Summary::of(measured, &frame),
            verdict: judge::judge(&slos, measured, &frame),
            frame,
            slos,
            stretches: Vec::new(),
            took_ns: Vec::new(),
            began_ns: Vec::new(),
            interrupted: false,
            examples: Vec::new(),
            search: None,
            knee: None,
            comparison: None,
            mlperf: None,
        };
        report.set_measured(measured);
        report
    }
}

fn planned(phase: &Phase) -> PhasePlan {
    let arrivals = match &phase.arrivals {
        Arrivals::Constant { rate } => Pattern::Constant(Rate(*rate)),
        Arrivals::Closed { callers, think } => {
            Pattern::Closed { callers: *callers, think: Span(*think) }
        }
        Arrivals::Poisson { rate } => Pattern::Poisson(Rate(*rate)),
        // The others are no part of a search or a comparison's trials.
        Arrivals::Bursts { size, every } => Pattern::Bursts { size: *size, every: Span(*every) },
        Arrivals::Ramp { from, to, poisson } => {
            Pattern::Ramp { from: *from, to: *to, spacing: spacing(*poisson) }
        }
        Arrivals::Steps { rates, hold, poisson } => {
            Pattern::Steps { rates: rates.clone(), hold: Span(*hold), spacing: spacing(*poisson) }
        }
        Arrivals::Recorded { speed, .. } => Pattern::Recorded(*speed),
        Arrivals::Trace { .. } => Pattern::Trace("(recorded)".into()),
    };
    PhasePlan {
        name: phase.name.clone(),
        arrivals,
        duration: phase.until.duration.map(Span),
        requests: phase.until.requests,
        warm_up: phase.warm_up,
    }
}

fn spacing(poisson: bool) -> crate::pattern::Spacing {
    if poisson { crate::pattern::Spacing::Poisson } else { crate::pattern::Spacing::Constant }
}
