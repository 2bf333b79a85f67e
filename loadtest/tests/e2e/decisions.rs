//! What the command line decides, on the echo server whose answer is known: exit codes, the search, two servers in turn, shards that
//! merge, a run that is interrupted.

use std::{fs, path::Path, process::Stdio, time::Duration};

use onnxd_loadtest::{
    echo::{self, latency::Distribution},
    report::json::Report,
    search::End,
    slo::Outcome,
};
use rustix::process::Signal;

use crate::support::process::{Ended, Running, loadtest, run_to_end};

fn serve(latency_ms: u64, servers: Option<usize>) -> echo::Handle {
    let latency = Distribution::Constant(Duration::from_millis(latency_ms));
    echo::serve(echo::Options { latency, servers, ..echo::Options::default() }).expect("it starts")
}

fn run(server: &echo::Handle, args: &[&str]) -> Ended {
    let url = format!("grpc://{}", server.address);
    run_to_end(loadtest().args(["run", "--quiet", "--url", &url, "--model", "any"]).args(args))
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn the_exit_code_is_the_verdict() {
    let server = serve(2, None);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let golden = path(&folder, "golden.jsonl");
    let url = format!("grpc://{}", server.address);
    let mut record = loadtest();
    record.args(["golden", "--url", &url, "--model", "any", "--out", &golden]);
    assert_eq!(run_to_end(&mut record).code, Some(0));
    let wrong = path(&folder, "wrong.jsonl");
    // Numbers that have one digit more.
    let text = fs::read_to_string(&golden).expect("it was recorded");
    fs::write(&wrong, text.replace("\"data\":[", "\"data\":[7")).expect("a file");
    let load = ["--rate", "400", "--duration", "2s", "--warm-up", "0s"];
    for (more, code) in [
        (&["--slo", "p50<1s,error_rate<5%"][..], 0),
        (&["--slo", "p50<1us"], 3),
        (&["--slo", "p99.9<1s"], 4),
        (&["--golden", &golden], 0),
        (&["--golden", &wrong], 3),
        (&["--golden", &path(&folder, "none.jsonl")], 1),
        (&["--shape", "y=3"], 1),
        (&["--slo", "p99>1s"], 2),
        (&["--json", &path(&folder, "no/such/place.json")], 1),
    ] {
        let ended = run(&server, &[&load, more].concat());
        assert_eq!(ended.code, Some(code), "{more:?}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(matches!(code, 1 | 2), !ended.stderr.is_empty(), "{more:?}: {}", ended.stderr);
    }
    drop(server);
    let gone = run_to_end(loadtest().args(["--url", &url, "--model", "any", "--rate", "5"]));
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains(url.trim_start_matches("grpc://")), "{}", gone.stderr);
}

#[test]
fn a_known_knee_is_found() {
    // Four that take 10 ms each: 400 a second. Evenly spaced, what is above it piles up and what is below does not wait.
    let server = serve(10, Some(4));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let json = path(&folder, "search.json");
    let args = "--search --rate 250 --arrivals constant --trial 4s --slo p99<50ms --json";
    let args: Vec<&str> = args.split(' ').chain([json.as_str()]).collect();
    let ended = run(&server, &args);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let report = Report::read(Path::new(&json)).expect("a report");
    let found = report.search.expect("it searched");
    assert_eq!(found.end, End::Precise, "{found:?}");
    let (held, broke) = (found.rate.expect("some hold"), found.broke.expect("some do not"));
    for rate in [held, broke] {
        assert!((rate / 400.0 - 1.0).abs() <= 0.03, "{found:?}");
    }
    assert!(ended.stdout.contains("the highest rate that holds: "), "{}", ended.stdout);
}

#[test]
fn the_slower_of_two_is_told_from_the_other() {
    let (base, test) = (serve(4, None), serve(6, None));
    let other = format!("grpc://{}", base.address);
    let args = "--rate 200 --duration 1s --warm-up 0s --rounds 4 --output json --ratio p50<1.2";
    let args: Vec<&str> = args.split(' ').chain(["--against", other.as_str()]).collect();
    let ended = run(&test, &args);
    assert_eq!(ended.code, Some(3), "{}{}", ended.stdout, ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let comparison = &report["comparison"];
    assert_eq!((&comparison["base"], &comparison["rounds"]), (&other.into(), &4.into()));
    let ratios = comparison["ratios"].as_array().expect("ratios");
    let p50 = ratios.iter().find(|ratio| ratio["metric"] == "p50").expect("it is compared");
    let ratio = p50["ratio"]["value"].as_f64().expect("a number");
    assert!((1.2..1.8).contains(&ratio), "{p50}");
}

#[test]
fn shards_are_the_whole_load() {
    let server = serve(1, None);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let measured = |name: &str, more: &[&str]| {
        let json = path(&folder, name);
        let load = ["--rate", "500", "--duration", "2s", "--slo", "p99<1s", "--json", &json];
        let ended = run(&server, &[&load, more].concat());
        assert!(ended.code.is_some_and(|code| code == 0 || code == 4), "{}", ended.stderr);
        json
    };
    let whole = Report::read(Path::new(&measured("whole.json", &[]))).expect("a report");
    let shards: Vec<String> =
        (0..2).map(|n| measured(&format!("{n}.json"), &["--shard", &format!("{n}/2")])).collect();
    let all = path(&folder, "all.json");
    let merge =
        |parts: &[&String]| run_to_end(loadtest().arg("merge").args(parts).args(["--out", &all]));
    let ended = merge(&[&shards[1], &shards[0]]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let merged = Report::read(Path::new(&all)).expect("a report");
    assert_eq!(merged.summary.total.due, whole.summary.total.due);
    assert_eq!((merged.parts.len(), merged.digest), (2, whole.digest));
    let twice = merge(&[&shards[0], &shards[0]]);
    assert_eq!(twice.code, Some(1));
    assert!(twice.stderr.contains("no two parts of one load"), "{}", twice.stderr);
}

#[test]
fn an_interrupted_run_reports_what_it_measured() {
    let server = serve(1, None);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let json = path(&folder, "cut.json");
    let url = format!("grpc://{}", server.address);
    let load = ["--rate", "300", "--duration", "10m", "--slo", "p50<1s", "--json", &json];
    let mut command = loadtest();
    command.args(["--url", &url, "--model", "any"]).args(load).stdout(Stdio::null());
    let mut running = Running::start(&mut command);
    running.line("load 2s");
    running.signal(Signal::INT);
    assert_eq!(running.end().code(), Some(0), "{}", running.said());
    let report = Report::read(Path::new(&json)).expect("a report");
    assert!(report.interrupted && report.verdict.interrupted);
    assert_eq!(report.verdict.outcome, Outcome::Held);
    let total = &report.summary.total;
    assert!(total.good > 300 && (200.0..400.0).contains(&total.offered), "{total:?}");
}
