//! The command line as scripts, shells and people rely on it: flags, exit codes, completions, the manual, where values
//! come from.

use std::{fs, process::Command};

use serde_json::Value;

use crate::support::{
    files::Home,
    server::{Ended, run_to_end},
};

fn onnxd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.env_remove("ONNXD_CONFIG");
    command
}

fn run(args: &[&str]) -> Ended {
    run_to_end(onnxd().args(args))
}

/// Whether a tool is installed; says so where it is not.
fn installed(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        println!("skipped in part: there is no {tool} here");
    }
    there
}

#[test]
fn serve_has_the_flags_that_tools_rely_on() {
    let help = run(&["serve", "--help"]).stdout;
    let mut flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .map(|line| line.split([' ', ',']).next().unwrap_or(line))
        .collect();
    flags.sort_unstable();
    let expected = [
        "config",
        "control",
        "grpc",
        "http",
        "load",
        "log-format",
        "mirror",
        "models",
        "onnxruntime-lib",
        "operator",
        "state",
    ];
    assert_eq!(flags, expected, "{help}");
}

#[test]
fn exit_codes_mean_what_they_say() {
    let home = Home::of(&["versioned"]).file("broken/1/model.onnx", b"no model");
    let models = home.repository();
    let models = models.to_str().expect("UTF-8");
    for (args, code) in [
        (&["--version"][..], 0),
        (&["check", "--models", models, "--load", "versioned"], 0),
        (&["check", "--models", "no/such/place"], 1),
        (&["health", "--http", "127.0.0.1:1"], 1),
        (&["serv"], 2),
        (&["serve", "--speed", "9"], 2),
        (&["rollout"], 2),
        (&["models"], 2),
        (&["check", "--models", models], 3),
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        assert_eq!(code == 0, ended.stderr.is_empty(), "{args:?}: {}", ended.stderr);
    }
    let help = run(&["--help"]).stdout;
    for absent in ["train", "drift"] {
        assert!(!help.contains(absent), "{absent} is listed and not there");
    }
}

#[test]
fn check_says_where_each_value_came_from() {
    let home = Home::of(&["versioned"]);
    let models = home.repository();
    let file = home.path().join("onnxd.yaml");
    fs::write(&file, "max_requests: 99\nlog:\n  level: warn\n").expect("a file");
    let check = |more: &[&str]| {
        let mut command = onnxd();
        command.arg("check").arg("--config").arg(&file).arg("--models").arg(&models).args(more);
        run_to_end(command.env("ONNXD_LOG_LEVEL", "debug").env("ONNXD_HTPP", "x"))
    };
    let person = check(&[]).stdout;
    let line = |key: &str| {
        let line = person.lines().find(|line| line.trim_start().starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in {person}")).to_owned()
    };
    assert!(line("max_requests").contains("99") && line("max_requests").ends_with("onnxd.yaml"));
    assert!(line("log.level").contains("debug") && line("log.level").ends_with("ONNXD_LOG_LEVEL"));
    assert!(line("models ").ends_with("--models"));
    assert!(line("warning").contains("ONNXD_HTPP"));
    assert!(line("versioned").contains("ok"));
    assert!(!person.contains('\u{1b}'), "no colours in a pipe: {person}");

    let machine: Value = serde_json::from_str(&check(&["--output", "json"]).stdout).expect("JSON");
    let from = |key: &str| {
        let values = machine["configuration"].as_array().expect("a list");
        let found = values.iter().find(|value| value["key"] == key);
        found.unwrap_or_else(|| panic!("no {key}"))["from"].as_str().expect("text").to_owned()
    };
    assert_eq!(from("max_streams"), "default");
    assert_eq!(from("log.level"), "ONNXD_LOG_LEVEL");
    assert!(from("max_requests").ends_with("onnxd.yaml"));

    fs::write(&file, "max_requests: 99\nmax_request: 1\n").expect("a file");
    let refused = check(&[]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("onnxd.yaml, line 2: unknown key 'max_request'"),
        "{}",
        refused.stderr
    );
}

#[test]
fn completions_complete() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]).stdout;
        assert!(script.contains("onnxruntime-lib"), "{shell}: {script}");
    }
    assert_eq!(run(&["completions", "tcsh"]).code, Some(2));
    if !installed("bash") {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let script = home.path().join("onnxd.bash");
    fs::write(&script, run(&["completions", "bash"]).stdout).expect("a file");
    let typed = r#"set -eu; source "$1"; complete -p onnxd
        COMP_WORDS=(onnxd serve --onnx); COMP_CWORD=2; _onnxd onnxd --onnx serve; echo "${COMPREPLY[@]}"
        COMP_WORDS=(onnxd com); COMP_CWORD=1; _onnxd onnxd com onnxd; echo "${COMPREPLY[@]}""#;
    let ended = run_to_end(Command::new("bash").args(["-c", typed, "bash"]).arg(&script));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines[0].contains("_onnxd"), "{}", ended.stdout);
    assert_eq!(lines[1..], ["--onnxruntime-lib", "completions"], "{}", ended.stdout);
}

/// What follows `onnxd` in the name of a page.
const PAGES: [&str; 37] = [
    "-check",
    "-completions",
    "-dataset",
    "-explain",
    "-health",
    "-key",
    "-labels",
    "-loadtest",
    "-log-compact",
    "-log-dump",
    "-log-erase",
    "-log-expire",
    "-log-explain",
    "-log-ls",
    "-log-sql",
    "-log-stat",
    "-log-tail",
    "-log-verify",
    "-log",
    "-man",
    "-models-load",
    "-models-ls",
    "-models-rescan",
    "-models-unload",
    "-models",
    "-replay",
    "-rollout-clear",
    "-rollout-history",
    "-rollout-pause",
    "-rollout-promote",
    "-rollout-resume",
    "-rollout-rollback",
    "-rollout-set",
    "-rollout-status",
    "-rollout",
    "-serve",
    "",
];

#[test]
fn the_manual_has_a_page_for_every_command() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let dir = home.path().join("man/man1");
    let ended = run_to_end(onnxd().arg("man").arg(&dir));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut pages: Vec<String> = fs::read_dir(&dir)
        .expect("the pages' directory")
        .map(|page| page.expect("a page").file_name().to_string_lossy().into_owned())
        .collect();
    pages.sort_unstable();
    assert_eq!(pages, PAGES.map(|name| format!("onnxd{name}.1")));
    assert_eq!(
        run(&["man"]).stdout.trim(),
        fs::read_to_string(dir.join("onnxd.1")).expect("a page").trim()
    );
    for page in pages {
        let page = dir.join(page);
        if installed("man") {
            let mut man = Command::new("man");
            man.args(["--warnings", "--local-file"])
                .arg(&page)
                .env("MANPAGER", "cat")
                .env("LC_ALL", "C.UTF-8");
            let shown = run_to_end(&mut man);
            assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{}", page.display());
            // A command's commands have theirs on its page.
            let nested = ["-models-", "-log-", "-rollout-"]
                .iter()
                .any(|of| page.to_string_lossy().contains(of));
            assert!(nested || shown.stdout.contains("Example"), "{}", shown.stdout);
        }
        if Command::new("mandoc").arg("-l").arg(&page).output().is_ok() {
            let lint =
                run_to_end(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&page));
            assert_eq!(lint.code, Some(0), "{}", lint.stdout);
        }
    }
}
