//! A run that somebody ends says what it measured until then.

use rustix::process::Signal;

use crate::support::{
    process::{Running, loadtest, wait_for},
    run::{Home, echo, read},
};

#[test]
fn an_interrupted_run_writes_its_report() {
    let server = echo("constant:1ms");
    let home = Home::new();
    for (name, signal) in [("int", Signal::INT), ("term", Signal::TERM)] {
        let (json, html) = (home.file("r.json"), home.file("r.html"));
        let going = home.file(name);
        let mut command = loadtest();
        command.args(["run", "--model", "m", "--rate", "200", "--duration", "600s"]);
        command.args(["--slo", "p50<5s", "--url", &format!("http://{}", server.address)]);
        command.arg("--json").arg(&json).arg("--html").arg(&html);
        command.args(["--event", &format!("2s: touch {}", going.display())]);
        let mut run = Running::start(command.stdout(std::process::Stdio::null()));
        wait_for("the load goes on", || going.exists().then_some(()));
        run.signal(signal);
        let status = run.end();
        let report = read(&json);
        assert!(report.interrupted && report.verdict.interrupted);
        assert!(report.summary.total.good > 50, "{}", report.summary.total.good);
        assert!(report.summary.total.seconds < 300.0);
        assert!(html.is_file());
        // Half of the requests were fast, so far: that much is certain.
        assert_eq!(status.code(), Some(0), "{}", run.said());
    }
}

#[test]
fn a_second_signal_ends_the_program() {
    let server = echo("constant:1ms");
    let home = Home::new();
    let going = home.file("going");
    let mut command = loadtest();
    command.args(["run", "--model", "m", "--rate", "10", "--duration", "600s"]);
    command.args(["--url", &format!("http://{}", server.address)]);
    // A command that does not end when it is asked to keeps the run from its end, for two seconds.
    let line = format!("1s: trap '' TERM; touch {}; while :; do sleep 1; done", going.display());
    command.args(["--event", &line]);
    let mut run = Running::start(command.stdout(std::process::Stdio::null()));
    wait_for("the command goes on", || going.exists().then_some(()));
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    let code = run.end().code();
    // Two signals that come as one are one: then the run ends as one that was interrupted, and had too few good answers or some.
    assert!(matches!(code, Some(130 | 0 | 1)), "{code:?}: {}", run.said());
}
