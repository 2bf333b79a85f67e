//! Events from what a scenario says to the figures of their windows.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Ended, Event, Happened, Planned, Run, plan,
    timeline::Timeline,
    verdict,
    window::{self, Windows},
};
use crate::{
    plan::{Arrivals, Phase, Tls, Until},
    record::{Cell, Code, Measured, Times, histogram},
    slo::{Outcome, Slo},
    summary::{Frame, PhaseFrame, VariantFrame},
};

fn phase(name: &str, seconds: Option<u64>) -> Phase {
    Phase {
        name: name.to_owned(),
        arrivals: Arrivals::Constant { rate: 1.0 },
        until: Until { duration: seconds.map(Duration::from_secs), requests: Some(9) },
        warm_up: false,
    }
}

fn read(yaml: &str) -> Result<Vec<Event>, String> {
    serde_saphyr::from_str(yaml).map_err(|e| e.to_string())
}

#[test]
fn an_event_says_when_and_what() {
    let events = read(
        "- at: 10s\n  run: [kubectl, rollout, restart]\n  name: rollout\n  window: 20s\n  phase: b\n\
         - at: 500ms\n  run: echo $LOADTEST_URL | cat\n  required: false\n  slo: {p99: 20ms}\n",
    )
    .unwrap();
    let planned = plan(&events, &[phase("a", Some(5)), phase("b", Some(30))]).unwrap();
    assert_eq!((&*planned[0].name, planned[0].phase), ("rollout", 1));
    assert_eq!(planned[0].run.to_string(), "kubectl rollout restart");
    assert_eq!(planned[0].window, Duration::from_secs(20));
    assert!(planned[0].required);
    assert_eq!((&*planned[1].name, planned[1].phase), ("event 2", 0));
    let warm_up = Phase { warm_up: true, ..phase("w", Some(5)) };
    let after = plan(&events, &[warm_up, phase("a", Some(5)), phase("b", Some(30))]).unwrap();
    assert_eq!(after[1].phase, 1, "what warms up counts for nothing");
    assert_eq!(planned[1].run, Run::Shell("echo $LOADTEST_URL | cat".to_owned()));
    assert_eq!(
        (planned[1].at, planned[1].window),
        (Duration::from_millis(500), Duration::from_secs(5))
    );
    assert!(!planned[1].required && planned[1].slo.is_some());
}

#[test]
fn what_is_wrong_with_an_event_is_said() {
    for (yaml, says) in [
        ("- at: 10s\n  run: x\n  when: 3", "when"),
        ("- at: 10\n  run: x", "'10' is no duration"),
        ("- run: x", "at"),
        ("- at: 1s", "run"),
        ("- at: 1s\n  run: 3", "a line for the shell, a list"),
        ("- at: 1s\n  run: {a: b}", "unknown field `a`"),
        ("- at: 1s\n  run: {body: {}}", "post"),
        ("- at: 1s\n  run: {post: h:1}", "'h:1': its scheme is unknown"),
    ] {
        let error = read(yaml).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    let phases = [phase("a", Some(5)), phase("b", Some(30))];
    for (yaml, says) in [
        ("- at: 10s\n  run: ''", "event 'event 1': run is empty; expected a command"),
        ("- at: 10s\n  run: []", "event 'event 1': run is empty; expected a command"),
        ("- at: 10s\n  run: x\n  phase: c", "event 'event 1': no phase 'c'; there are a, b"),
        (
            "- at: 35s\n  run: x",
            "event 'event 1': at 35s, and the run is over 35s after the start of phase 'a'",
        ),
        (
            "- at: 30s\n  run: x\n  phase: b",
            "event 'event 1': at 30s, and the run is over 30s after the start of phase 'b'",
        ),
        ("- at: 1s\n  run: x\n  window: 2h", "event 'event 1': window is 2h; expected at most 1h"),
        (
            "- {at: 1s, run: x, name: n}\n- {at: 1s, run: x, name: n}",
            "event 'n' is there twice; expected names of their own",
        ),
    ] {
        assert_eq!(plan(&read(yaml).unwrap(), &phases).unwrap_err(), says);
    }
    let events = read("- at: 900s\n  run: x").unwrap();
    assert!(plan(&events, &[phase("a", Some(5)), phase("b", None)]).is_ok(), "nobody knows");
}

#[test]
fn an_event_on_the_command_line() {
    let event: Event = "10s: systemctl restart a:b".parse().unwrap();
    assert_eq!(event.at.0, Duration::from_secs(10));
    assert_eq!(event.run, Run::Shell("systemctl restart a:b".to_owned()));
    for wrong in ["", "10s", "x: y"] {
        let error = wrong.parse::<Event>().unwrap_err();
        assert!(error.starts_with(&format!("'{wrong}' is no event")), "{error}");
    }
}

fn planned(name: &str, phase: usize, at_ms: u64, line: &str) -> Planned {
    Planned {
        name: name.to_owned(),
        phase,
        at: Duration::from_millis(at_ms),
        run: Run::Shell(line.to_owned()),
        window: Duration::from_secs(1),
        timeout: Duration::from_secs(120),
        required: true,
        slo: None,
    }
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !there() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn events_are_called_when_their_phase_is_so_old() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str| home.path().join(name);
    let events = [
        planned("first", 0, 0, &format!("touch {}; exit 7", file("first").display())),
        planned("second", 1, 20, &format!("echo $WHO > {}", file("second").display())),
        planned("late", 1, 3_600_000, "true"),
        planned("never", 2, 0, "true"),
    ];
    let origin = Instant::now();
    let environment = vec![("WHO".to_owned(), "me".to_owned())];
    let timeline =
        Timeline::begin(&events, origin, environment, Tls::default(), Arc::default()).unwrap();
    assert!(!file("first").exists(), "its phase has not begun");
    timeline.phase(0, Instant::now());
    wait_for("the first event", || file("first").exists());
    assert!(!file("second").exists());
    timeline.phase(1, Instant::now());
    wait_for("the second event", || fs::read_to_string(file("second")).is_ok_and(|t| t == "me\n"));
    let mut news = Vec::new();
    wait_for("news of the first event", || {
        news.extend(timeline.news());
        news.iter().any(|line| line.ends_with("exit code 7"))
    });
    assert!(news.iter().any(|line| line.starts_with("event 'first' at ")), "{news:?}");
    let happened = timeline.end(false);
    let ended: Vec<&Ended> = happened.iter().map(|h| &h.ended).collect();
    assert_eq!(ended, [&Ended::Exit(7), &Ended::Exit(0), &Ended::NotReached, &Ended::NotReached]);
    assert!(happened[0].from_s.unwrap() < happened[0].to_s.unwrap());
    assert!(happened[1].from_s.unwrap() >= 0.02);
    assert_eq!(happened[2].from_s, None);
    assert!(happened[0].failure().unwrap().starts_with("event 'first' (touch "));
    assert_eq!(happened[1].failure(), None);
    let late = "event 'late' (true): not reached: the run was over before";
    assert_eq!(happened[2].failure().unwrap(), late);
}

#[test]
fn an_interrupted_run_ends_its_commands() {
    let home = tempfile::tempdir().unwrap();
    let started = home.path().join("started");
    let line = format!("touch {}; exec sleep 600", started.display());
    let (stop, events) =
        (Arc::new(AtomicBool::new(false)), [planned("a", 0, 0, &line), planned("b", 1, 0, "true")]);
    let timeline =
        Timeline::begin(&events, Instant::now(), Vec::new(), Tls::default(), Arc::clone(&stop))
            .unwrap();
    timeline.phase(0, Instant::now());
    wait_for("the command", || started.exists());
    stop.store(true, Ordering::SeqCst);
    let happened = timeline.end(true);
    assert_eq!(happened[0].ended, Ended::Interrupted);
    assert_eq!(happened[1].ended, Ended::Interrupted);
    assert!(happened.iter().all(|h| h.failure().is_none()));
}

#[test]
fn a_command_that_need_not_succeed_fails_nothing() {
    let happened = |ended, required| Happened {
        name: "e".to_owned(),
        command: "c".to_owned(),
        required,
        ended,
        from_s: None,
        to_s: None,
        window_s: 0.0,
        output: "one\ntwo\n\n".to_owned(),
        slo: None,
    };
    assert_eq!(happened(Ended::Exit(1), false).failure(), None);
    let failure = happened(Ended::Exit(1), true).failure().unwrap();
    assert_eq!(failure, "event 'e' (c): exit code 1; its last line: two");
}

/// `good` answers of `ms` milliseconds and `failed` connections, due in one tenth.
fn cell(good: u64, ms: u64, failed: u64, version: &str) -> Cell {
    let mut times = histogram();
    times.record_n(ms * 1_000_000, good).unwrap();
    let times = Times::of(&times);
    let mut cell = Cell { due: good + failed, ..Cell::default() };
    (cell.latency, cell.service) = (times.clone(), times);
    if good > 0 {
        cell.codes.insert(Code::Ok, good);
        cell.versions.insert(version.to_owned(), good);
    }
    if failed > 0 {
        cell.codes.insert(Code::Broken, failed);
    }
    cell
}

fn frame(phases: &[(bool, f64)]) -> Frame {
    let phases = phases.iter().enumerate().map(|(at, (warm_up, seconds))| PhaseFrame {
        name: format!("p{at}"),
        warm_up: *warm_up,
        planned_s: Some(*seconds),
        within_ns: Some(10_000_000),
    });
    let variant = VariantFrame { name: "v".to_owned(), model: "m".to_owned(), rows: 1 };
    Frame { phases: phases.collect(), variants: vec![variant] }
}

fn happened(from_s: f64, to_s: f64, window_s: f64) -> Happened {
    Happened {
        name: "restart".to_owned(),
        command: "x".to_owned(),
        required: true,
        ended: Ended::Exit(0),
        from_s: Some(from_s),
        to_s: Some(to_s),
        window_s,
        output: String::new(),
        slo: None,
    }
}

/// Ten requests a tenth, 2 ms each; from 1.0 s to 1.3 s of the second phase none succeeds, then version 2 takes 5 ms.
fn a_restart() -> Measured {
    let mut measured = Measured {
        began: vec![50_000_000, 2_050_000_000],
        took: vec![2_000_000_000, 3_000_000_000],
        ..Measured::default()
    };
    for tenth in 0..20 {
        measured.stretches.insert((0, tenth), BTreeMap::from([(0, cell(10, 2, 0, "1"))]));
    }
    for tenth in 0..30 {
        let cell = match tenth {
            0..10 => cell(10, 2, 0, "1"),
            10..13 => cell(0, 0, 10, ""),
            13..20 => cell(10, 5, 0, "2"),
            _ => cell(10, 2, 0, "2"),
        };
        measured.stretches.insert((1, tenth), BTreeMap::from([(0, cell)]));
    }
    measured
}

#[test]
fn the_time_around_an_event_is_told_apart() {
    let measured = a_restart();
    let frame = frame(&[(true, 2.0), (false, 3.0)]);
    let events = [happened(3.0, 3.6, 0.5)];
    let windows = Windows::of(&measured, &frame, &events);
    let [window] = &windows.events[..] else { panic!("{windows:?}") };
    // From 0.95 s to 2.05 s of the second phase, rounded outwards to tenths.
    assert_eq!(window.tenths, BTreeMap::from([(1, (9, 21))]));
    let figures = &window.figures;
    assert_eq!((figures.due, figures.good, figures.failed), (120, 90, 30));
    assert!((figures.seconds - 1.2).abs() < 1e-9 && (figures.offered - 100.0).abs() < 1e-9);
    assert_eq!(figures.versions, BTreeMap::from([("1".to_owned(), 10), ("2".to_owned(), 80)]));
    assert!((figures.latency.p99 as f64 / 1e6 - 5.0).abs() < 0.01);
    assert!((window.dark_s - 0.3).abs() < 1e-9);
    let steady = &windows.steady;
    assert_eq!((steady.due, steady.good, steady.failed), (180, 180, 0), "without the warm-up");
    assert!((steady.seconds - 1.8).abs() < 1e-9 && (steady.throughput - 100.0).abs() < 1e-9);
    assert!((steady.latency.max as f64 / 1e6 - 2.0).abs() < 0.01);
    assert_eq!(
        windows.lines(&events),
        [
            "steady: 180 requests in 1.8 s; p50 2.00 ms, p99 2.00 ms, most 2.00 ms; 90 by version 1, 90 by version 2",
            "event 'restart' at 3.0 s: exit code 0 after 0.60 s",
            "  its window: 120 requests in 1.2 s; p50 5.00 ms, p99 5.00 ms, most 5.00 ms; 30 failed; \
             10 by version 1, 80 by version 2; no good answer for 0.3 s",
        ]
    );
    assert!(Windows::of(&measured, &frame, &[]).lines(&[]).is_empty());
}

#[test]
fn a_window_may_reach_over_phases_and_beyond_the_run() {
    let measured = a_restart();
    let both = window::tenths(&happened(1.0, 2.0, 0.5), &measured).unwrap();
    assert_eq!(both, BTreeMap::from([(0, (9, 20)), (1, (0, 5))]));
    let beyond = window::tenths(&happened(4.95, 70.0, 0.5), &measured).unwrap();
    assert_eq!(beyond, BTreeMap::from([(1, (29, 30))]));
    assert_eq!(window::tenths(&happened(5.05, 5.1, 0.5), &measured), None);
    assert_eq!(
        window::tenths(&Happened { from_s: None, ..happened(0.0, 0.0, 0.0) }, &measured),
        None
    );
    let frame = frame(&[(false, 2.0), (false, 3.0)]);
    let (cut, _) = window::inside(&measured, &frame, &both);
    assert_eq!(cut.took, [1_600_000_000]);
    assert_eq!(cut.stretches.len(), 16);
}

#[test]
fn an_event_with_objectives_of_its_own_is_judged_by_them() {
    let measured = Measured { took: vec![2_000_000_000, 3_000_000_000], ..a_restart() };
    let frame = frame(&[(false, 2.0), (false, 3.0)]);
    let slo = |text: &str| serde_saphyr::from_str::<Slo>(text).unwrap();
    let strict = [slo("{error_rate: 0}"), slo("{error_rate: 0, p50: 3ms}")];
    let judge = |slos: &[Slo], happened: &[Happened]| {
        let windows = Windows::of(&measured, &frame, happened);
        verdict::judge(slos, &measured, &frame, &verdict::own(happened, Some(&windows)))
    };
    let plain = [happened(3.0, 3.6, 0.5)];
    let verdict = judge(&strict, &plain);
    assert_eq!(verdict.outcome, Outcome::Broken, "its window counts as any other time");
    let own = |text| [Happened { slo: Some(slo(text)), ..plain[0].clone() }];
    let verdict = judge(&strict, &own("{error_rate: 50%, p50: 50ms}"));
    assert_eq!(verdict.outcome, Outcome::Held, "{:?}", verdict.findings);
    let findings: Vec<_> =
        verdict.findings.iter().map(|f| (&*f.phase, f.requests, f.outcome)).collect();
    assert_eq!(
        findings,
        [
            ("p0", 200, Outcome::Held),
            ("p1", 180, Outcome::Held),
            ("p1", 180, Outcome::Held),
            ("event 'restart'", 120, Outcome::Held),
            ("event 'restart'", 120, Outcome::Held),
        ]
    );
    let verdict = judge(&strict, &own("{error_rate: 1%}"));
    assert_eq!(verdict.outcome, Outcome::Broken);
    let rate = [Slo::default(), slo("{throughput: 99}")];
    let verdict = judge(&rate, &own("{error_rate: 50%}"));
    assert_eq!(verdict.outcome, Outcome::Held, "the window leaves no hole: {:?}", verdict.findings);
}

proptest! {
    /// Whatever the windows, a request is within one or steady, and the times add up.
    #[test]
    fn windows_and_steady_time_are_the_whole(
        from in 0.0..6.0f64, took in 0.0..4.0f64, window in 0.0..3.0f64, interrupted in any::<bool>(),
    ) {
        let measured = Measured { interrupted, ..a_restart() };
        let frame = frame(&[(false, 2.0), (false, 3.0)]);
        let windows = Windows::of(&measured, &frame, &[happened(from, from + took, window)]);
        let inside = windows.events.first().map(|w| &w.figures);
        prop_assert_eq!(inside.map_or(0, |f| f.due), windows.together.due);
        let sum = |of: fn(&crate::summary::Figures) -> f64| inside.map_or(0.0, of) + of(&windows.steady);
        prop_assert_eq!(sum(|f| f.due as f64), 500.0);
        prop_assert_eq!(sum(|f| f.good as f64), 470.0);
        prop_assert_eq!(sum(|f| f.failed as f64), 30.0);
        prop_assert!((sum(|f| f.seconds) - 5.0).abs() < 1e-6);
        for figures in inside.into_iter().chain([&windows.steady]).filter(|f| f.due > 0) {
            prop_assert!((figures.offered - 100.0).abs() < 1e-6, "{}", figures.offered);
        }
    }
}
