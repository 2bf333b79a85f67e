//! Whether verdicts are right as often as they claim, on servers whose latency is known.

use super::*;
use crate::{
    record::Code,
    simulated::{self, Server, mm1},
};

fn slo(flags: &[&str]) -> Slo {
    let mut slo = Slo::default();
    for flag in flags {
        slo.add(flag).unwrap();
    }
    slo
}

fn verdict(server: &Server, flags: &[&str], rate: f64, seconds: f64, seed: u64) -> Verdict {
    judge(&[slo(flags)], &server.run(rate, seconds, seed), &simulated::frame(seconds))
}

/// How often each outcome comes, of `runs`: held, too little, broken.
fn outcomes(server: &Server, limit_ms: f64, rate: f64, runs: u64) -> [u64; 3] {
    let mut counts = [0; 3];
    for seed in 0..runs {
        let verdict = verdict(server, &[&format!("p99<{limit_ms}ms")], rate, 30.0, seed);
        counts[verdict.outcome as usize] += 1;
    }
    counts
}

/// One a millisecond; at 700 a second the p99 is ln(100) / 300 s.
const P99_MS: f64 = 15.351;

#[test]
fn at_the_limit_itself_a_verdict_is_rarely_wrong() {
    let [held, undecided, broken] = outcomes(&mm1(1e6), P99_MS, 700.0, 60);
    // Requests in a queue are slow together: without the design effect three of four were decided.
    assert!(held + broken <= 9, "{held} held, {undecided} undecided, {broken} broken");
}

#[test]
fn away_from_the_limit_it_is_decided_and_right() {
    let [held, _, broken] = outcomes(&mm1(1e6), P99_MS * 1.5, 700.0, 25);
    assert!(held >= 20 && broken == 0, "{held} held, {broken} broken");
    let [held, _, broken] = outcomes(&mm1(1e6), P99_MS / 1.5, 700.0, 25);
    assert!(broken >= 20 && held == 0, "{held} held, {broken} broken");
}

#[test]
fn the_interval_has_the_true_percentile_in_it() {
    let inside = (0..50).filter(|seed| {
        let verdict = verdict(&mm1(1e6), &["p99<1s"], 700.0, 30.0, *seed);
        let finding = &verdict.findings[0];
        let (low, high) = (finding.low.unwrap_or(0.0), finding.high.unwrap_or(f64::INFINITY));
        assert!(finding.measured.is_some_and(|m| low <= m && m <= high), "{finding:?}");
        (low..=high).contains(&(P99_MS * 1e6))
    });
    let inside = inside.count();
    assert!(inside >= 44, "in {inside} of 50");
}

#[test]
fn few_requests_say_nothing_of_high_percentiles() {
    let quick = mm1(1e3);
    // About 300 and about 500 requests, all of them far within.
    for (rate, expected) in [(300.0, Outcome::TooLittle), (500.0, Outcome::Held)] {
        let verdict = verdict(&quick, &["p99<1s"], rate, 1.0, 1);
        assert_eq!(verdict.outcome, expected, "{verdict:?}");
    }
    assert_eq!(verdict(&quick, &["p99.9<1s"], 500.0, 1.0, 1).outcome, Outcome::TooLittle);
    assert_eq!(verdict(&quick, &["p99.9<1s"], 500.0, 9.0, 1).outcome, Outcome::Held);
    let nothing = judge(&[slo(&["p50<1s"])], &Measured::default(), &simulated::frame(1.0));
    assert_eq!(nothing.outcome, Outcome::TooLittle);
    assert_eq!(nothing.exit_code(), 4);
}

/// Nothing is shed and nothing is slow, but `failures` of 10,000 end so.
fn failing(code: Code, failures: u64) -> Measured {
    let mut measured = mm1(1e3).run(1000.0, 10.0, 1);
    let failures = failures / 100;
    for cell in measured.stretches.values_mut().flat_map(|cells| cells.values_mut()) {
        *cell.codes.entry(code.clone()).or_default() += failures;
        cell.due += failures;
    }
    measured
}

fn outcome(measured: &Measured, flags: &[&str]) -> Outcome {
    judge(&[slo(flags)], measured, &simulated::frame(10.0)).outcome
}

#[test]
fn failures_count_as_slow_and_sheds_where_they_are_asked_for() {
    let timed_out = failing(Code::TimedOut, 300);
    assert_eq!(outcome(&timed_out, &["p99<1s"]), Outcome::Broken);
    assert_eq!(outcome(&timed_out, &["p95<1s"]), Outcome::Held);
    assert_eq!(outcome(&timed_out, &["error_rate<1%"]), Outcome::Broken);
    assert_eq!(outcome(&timed_out, &["error_rate<5%"]), Outcome::Held);
    assert_eq!(outcome(&timed_out, &["error_rate<3%"]), Outcome::TooLittle);
    assert_eq!(outcome(&timed_out, &["error_rate<0"]), Outcome::Broken);
    assert_eq!(outcome(&failing(Code::TimedOut, 0), &["error_rate<0"]), Outcome::Held);

    let shed = failing(Code::Http(429), 300);
    assert_eq!(outcome(&shed, &["p99<1s"]), Outcome::Broken);
    assert_eq!(outcome(&shed, &["error_rate<1%"]), Outcome::Broken);
    assert_eq!(outcome(&shed, &["p99<1s", "error_rate<1%", "shed_rate<5%"]), Outcome::Held);
    assert_eq!(outcome(&shed, &["shed_rate<1%"]), Outcome::Broken);
    // A percentile that lies among the failed has no value.
    let verdict = judge(&[slo(&["p99<1s"])], &timed_out, &simulated::frame(10.0));
    assert_eq!(verdict.findings[0].measured, None);
}

#[test]
fn rates_are_held_against_their_spread() {
    let measured = mm1(1e3).run(1000.0, 30.0, 4);
    assert_eq!(outcome(&measured, &["throughput>950"]), Outcome::Held);
    assert_eq!(outcome(&measured, &["throughput>1000"]), Outcome::TooLittle);
    assert_eq!(outcome(&measured, &["throughput>1050"]), Outcome::Broken);
    assert_eq!(outcome(&measured, &["goodput>950", "within=10ms"]), Outcome::Held);
    assert_eq!(outcome(&measured, &["goodput>99%", "within=10ms"]), Outcome::Held);
    assert_eq!(outcome(&measured, &["goodput>99%", "within=1us"]), Outcome::Broken);
}

#[test]
fn a_wrong_answer_breaks_any_run() {
    let wrong = failing(Code::Wrong, 100);
    let verdict = judge(&[Slo::default()], &wrong, &simulated::frame(10.0));
    assert_eq!((verdict.outcome, verdict.wrong, verdict.exit_code()), (Outcome::Broken, 100, 3));
    let good = judge(&[Slo::default()], &failing(Code::Wrong, 0), &simulated::frame(10.0));
    assert_eq!((good.outcome, good.exit_code()), (Outcome::Held, 0));
}

#[test]
fn a_late_generator_is_named_and_a_warm_up_is_not_judged() {
    let mut measured = mm1(1e6).run(1500.0, 10.0, 1);
    for cell in measured.stretches.values_mut().flat_map(|cells| cells.values_mut()) {
        cell.lag = [(2_000_000, cell.due)].into_iter().collect();
    }
    let mut frame = simulated::frame(10.0);
    let judged = judge(&[slo(&["p99<20ms"])], &measured, &frame);
    assert_eq!(judged.outcome, Outcome::Broken, "two milliseconds are not what broke it");
    for cell in measured.stretches.values_mut().flat_map(|cells| cells.values_mut()) {
        cell.lag = cell.latency.clone();
    }
    let late = judge(&[slo(&["p99<20ms"])], &measured, &frame);
    assert_eq!(late.outcome, Outcome::TooLittle, "all of it may be the generator's");
    assert!(judged.notes[0].starts_with("phase steady: the generator kept its schedule only to"));
    frame.phases[0].warm_up = true;
    let judged = judge(&[slo(&["p99<20ms"])], &measured, &frame);
    assert_eq!((judged.outcome, judged.findings.len(), judged.notes.len()), (Outcome::Held, 0, 0));
}

#[test]
fn runs_of_the_same_load_add_up() {
    let server = mm1(1e3);
    let one = |seed| Evidence::of(&server.run(300.0, 1.0, seed), 0);
    let mut evidence = one(1);
    let found = |evidence: &Evidence| findings("p", &slo(&["p99<1s"]), evidence)[0].outcome;
    assert_eq!(found(&evidence), Outcome::TooLittle);
    evidence.add(&one(2));
    assert_eq!(found(&evidence), Outcome::Held);
}
