//! Scenarios that are read, and the many that are refused, each with a reason that names the place.

use super::*;
use crate::plan::Arrivals;

const WHOLE: &str = "\
name: checkout
target:
  url: grpc://127.0.0.1:8001
  connections: 4
  timeout: 2s
  headers: {authorization: Bearer x}
seed: 7
mix:
  - model: wine
    version: 2
    weight: 3
  - model: iris
    rows: 16
    deadline: 50ms
slo:
  p99: 20ms
  error_rate: 0.1%
phases:
  - {name: warm, warm_up: true, duration: 2s, arrivals: {constant: 50}}
  - {name: steady, duration: 30s, arrivals: {poisson: 1.5k}}
  - name: peak
    arrivals: {steps: {rates: [1000, 2000], hold: 5s}}
    slo: {p99: 50ms, shed_rate: 5%}
events:
  - {at: 10s, phase: steady, run: 'touch swapped'}
";

#[test]
fn a_whole_scenario() {
    let scenario = Scenario::parse("s.yaml", WHOLE).unwrap();
    let resolved = scenario.resolve().unwrap();
    assert_eq!(scenario.mix[0].version.as_deref(), Some("2"));
    let names: Vec<_> = resolved.phases.iter().map(|p| (&*p.name, p.warm_up)).collect();
    assert_eq!(names, [("warm", true), ("steady", false), ("peak", false)]);
    assert_eq!(resolved.phases[1].arrivals, Arrivals::Poisson { rate: 1500.0 });
    // Steps take as long as they are.
    assert_eq!(resolved.phases[2].until.duration, Some(Duration::from_secs(10)));
    let words = |at: usize| -> Vec<String> {
        resolved.slos[at].objectives().iter().map(ToString::to_string).collect()
    };
    assert!(words(0).is_empty());
    assert_eq!(words(1), ["p99 < 20ms", "error_rate <= 0.1%"]);
    assert_eq!(words(2), ["p99 < 50ms", "error_rate <= 0.1%", "shed_rate <= 5%"]);
    assert_eq!(resolved.events.len(), 1);
}

fn refused(from: &str, to: &str) -> String {
    assert!(WHOLE.contains(from), "{from}");
    let text = WHOLE.replacen(from, to, 1);
    match Scenario::parse("s.yaml", &text) {
        Ok(scenario) => scenario.resolve().unwrap_err(),
        Err(error) => error,
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line() {
    for (from, to, error) in [
        ("seed: 7", "sed: 7", "s.yaml, line 7: unknown key 'sed'"),
        ("timeout: 2s", "time_out: 2s", "s.yaml, line 5: unknown key 'time_out'"),
        ("timeout: 2s", "timeout: 2", "s.yaml, line 5: '2' is no duration"),
        ("p99: 20ms", "p98: 20ms", "s.yaml, line 16: unknown key 'p98'"),
        ("error_rate: 0.1%", "error_rate: lots", "s.yaml, line 17: 'lots' is no share"),
        ("rows: 16", "rows: -1", "s.yaml, line 13: expected a whole number"),
        (
            "{poisson: 1.5k}",
            "{posson: 1}",
            "s.yaml, line 20: 'posson' is none of poisson, constant",
        ),
        ("{poisson: 1.5k}", "{poisson: fast}", "s.yaml, line 20: 'fast' is no rate"),
        ("hold: 5s", "hold: 5s, held: 1", "s.yaml, line 22: unknown key 'held'"),
        ("seed: 7", "seed: 7\nformat: 9", "s.yaml: format 9 is not known here, expected 1"),
        ("- model: wine", "- rows: 1", "s.yaml, line 11: missing field `model`"),
    ] {
        let refused = refused(from, to);
        assert!(refused.starts_with(error), "{refused}\n{error}");
        assert!(!refused.contains('\n'), "{refused}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_with_its_phase() {
    for (from, to, error) in [
        ("name: steady", "name: warm", "phase 'warm' is there twice"),
        ("duration: 30s, ", "", "phase 'steady': expected duration or requests"),
        ("duration: 30s", "duration: 0s", "phase 'steady': it has no time"),
        ("rates: [1000, 2000]", "rates: [0]", "phase 'peak': steps: expected rates"),
        ("warm_up: true, ", "warm_up: true, slo: {p50: 1s}, ", "phase 'warm': a warm-up has no"),
        ("shed_rate: 5%", "goodput: 5%", ""),
        ("weight: 3", "weight: -3", "mix: wine: weight: expected 0 or more, got -3"),
        ("rows: 16", "rows: 0", "mix: iris: rows and distinct: expected at least 1"),
        ("phase: steady", "phase: stead", "event 'event 1': no phase 'stead'"),
    ] {
        if error.is_empty() {
            // Goodput has its latency from the percentile beside it.
            Scenario::parse("s", &WHOLE.replacen(from, to, 1)).unwrap().resolve().unwrap();
            continue;
        }
        let refused = refused(from, to);
        assert!(refused.starts_with(error), "{refused}\n{error}");
    }
    let without = |key: &str| {
        let mut scenario = Scenario::parse("s", WHOLE).unwrap();
        match key {
            "mix" => scenario.mix.clear(),
            "weights" => scenario.mix.iter_mut().for_each(|entry| entry.weight = 0.0),
            "phases" => scenario.phases.clear(),
            _ => scenario.phases.truncate(1),
        }
        scenario.events.clear();
        scenario.resolve().unwrap_err()
    };
    assert!(without("mix").starts_with("no model to ask; expected --model NAME"));
    assert!(without("weights").starts_with("mix: every weight is 0"));
    assert!(without("phases").starts_with("phases: expected at least one"));
    assert!(without("steady").contains("that is no warm-up"));
}

#[test]
fn files_count_from_the_scenario() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    let text = "mix: [{model: m, input: rows.jsonl, golden: /abs/golden.jsonl}]\n\
                target: {tls: {authority: ca.pem}}\n\
                phases: [{arrivals: {trace: moments.txt}}]\n";
    fs::write(&path, text).unwrap();
    fs::write(dir.path().join("moments.txt"), "1\n2\n").unwrap();
    let scenario = Scenario::read(&path).unwrap();
    assert_eq!(scenario.mix[0].input, Some(dir.path().join("rows.jsonl")));
    assert_eq!(scenario.mix[0].golden, Some("/abs/golden.jsonl".into()));
    assert_eq!(scenario.target.tls.authority, Some(dir.path().join("ca.pem")));
    let arrivals = &scenario.resolve().unwrap().phases[0].arrivals;
    assert!(matches!(arrivals, Arrivals::Trace { at } if at.len() == 2));
    let missing = Scenario::read(&dir.path().join("none.yaml")).unwrap_err();
    assert!(missing.contains("none.yaml: cannot be read"), "{missing}");
}

#[test]
fn a_log_is_found_from_the_scenario_and_belongs_to_every_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    let read = |mix: &str| {
        let text = format!("mix: [{mix}]\nphases: [{{arrivals: {{recorded: 10}}}}]\n");
        fs::write(&path, text).unwrap();
        Scenario::read(&path).unwrap()
    };
    let logged = "{model: m, log: {paths: [predictions, /abs/part.parquet], until: 2026-01-31}}";
    let scenario = read(logged);
    let paths = &scenario.mix[0].log.as_ref().unwrap().paths;
    assert_eq!(paths[..], [dir.path().join("predictions"), "/abs/part.parquet".into()]);
    let phase = &scenario.resolve().unwrap().phases[0];
    assert_eq!(phase.until, Until { duration: None, requests: None });
    for (mix, why) in [
        ("{model: m}", "mix: m: arrivals are those of a log; expected `log` here as well"),
        ("{model: m, log: {paths: []}}", "mix: m: log: paths: expected"),
        ("{model: m, input: a.npy, log: {paths: [a]}}", "mix: m: log: the requests are the log's"),
    ] {
        let error = read(&format!("{logged}, {mix}")).resolve().unwrap_err();
        assert!(error.starts_with(why), "{error}");
    }
}

#[test]
fn sizes_are_kept_in_bounds() {
    let sizes = Sizes { connections: 4, streams: 8, threads: 2 };
    sizes.check().unwrap();
    for (wrong, name) in [
        (Sizes { connections: 0, ..sizes }, "connections"),
        (Sizes { streams: 0, ..sizes }, "streams"),
        (Sizes { threads: 5, ..sizes }, "threads"),
        (Sizes { connections: 1_000_000, ..sizes }, "connections"),
    ] {
        assert!(wrong.check().unwrap_err().starts_with(name));
    }
}
