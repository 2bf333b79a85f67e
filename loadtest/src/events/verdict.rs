//! The verdict on a run with events: those that have objectives of their own are judged by them, the phases by what is left. Pure.

use super::{
    Happened,
    window::{self, Tenths, Windows},
};
use crate::{
    judge,
    record::Measured,
    slo::{Finding, Outcome, Slo, Verdict},
    summary::Frame,
    units::Span,
};

/// A window with objectives of its own.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    event: &'a str,
    slo: Slo,
    tenths: &'a Tenths,
}

/// Those of the windows whose events have objectives.
pub fn own<'a>(happened: &'a [Happened], windows: Option<&'a Windows>) -> Vec<Own<'a>> {
    let windows = windows.map_or(&[][..], |windows| &windows.events);
    let one = |event: &'a Happened| {
        let window = windows.iter().find(|window| window.event == event.name)?;
        Some(Own { event: &event.name, slo: event.slo?, tenths: &window.tenths })
    };
    happened.iter().filter_map(one).collect()
}

/// As `judge::judge`, with the windows that have objectives of their own cut out and judged by those.
pub fn judge(slos: &[Slo], measured: &Measured, frame: &Frame, own: &[Own]) -> Verdict {
    if own.is_empty() {
        return judge::judge(slos, measured, frame);
    }
    let windows: Vec<&Tenths> = own.iter().map(|own| own.tenths).collect();
    let (outside, outer) = window::outside(measured, frame, &windows);
    // Wrong answers, and what there is to note, are the whole run's.
    let mut verdict = judge::judge(&[], measured, frame);
    verdict.findings = judge::judge(slos, &outside, &outer).findings;
    for Own { event, slo, tenths } in own {
        let (inside, mut inner) = window::inside(measured, frame, tenths);
        for phase in &mut inner.phases {
            phase.name = format!("event '{event}'");
            phase.within_ns = slo.within().map(|within| Span(within).nanos());
        }
        let findings = judge::judge(&[*slo], &inside, &inner).findings;
        verdict.findings.extend(findings.into_iter().map(as_it_was));
    }
    let worst = verdict.findings.iter().map(|finding| finding.outcome).max();
    verdict.outcome = verdict.outcome.max(worst.unwrap_or(verdict.outcome));
    verdict
}

/// A window is one event, and all of it was seen: what it showed is held against the limit as it is. Its requests hang together far
/// too much (all those of one pause are slow) for an interval to say anything about the next event.
fn as_it_was(finding: Finding) -> Finding {
    let outcome = match finding.measured {
        _ if finding.requests == 0 => Outcome::TooLittle,
        // The percentile lies among those that failed.
        None => Outcome::Broken,
        Some(measured) if finding.at_least && measured >= finding.limit => Outcome::Held,
        Some(measured) if !finding.at_least && measured <= finding.limit => Outcome::Held,
        Some(_) => Outcome::Broken,
    };
    Finding { outcome, low: None, high: None, ..finding }
}
