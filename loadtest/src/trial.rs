//! One trial of a search: what the findings on a rate come to.

use crate::{
    judge::Evidence,
    search::Trial,
    slo::{Finding, Outcome},
};

/// From this schedule error on (p99, nanoseconds), what a trial says of the server is in doubt.
pub const LATE_NS: u64 = 1_000_000;

/// What is known of `rate` from all its trials.
pub fn of(rate: f64, findings: &[Finding], evidence: &Evidence) -> Trial {
    let worst = findings.iter().map(|finding| finding.outcome).max();
    let outcome = match (evidence.wrong(), worst) {
        (0, Some(worst)) => worst,
        (0, None) => Outcome::TooLittle,
        _ => Outcome::Broken,
    };
    Trial {
        rate,
        outcome,
        leans_to_hold: !findings.is_empty() && findings.iter().all(leans_to_hold),
        generator_late: outcome != Outcome::Held && evidence.lag_p99() > LATE_NS,
        throughput: evidence.throughput(),
    }
}

/// Whether the measured figure itself keeps the limit.
fn leans_to_hold(finding: &Finding) -> bool {
    match (finding.outcome, finding.measured) {
        (Outcome::Held, _) => true,
        (Outcome::Broken, _) | (_, None) => false,
        (Outcome::TooLittle, Some(measured)) if finding.at_least => measured >= finding.limit,
        (Outcome::TooLittle, Some(measured)) => measured <= finding.limit,
    }
}
