//! Searches, curves and comparisons from end to end, on servers in virtual time.

use super::*;
use crate::{
    arrivals::Schedule,
    compare::Comparison,
    mlperf::Scenario,
    search::End,
    simulated::{self, Server, mdc, mm1},
    slo::Outcome,
    units::Rate,
};

/// A server in virtual time as a load is put on it.
struct Virtual {
    server: Server,
    told: Vec<String>,
    /// Runs until somebody interrupts.
    left: u32,
}

impl Virtual {
    fn of(server: Server) -> Virtual {
        Virtual { server, told: Vec::new(), left: u32::MAX }
    }
}

impl Load for Virtual {
    fn run(&mut self, phases: &[Phase], seed: u64) -> Result<Measured, String> {
        let mut whole = Measured::default();
        self.left -= 1;
        for (at, phase) in phases.iter().enumerate() {
            let one = match phase.arrivals {
                Arrivals::Closed { callers, .. } => self.closed(callers, &phase.until, seed),
                _ => self.server.serve(Schedule::new(&phase.arrivals, &phase.until, seed), seed),
            };
            whole.took.push(one.took[0]);
            if !phase.warm_up {
                whole.stretches.extend(one.stretches.into_iter().map(|((_, t), c)| ((at, t), c)));
            }
        }
        whole.interrupted = self.left == 0;
        Ok(whole)
    }

    fn variants(&self) -> Vec<VariantFrame> {
        simulated::frame(1.0).variants
    }

    fn tell(&mut self, line: &str) {
        self.told.push(line.to_owned());
    }
}

impl Virtual {
    /// Callers that keep the server busy see its capacity.
    fn closed(&self, callers: usize, until: &Until, seed: u64) -> Measured {
        let simulated::Work::Fixed(length) = self.server.work else { panic!("a fixed length") };
        let busy = callers.min(self.server.servers) as f64;
        let arrivals = Arrivals::Constant { rate: busy / length * 1e9 };
        self.server.serve(Schedule::new(&arrivals, until, seed), seed)
    }
}

fn trial(seconds: u64) -> Trial {
    Trial {
        warm_up: Duration::from_secs(1),
        duration: Duration::from_secs(seconds),
        pattern: Pattern::Poisson(Rate(1.0)),
        seed: 1,
    }
}

fn slo(flag: &str) -> Slo {
    let mut slo = Slo::default();
    slo.add(flag).unwrap();
    slo
}

#[test]
fn a_search_begins_where_callers_leave_off() {
    let mut load = Virtual::of(mdc(8, 4e6));
    let start = calibrate(&mut load, 4, Duration::from_secs(2), 1).unwrap();
    assert!((950.0..1050.0).contains(&start), "{start}");
    let options = search::Options { start, ..search::Options::default() };
    let (tried, found) = search(&mut load, &trial(10), &slo("p99<100ms"), options).unwrap();
    assert_eq!(found.end, End::Precise);
    assert!((1940.0..2060.0).contains(&found.rate.unwrap()), "{found:?}");
    // A phase for each rate, those of repeated ones put together.
    assert_eq!(tried.phases.len(), found.tried.len());
    let frame = tried.frame(load.variants(), &slo("p99<100ms"));
    let summary = Summary::of(&tried.measured, &frame);
    for (phase, tried) in tried.phases.iter().zip(&summary.phases) {
        let Arrivals::Poisson { rate } = phase.arrivals else { panic!("{phase:?}") };
        assert!(
            (tried.all.offered / rate - 1.0).abs() < 0.15 || tried.all.offered < rate,
            "{}",
            phase.name
        );
    }
    assert!(load.told.iter().any(|line| line.starts_with("trial 1: ")), "{:?}", load.told);
}

#[test]
fn an_interrupted_search_keeps_what_it_has() {
    let mut load = Virtual { left: 4, ..Virtual::of(mdc(8, 4e6)) };
    let options = search::Options { start: 500.0, ..search::Options::default() };
    let (tried, found) = search(&mut load, &trial(10), &slo("p99<100ms"), options).unwrap();
    assert_eq!(found.end, End::Interrupted);
    assert_eq!(tried.phases.len(), 3, "the one that was cut short counts for nothing");
    assert_eq!(found.rate, Some(1000.0));
}

#[test]
fn a_knee_has_a_phase_for_each_point() {
    let mut load = Virtual::of(mdc(8, 4e6));
    let options = knee::Options { start: 500.0, highest: 1e6, rates: Vec::new() };
    let (tried, curve) = knee(&mut load, &trial(4), &slo("p99<20ms"), options).unwrap();
    assert_eq!(tried.phases.len(), curve.points.len());
    assert!((1900.0..2060.0).contains(&curve.capacity()), "{}", curve.capacity());
    for point in &curve.points {
        assert!((point.offered / point.rate - 1.0).abs() < 0.15, "{point:?}");
    }
}

#[test]
fn rounds_are_taken_in_turn_and_compared() {
    let (mut base, mut test) = (Virtual::of(mm1(1e6)), Virtual::of(mm1(1.2e6)));
    let until = Until { duration: Some(Duration::from_secs(3)), requests: None };
    let arrivals = Arrivals::Poisson { rate: 500.0 };
    let warm = Phase { name: "warm".into(), arrivals: arrivals.clone(), until, warm_up: true };
    let phases = [warm, Phase { name: "steady".into(), arrivals, until, warm_up: false }];
    let slos = [Slo::default(), slo("p99<20ms")];
    let rounds = against(&mut base, &mut test, &phases, &slos, (12, 1)).unwrap();
    assert_eq!((rounds.figures.len(), rounds.test.phases.len()), (12, 12));
    assert_eq!(rounds.test.phases[11].name, "steady, round 12");
    let comparison = Comparison::of_rounds("base", "test", &rounds.figures, 1);
    let p50 = comparison.ratios.iter().find(|r| r.metric == "p50").unwrap().ratio.unwrap();
    assert!(!p50.excludes(1.5) && p50.excludes(1.0), "{p50:?}");
    // The load was the same for both in each round.
    assert!(rounds.figures.iter().all(|(a, b)| a.due == b.due));
    let mut cut = Virtual { left: 3, ..Virtual::of(mm1(1e6)) };
    let cut = against(&mut cut, &mut test, &phases, &slos, (12, 1)).unwrap();
    assert_eq!(cut.figures.len(), 2);
}

#[test]
fn an_mlperf_style_run_goes_on_until_it_has_enough() {
    let mut load = Virtual::of(mdc(1, 4e6));
    let rules =
        mlperf::Rules { min_duration: Duration::from_secs(1), ..Scenario::MultiStream.rules() };
    let asked = mlperf::Asked { scenario: Scenario::MultiStream, rules, limit: None };
    let (tried, report) = mlperf(&mut load, &asked, (0.0, 1), 8, 1).unwrap();
    // 250 a second: the 662 queries take longer than the second.
    assert_eq!((report.queries, report.outcome), (662, Outcome::Held), "{report:?}");
    assert_eq!(tried.phases.len(), 1);
    assert!((3.9e6..4.1e6).contains(&report.value.unwrap()));
}

#[test]
fn a_server_without_good_answers_is_not_searched() {
    let mut load = Virtual::of(Server { room: 0, ..mdc(1, 4e6) });
    let error = calibrate(&mut load, 4, Duration::from_secs(1), 1).unwrap_err();
    assert!(error.starts_with("no request had a good answer"), "{error}");
}

#[test]
fn rates_have_names_of_their_own() {
    for (rate, name) in
        [(1234.5678, "1234.6/s"), (0.12345, "0.12345/s"), (98_765.4, "98765/s"), (2e6, "2000000/s")]
    {
        assert_eq!(rate_name(rate), name);
    }
}
