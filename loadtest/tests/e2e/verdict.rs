//! Objectives that hold, that break, and that too little was measured to say of: exit code, report, text.

use std::fs;

use onnxd_loadtest::{plan::Protocol, record::Code, slo::Outcome};

use crate::support::run::{Home, echo, echo_with};

#[test]
fn objectives_that_hold_are_0_in_every_protocol() {
    let server = echo("constant:2ms");
    for (url, flags, protocol) in [
        ("grpc", "", Protocol::Grpc),
        ("http", "", Protocol::Json),
        ("http", "--protocol binary", Protocol::Binary),
    ] {
        let home = Home::new();
        let html = home.file("report.html");
        let words = format!(
            "run --url {url}://{} {flags} --model m --rate 200 --duration 2s --slo p50<5s,error_rate<50%",
            server.address
        );
        let (report, ended) = home.report(0, &words, &["--html", html.to_str().unwrap()]);
        assert_eq!(report.plan.protocol, protocol);
        assert_eq!(report.verdict.outcome, Outcome::Held);
        assert_eq!(report.verdict.findings.len(), 2);
        assert!(ended.stdout.contains("\nverdict: held\n"), "{}", ended.stdout);
        let total = &report.summary.total;
        // Poisson: 400 on average, with a spread of 20.
        assert!((250..550).contains(&total.due), "{}", total.due);
        assert_eq!(total.good, total.due);
        // A bucket of the histogram begins up to 0.1% below what is in it.
        assert!(total.latency.min >= 1_990_000, "nothing is faster than the server");
        assert_eq!(report.summary.phases.len(), 2, "a warm-up and the load");
        assert!(report.summary.phases[0].warm_up);
        assert!(fs::read_to_string(&html).unwrap().contains("held"));
        assert!(report.parts[0].environment.processors > 0);
    }
}

#[test]
fn an_objective_that_is_broken_is_3() {
    let server = echo("constant:20ms");
    let words = format!(
        "run --url http://{} --model m --rate 100 --duration 2s --slo p50<5ms",
        server.address
    );
    let (report, ended) = Home::new().report(3, &words, &[]);
    assert_eq!(report.verdict.outcome, Outcome::Broken);
    assert!(ended.stdout.contains("BROKEN p50 < 5ms"), "{}", ended.stdout);
    assert!(ended.stdout.contains("\nverdict: broken\n"), "{}", ended.stdout);
}

#[test]
fn failures_are_counted_by_code_and_break_an_error_rate() {
    let server = echo_with("constant:1ms", |options| options.failures = 0.5);
    for (url, code) in [("grpc", Code::Grpc(13)), ("http", Code::Http(500))] {
        let words = format!(
            "run --url {url}://{} --model m --requests 200 --rate 200 --slo error_rate<10%",
            server.address
        );
        let (report, _) = Home::new().report(3, &words, &[]);
        let failed = report.summary.total.codes[&code];
        assert!((50..150).contains(&failed), "{failed} of 200 with a share of a half");
        assert!(!report.examples.is_empty());
    }
}

#[test]
fn too_little_to_say_is_4() {
    let server = echo("constant:1ms");
    let words = format!(
        "run --url grpc://{} --model m --requests 50 --rate 100 --slo p99.9<9s",
        server.address
    );
    let (report, ended) = Home::new().report(4, &words, &[]);
    assert_eq!(report.summary.total.due, 50);
    assert_eq!(report.verdict.outcome, Outcome::TooLittle);
    assert!(ended.stdout.contains("too little data to say"), "{}", ended.stdout);
}

#[test]
fn a_scenario_says_the_same_as_flags() {
    let server = echo("constant:2ms");
    let home = Home::new();
    let scenario = format!(
        "name: mine\ntarget: {{url: 'grpc://{}'}}\nmix:\n- {{model: a, weight: 3}}\n- {{model: b, rows: 2}}\n\
         phases:\n- {{name: warm, arrivals: {{constant: 100}}, duration: 500ms, warm_up: true}}\n\
         - {{name: steady, arrivals: {{constant: 200}}, duration: 2s, slo: {{p50: 5s}}}}\n",
        server.address
    );
    let file = home.write("mine.yaml", &scenario);
    // `run` may be left out.
    let (report, ended) = home.report(0, file.to_str().unwrap(), &[]);
    assert_eq!(report.name.as_deref(), Some("mine"));
    let [a, b] = &report.summary.variants[..] else { panic!("two variants") };
    assert_eq!(a.due + b.due, 400);
    assert!(a.due > b.due && b.due > 0, "{} and {} of a mix of 3 to 1", a.due, b.due);
    assert_eq!(report.verdict.findings[0].phase, "steady");
    assert!(ended.stderr.lines().any(|line| line.contains("steady")), "{}", ended.stderr);
    let (again, ended) = home.report(0, file.to_str().unwrap(), &["--quiet", "--seed", "1"]);
    assert_eq!(again.summary.variants[0].due, a.due, "the same seed, the same load");
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_wrong_answer_breaks_a_run_whatever_its_speed() {
    let server = echo("constant:1ms");
    let home = Home::new();
    let at = format!("--url http://{} --model m", server.address);
    let recorded = home.call(&format!("golden {at} --out right.jsonl"), &[]);
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let words = format!("run {at} --rate 100 --duration 1s --slo p50<5s --golden");
    let (report, _) = home.report(0, &format!("{words} right.jsonl"), &[]);
    assert_eq!(report.verdict.wrong, 0);
    // The first number of an answer, changed.
    let right = fs::read_to_string(home.file("right.jsonl")).unwrap();
    let at = right.find("\"data\":[").expect("data") + "\"data\":[".len();
    let end = at + right[at..].find([',', ']']).expect("a number ends");
    home.write("wrong.jsonl", &format!("{}77777.0{}", &right[..at], &right[end..]));
    let (report, ended) = home.report(3, &format!("{words} wrong.jsonl"), &[]);
    assert!(report.verdict.wrong > 0);
    assert!(report.verdict.wrong < report.summary.total.due, "one answer of several is wrong");
    assert!(report.examples.iter().any(|said| said.contains("77777")), "{:?}", report.examples);
    assert!(ended.stdout.contains("not the ones expected"), "{}", ended.stdout);
}
