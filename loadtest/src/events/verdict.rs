//! The verdict on a run with events: those that have objectives of their own are judged by them, the phases by what is left. Pure.

use super::{
    Happened,
    window::{self, Tenths},
};
use crate::{
    judge,
    record::Measured,
    slo::{Slo, Verdict},
    summary::Frame,
    units::Span,
};

/// As `judge::judge`, with the windows of events that have an `slo` cut out and judged by that.
pub fn judge(slos: &[Slo], measured: &Measured, frame: &Frame, happened: &[Happened]) -> Verdict {
    let own: Vec<(&Happened, Slo, Tenths)> =
        happened.iter().filter_map(|h| Some((h, h.slo?, window::tenths(h, measured)?))).collect();
    if own.is_empty() {
        return judge::judge(slos, measured, frame);
    }
    let windows: Vec<&Tenths> = own.iter().map(|(.., tenths)| tenths).collect();
    let (outside, outer) = window::outside(measured, frame, &windows);
    // Wrong answers, and what there is to note, are the whole run's.
    let mut verdict = judge::judge(&[], measured, frame);
    verdict.findings = judge::judge(slos, &outside, &outer).findings;
    for (event, slo, tenths) in &own {
        let (inside, mut inner) = window::inside(measured, frame, tenths);
        for phase in &mut inner.phases {
            phase.name = format!("event '{}'", event.name);
            phase.within_ns = slo.within().map(|within| Span(within).nanos());
        }
        verdict.findings.extend(judge::judge(&[*slo], &inside, &inner).findings);
    }
    let worst = verdict.findings.iter().map(|finding| finding.outcome).max();
    verdict.outcome = verdict.outcome.max(worst.unwrap_or(verdict.outcome));
    verdict
}
