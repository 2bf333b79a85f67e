//! A run that somebody ends says what it measured until then.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt,
    process::{Command, Stdio},
};

use rustix::{fs::OFlags, process::Signal};

use crate::support::{
    onnxd::Onnxd,
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
        let mut run = Running::start(command.stdout(Stdio::null()));
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

/// A report that goes into a pipe which nobody reads keeps the run from its end, and does not keep the program from its own.
#[test]
fn a_second_signal_ends_the_program_at_once() {
    let (real, echo) = (Onnxd::start(), echo("constant:1ms"));
    let address = real.as_ref().map_or(echo.address.to_string(), |onnxd| onnxd.http.clone());
    let home = Home::new();
    let (going, pipe) = (home.file("going"), home.file("report.html"));
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    // That it can be written to is tried before any load: then there is a reader.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
    let reader = File::options().read(true).custom_flags(flags).open(&pipe).expect("a pipe");
    let mut command = loadtest();
    command.args(["run", "--model", "wine", "--rate", "50", "--duration", "600s"]);
    command.args(["--url", &format!("http://{address}"), "--metrics", "off"]);
    command.arg("--html").arg(&pipe);
    command.args(["--event", &format!("1s: touch {}", going.display())]);
    let mut run = Running::start(command.stdout(Stdio::null()));
    wait_for("the load goes on", || going.exists().then_some(()));
    drop(reader);
    run.signal(Signal::INT);
    run.line("interrupted: writing what was measured (again: ends at once)");
    run.signal(Signal::INT);
    assert_eq!(run.end().code(), Some(130), "{}", run.said());
}
