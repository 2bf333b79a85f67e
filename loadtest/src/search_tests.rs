//! Searches on servers in virtual time whose answer is known.

use proptest::prelude::*;

use super::*;
use crate::{
    judge::{self, Evidence},
    simulated::{Server, mdc, mm1},
    slo::Slo,
    trial,
};

/// Runs a search to its end; each trial lasts so long (seconds of virtual time).
fn search(server: &Server, objective: &str, seconds: f64, options: Options, seed: u64) -> Found {
    let mut slo = Slo::default();
    slo.add(objective).unwrap();
    let mut search = Search::new(options);
    let mut seen: Vec<(f64, Evidence)> = Vec::new();
    loop {
        let rate = match search.next() {
            Step::Try(rate) => rate,
            Step::Done(found) => return found,
        };
        let seed = seed * 1000 + u64::from(search.trials());
        let evidence = Evidence::of(&server.run(rate, seconds, seed), 0);
        let at = match seen.iter().position(|(r, _)| *r == rate) {
            Some(at) => {
                seen[at].1.add(&evidence);
                at
            }
            None => {
                seen.push((rate, evidence));
                seen.len() - 1
            }
        };
        let evidence = &seen[at].1;
        search.record(trial::of(rate, &judge::findings("p", &slo, evidence), evidence));
    }
}

/// The answer, as a share of the truth.
fn found(server: &Server, objective: &str, truth: f64, seconds: f64, seed: u64) -> f64 {
    let found = search(server, objective, seconds, Options::default(), seed);
    assert_eq!(found.end, End::Precise, "{found:?}");
    let (held, broke) = (found.rate.unwrap(), found.broke.unwrap());
    assert!((broke - held) / broke <= 0.02, "{found:?}");
    (held + broke) / 2.0 / truth
}

#[test]
fn one_server_with_exponential_service() {
    // 1,000 a second; the p99 is 50 ms where 1,000 less the rate is ln(100) / 0.05 s.
    for seed in 0..4 {
        let found = found(&mm1(1e6), "p99<50ms", 1000.0 - 92.1, 30.0, seed);
        assert!((0.97..1.03).contains(&found), "seed {seed}: {found}");
    }
}

#[test]
fn servers_with_fixed_service() {
    // Eight that take 4 ms each: 2,000 a second. With 100 ms allowed the knee is where the queue begins to grow.
    for seed in 0..4 {
        let found = found(&mdc(8, 4e6), "p99<100ms", 2000.0, 10.0, seed);
        assert!((0.97..1.03).contains(&found), "seed {seed}: {found}");
    }
}

#[test]
fn sheds_are_a_knee_too() {
    // What one server with room for eight cannot take in time it refuses: M/M/1/8 sheds 1% at 0.64 of its rate.
    let server = Server { room: 8, ..mm1(1e6) };
    let found = found(&server, "shed_rate<1%", 639.0, 30.0, 1);
    assert!((0.95..1.05).contains(&found), "{found}");
}

#[test]
fn a_stall_now_and_then_does_not_decide() {
    // 30 ms of standstill every 7 s: some trials of 5 s have one and some have none; 0.4% of the time, so p99 holds all the same.
    let server = Server { stall_every: 7.0, stall: 0.03, ..mdc(8, 4e6) };
    for seed in 0..3 {
        let found = found(&server, "p99<25ms", 2000.0, 5.0, seed);
        assert!((0.94..1.03).contains(&found), "seed {seed}: {found}");
    }
}

#[test]
fn the_ends_of_the_range_are_answers() {
    let options = Options { lowest: 50.0, highest: 400.0, ..Options::default() };
    let all = search(&mm1(1e6), "p99<50ms", 20.0, options, 1);
    assert_eq!((all.end, all.rate, all.broke), (End::EverythingHolds, Some(400.0), None));
    let none = search(&mm1(1e6), "p99<1us", 20.0, options, 1);
    assert_eq!((none.end, none.rate, none.broke), (End::NothingHolds, None, Some(50.0)));
    assert!(all.confident && none.confident);
    let start = Options { start: 1e6, ..options };
    assert_eq!(search(&mm1(1e6), "p99<50ms", 20.0, start, 1).rate, Some(400.0));
}

/// A trial whose outcome is as told.
fn told(rate: f64, outcome: Outcome) -> Trial {
    Trial { rate, outcome, leans_to_hold: false, generator_late: false, throughput: 0.0 }
}

#[test]
fn a_generator_at_its_limit_is_not_called_the_server() {
    let mut search = Search::new(Options::default());
    let found = loop {
        match search.next() {
            Step::Try(rate) if rate > 1500.0 => {
                search.record(Trial { generator_late: true, ..told(rate, Outcome::Broken) });
            }
            Step::Try(rate) => search.record(told(rate, Outcome::Held)),
            Step::Done(found) => break found,
        }
    };
    assert_eq!(found.end, End::Generator);
    assert!(!found.confident);
    assert!(found.rate.is_some_and(|rate| (1470.0..=1500.0).contains(&rate)), "{found:?}");
}

#[test]
fn trials_are_bounded_and_an_end_can_come_early() {
    let mut search = Search::new(Options { trials: 5, ..Options::default() });
    for _ in 0..5 {
        assert_eq!(search.interrupted().end, End::Interrupted);
        let Step::Try(rate) = search.next() else { panic!("not done yet") };
        search.record(told(rate, Outcome::Held));
    }
    assert!(matches!(search.next(), Step::Done(Found { end: End::Trials, .. })));
}

#[test]
fn what_contradicts_itself_is_tried_again() {
    let mut search = Search::new(Options::default());
    search.record(told(100.0, Outcome::Held));
    search.record(told(200.0, Outcome::Broken));
    search.record(told(400.0, Outcome::Held));
    // Broken below something that held: once more, and once more.
    assert_eq!(search.next(), Step::Try(200.0));
    search.record(told(200.0, Outcome::Held));
    assert_eq!(search.next(), Step::Try(800.0));
}

proptest! {
    /// Whatever the outcomes are, a search ends, keeps to its range and its repeats, and its answer is what it saw.
    #[test]
    fn every_search_ends(start in 0.01f64..1e8, answers in proptest::collection::vec((0u8..3, any::<bool>(), 0.0f64..1e7), 80)) {
        let options = Options { start, ..Options::default() };
        let mut search = Search::new(options);
        for (outcome, leans_to_hold, throughput) in answers {
            let rate = match search.next() {
                Step::Try(rate) => rate,
                Step::Done(found) => {
                    prop_assert!(found.tried.iter().all(|t| t.times <= options.repeats));
                    if let (Some(rate), Some(broke)) = (found.rate, found.broke) {
                        prop_assert!(rate < broke);
                    }
                    return Ok(());
                }
            };
            prop_assert!((options.lowest..=options.highest).contains(&rate));
            let outcome = [Outcome::Held, Outcome::TooLittle, Outcome::Broken][usize::from(outcome)];
            search.record(Trial { rate, outcome, leans_to_hold, generator_late: false, throughput });
        }
        prop_assert!(false, "80 trials, and not done");
    }

    /// A server that holds below a threshold and breaks above it is found to the precision, wherever it is.
    #[test]
    fn a_sharp_knee_is_found(knee in 1f64..1e6, start in 1f64..1e6, precision in 0.005f64..0.1, overload: bool) {
        let mut search = Search::new(Options { start, precision, ..Options::default() });
        let found = loop {
            match search.next() {
                Step::Try(rate) => {
                    let outcome = if rate <= knee { Outcome::Held } else { Outcome::Broken };
                    let throughput = if overload { rate.min(knee) } else { 0.0 };
                    search.record(Trial { throughput, ..told(rate, outcome) });
                }
                Step::Done(found) => break found,
            }
        };
        prop_assert_eq!(found.end, End::Precise);
        prop_assert!(found.confident);
        let rate = found.rate.unwrap();
        prop_assert!(rate <= knee && rate >= knee * (1.0 - precision), "{rate} for {knee}");
    }
}
