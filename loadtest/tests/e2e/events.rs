//! Commands that are called while the load goes on, and what is told of the time around them.

use std::{fs, net::TcpListener, path::Path, process::Command};

use onnxd_loadtest::{events::Ended, slo::Outcome};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    process::{loadtest, run_to_end, wait_for},
    run::{Home, echo},
};

#[test]
fn what_an_event_says_and_does_is_told() {
    let server = echo("constant:1ms");
    let home = Home::new();
    let words = format!("run --url grpc://{} --model m --rate 200 --duration 3s", server.address);
    let event = ["--event", "1s: echo called $LOADTEST_URL", "--event", "2s: exit 5"];
    let (report, ended) = home.report(1, &words, &event);
    let failed = "onnxd loadtest: event 'event 2' (exit 5): exit code 5";
    assert!(ended.stderr.contains(failed), "{}", ended.stderr);
    let seen = &report.parts[0].seen;
    assert_eq!(seen.happened[0].output, format!("called grpc://{}\n", server.address));
    assert_eq!(seen.happened[0].ended, Ended::Exit(0));
    assert_eq!(seen.happened[1].ended, Ended::Exit(5));
    let windows = seen.windows.as_ref().expect("windows");
    assert_eq!(windows.events.len(), 2);
    assert!(windows.events[0].figures.due > 0);
    for told in ["event 'event 1' at ", "its window: ", "steady: "] {
        assert!(ended.stdout.contains(told), "{}", ended.stdout);
    }
    assert!(ended.stderr.contains("exit code 5"), "while it runs, too: {}", ended.stderr);
}

/// A server that is ended and started anew, as an event: an echo server in a process of its own.
struct Restarted {
    home: Home,
    port: u16,
}

impl Restarted {
    /// Starts the first one, whose answers are version 1's.
    fn start() -> Restarted {
        let home = Home::new();
        // The system may give the port to somebody else before it is taken again: then another one is tried.
        let port = wait_for("a port of its own", || {
            let free = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
            launch(&home, free, 1).then_some(free)
        });
        Restarted { home, port }
    }

    /// A shell line that ends the one that runs, and starts version 2 once it is gone.
    fn restart(&self) -> String {
        format!(
            "old=$(cat {}); kill $old; while kill -0 $old 2>/dev/null; do sleep 0.02; done; {}",
            self.home.file("pid").display(),
            line(&self.home, self.port, 2)
        )
    }
}

impl Drop for Restarted {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.home.file("pid")).ok();
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Starts a server in the background, and waits until it listens or has failed.
fn line(home: &Home, port: u16, version: u32) -> String {
    let binary = loadtest().get_program().to_string_lossy().into_owned();
    let (pid, log) = (home.file("pid"), home.file("log"));
    format!(
        "({binary} echo --listen 127.0.0.1:{port} --latency constant:1ms --model-version {version} \
         >{log} 2>&1 & echo $! >{pid}); until grep -q 'echo on' {log}; do \
         kill -0 $(cat {pid}) || exit 9; sleep 0.02; done",
        log = log.display(),
        pid = pid.display(),
    )
}

fn launch(home: &Home, port: u16, version: u32) -> bool {
    let mut shell = Command::new("/bin/sh");
    run_to_end(shell.args(["-c", &line(home, port, version)])).code == Some(0)
}

fn scenario(server: &Restarted, slo: &str) -> String {
    format!(
        "target: {{url: 'grpc://127.0.0.1:{}', timeout: 2s}}\nmix: [{{model: m}}]\n\
         slo: {{p50: 2s, error_rate: 5%}}\n\
         phases:\n- {{name: warm, arrivals: {{constant: 100}}, duration: 500ms, warm_up: true}}\n\
         - {{name: load, arrivals: {{constant: 100}}, duration: 8s}}\n\
         events:\n- name: restart\n  at: 2s\n  window: 1s\n  run: {:?}\n  slo: {slo}\n",
        server.port,
        server.restart(),
    )
}

#[test]
fn a_restart_is_told_apart_from_the_steady_time() {
    let server = Restarted::start();
    let file = server.home.write("s.yaml", &scenario(&server, "{error_rate: 100%}"));
    let (report, ended) = server.home.report(0, &format!("run {}", text(&file)), &[]);
    let seen = &report.parts[0].seen;
    assert_eq!(seen.happened[0].ended, Ended::Exit(0), "{}", seen.happened[0].output);
    let windows = seen.windows.as_ref().expect("windows");
    let window = &windows.events[0].figures;
    assert!(window.good > 0, "it answers before and after");
    assert_eq!(window.due + windows.steady.due, report.summary.total.due);
    let by = |version: &str| report.summary.total.versions.get(version).copied().unwrap_or(0);
    assert!(by("1") > 100 && by("2") > 50, "{:?}", report.summary.total.versions);
    assert_eq!(report.verdict.outcome, Outcome::Held, "{}", ended.stdout);
    let judged: Vec<_> = report.verdict.findings.iter().map(|f| &*f.phase).collect();
    assert_eq!(judged, ["load", "load", "event 'restart'"]);
    assert!(ended.stdout.contains("event 'restart' at "), "{}", ended.stdout);
}

#[test]
fn a_restart_that_takes_too_long_breaks_its_own_objectives() {
    let server = Restarted::start();
    // Away for half a second: fifty requests are due meanwhile. They wait for a connection, or fail.
    let slow = scenario(&server, "{p99: 50ms}").replace("; done; (", "; done; sleep 0.5; (");
    assert!(slow.contains("sleep 0.5"), "{slow}");
    let file = server.home.write("s.yaml", &slow);
    let (report, ended) = server.home.report(3, &format!("run {}", text(&file)), &[]);
    let broken: Vec<_> =
        report.verdict.findings.iter().filter(|f| f.outcome == Outcome::Broken).collect();
    assert_eq!(broken.len(), 1, "{:?}", report.verdict.findings);
    assert_eq!(broken[0].phase, "event 'restart'");
    let windows = report.parts[0].seen.windows.as_ref().expect("windows");
    let window = &windows.events[0].figures;
    assert!(window.failed > 0 || window.latency.max > 400_000_000);
    assert!(ended.stdout.contains("BROKEN p99 < 50ms"), "{}", ended.stdout);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
