//! `onnxd log`: what it says of a log that is known, and what of one that is not there, damaged or empty.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    log_files::{self, Rows},
    server::{Ended, run_to_end},
};

fn log() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    log_files::write(dir.path(), "part-n-b-1.parquet", Rows::numbered(0, 60));
    log_files::write(dir.path(), "part-n-b-2.parquet", Rows::numbered(60, 60));
    log_files::write(dir.path(), "part-n-b-3.parquet", Rows::numbered(3600, 10));
    dir
}

fn run(dir: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.env_remove("ONNXD_PREDICTION_LOG_DIR");
    run_to_end(command.arg("log").args(args).arg("--dir").arg(dir))
}

fn good(dir: &Path, args: &[&str]) -> String {
    let ended = run(dir, args);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}");
    ended.stdout
}

fn read(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&good(dir, args)).expect("JSON")
}

#[test]
fn ls_and_stat_count() {
    let dir = log();
    let days = read(dir.path(), &["ls", "--output", "json"]);
    assert_eq!(days.as_array().map(Vec::len), Some(1));
    let day = &days[0];
    assert_eq!((&day["rows"], &day["files"], &day["hours"]), (&json!(130), &json!(3), &json!(2)));
    assert_eq!(
        read(dir.path(), &["ls", "--files", "--output", "json"]).as_array().map(Vec::len),
        Some(3)
    );
    let text = good(dir.path(), &["ls"]);
    assert!(text.starts_with("model  version  rows"), "{text}");
    let stat = read(dir.path(), &["stat", "--columns", "--output", "json"]);
    assert_eq!(stat[0]["by"]["status"], json!({"200": 117, "429": 13}));
    assert_eq!(stat[0]["rows_before_sampling"], json!(260.0));
    assert!(good(dir.path(), &["stat"]).contains("first: 2026-01-31T09:00:00.000000Z"));
}

#[test]
fn tail_shows_the_latest_rows_oldest_first() {
    let dir = log();
    let text = good(dir.path(), &["tail", "-n", "3", "--output", "json"]);
    let ids: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["request_id"].clone())
        .collect();
    assert_eq!(ids, ["r3607", "r3608", "r3609"]);
    let text = good(dir.path(), &["tail", "-n", "12", "--where", "status=429"]);
    assert_eq!(text.lines().count(), 12, "{text}");
    let last = "2026-01-31T10:00:09.000000Z churn 1 canary 429 - r3609 error_code=overloaded";
    assert!(
        text.lines().last().expect("a line").starts_with(&last.replace("canary", "primary")),
        "{text}"
    );
}

#[test]
fn dump_writes_what_is_asked_for() {
    let dir = log();
    let csv = good(
        dir.path(),
        &[
            "dump",
            "--form",
            "csv",
            "--columns",
            "request_id,in_b",
            "--from",
            "2026-01-31T10:00:00Z",
            "--where",
            "in_b>=-3602",
        ],
    );
    assert_eq!(csv, "request_id,in_b\nr3600,-3600.0\nr3601,-3601.0\nr3602,-3602.0\n");
    let out = dir.path().join("rows.parquet");
    let out = out.to_str().expect("UTF-8");
    assert_eq!(good(dir.path(), &["dump", "--form", "parquet", "--out", out]), "");
    assert_eq!(&fs::read(out).expect("written")[..4], b"PAR1");
    let lines = good(dir.path(), &["dump", "--limit", "7"]);
    assert_eq!(lines.lines().count(), 7);
}

#[test]
fn compact_leaves_the_same_rows_and_verify_agrees() {
    let dir = log();
    let before = good(dir.path(), &["dump"]);
    let plan = read(dir.path(), &["compact", "--dry-run", "--output", "json"]);
    assert_eq!((&plan["merges"][0]["rows"], &plan["done"]), (&json!(120), &json!(false)));
    assert_eq!(good(dir.path(), &["dump"]), before);
    let done = read(dir.path(), &["compact", "--output", "json"]);
    assert_eq!(done["merges"].as_array().map(Vec::len), Some(1));
    assert_eq!(good(dir.path(), &["dump"]), before);
    let verified = read(dir.path(), &["verify", "--output", "json"]);
    assert_eq!((&verified["rows"], &verified["bad_files"]), (&json!(130), &json!(0)));
    assert_eq!(verified["files"].as_array().map(Vec::len), Some(2));
}

#[test]
fn verify_finds_damage_and_exit_codes_tell() {
    let dir = log();
    let file = "log/v1/model=churn/version=1/date=2026-01-31/hour=9/part-n-b-1.parquet";
    let path = dir.path().join(file);
    let mut bytes = fs::read(&path).expect("there");
    bytes[100..164].fill(0);
    fs::write(&path, &bytes).expect("written");
    let ended = run(dir.path(), &["verify"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stdout);
    assert!(ended.stdout.starts_with(file), "{}", ended.stdout);
    let empty = tempfile::tempdir().expect("a directory");
    for (dir, args, code, complaint) in [
        (empty.path(), &["ls"][..], 1, "no log is here"),
        (Path::new("no/such/place"), &["stat"], 1, "no/such/place: no such directory"),
        (dir.path(), &["tail", "--model", "none"], 4, "no row of the log"),
        (dir.path(), &["stat", "--from", "soon"], 2, "--from: expected a time"),
        (dir.path(), &["dump", "--where", "status"], 2, "expected a column"),
        (dir.path(), &["dump", "--form", "parquet"], 2, "needs --out"),
        (dir.path(), &["dump", "--columns", "speed"], 1, "no file has the column speed"),
    ] {
        let ended = run(dir, args);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(complaint), "{args:?}: {}", ended.stderr);
    }
}
