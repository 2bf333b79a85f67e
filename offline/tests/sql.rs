//! Drives `onnxd log sql` over logs and labels that are known: which files count, how much memory it takes, what damage does to it.

#[path = "../../tests/support/log_files.rs"]
mod log_files;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use log_files::{NINE, Rows};
use onnxd::predlog::{
    erased::{Ledger, alone},
    labels::{Label, store::Store},
};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(dir: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-offline"));
    command.env_remove("ONNXD_PREDICTION_LOG_DIR").args(["log", "sql"]).args(args);
    let out = command.arg("--dir").arg(dir).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// The rows of an answer.
fn rows(dir: &Path, args: &[&str]) -> Vec<Value> {
    let ended = run(dir, &[args, &["--output", "json"]].concat());
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
    ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The one number of an answer.
fn number(dir: &Path, args: &[&str]) -> u64 {
    let rows = rows(dir, args);
    let cells = rows.first().and_then(Value::as_object).expect("a row");
    cells.values().next().and_then(Value::as_u64).expect("a number")
}

fn refused(dir: &Path, args: &[&str], code: i32, complaint: &str) -> String {
    let ended = run(dir, args);
    assert_eq!(ended.code, Some(code), "{args:?}: {}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains(complaint), "{args:?}: {}", ended.stderr);
    ended.stderr
}

fn empty() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A label of a key, a minute after nine.
fn label(key: &str, text: &str, revision: i64) -> Label {
    Label {
        label_key: key.to_owned(),
        event_id: None,
        ts_label: NINE + 60_000_000,
        ts_event: None,
        label: Some(text.to_owned()),
        label_value: text.parse().ok(),
        weight: None,
        source: None,
        revision,
        deleted: false,
    }
}

const COUNT: &str = "select count(*) from log";

#[test]
fn only_files_that_count_are_read() {
    let dir = empty();
    log_files::write(dir.path(), "part-a-b-1.parquet", Rows::numbered(0, 100));
    log_files::write(dir.path(), "part-a-b-2.parquet", Rows::numbered(100, 100));
    let hour = dir.path().join("log/v1/model=churn/version=1/date=2026-01-31/hour=9");
    let copy = |name: &str| {
        fs::copy(hour.join("part-a-b-1.parquet"), hour.join(name)).expect("copied");
    };
    // Half written, a profile, and what a compaction has put into another file and not removed.
    for name in [".part-a-b-3.parquet.tmp", "_part-a-b-3.parquet", "part-compact-1.parquet"] {
        copy(name);
    }
    fs::write(
        hour.join("_compact-part-compact-1.parquet.json"),
        r#"{"inputs": ["part-a-b-1.parquet"], "output": "part-compact-1.parquet"}"#,
    )
    .expect("written");
    assert_eq!(number(dir.path(), &[COUNT]), 200);
    assert_eq!(number(dir.path(), &["select count(distinct event_id) from log"]), 200);
    // Late rows of somebody who was erased still lie in the files.
    let subjects = [log_files::subject(3)];
    let lock = alone(dir.path()).expect("alone");
    Ledger::add(&lock, dir.path(), &subjects, "2026-01-31T12:00:00Z").expect("added");
    let left = (0..200).filter(|n| log_files::subject(*n) != subjects[0]).count();
    assert_eq!(number(dir.path(), &[COUNT]), left as u64);
    assert_eq!(number(dir.path(), &["select count(*) from labelled"]), left as u64);
    let plan = run(dir.path(), &["explain select * from log"]);
    assert!(
        plan.stdout.contains("not_erased") && !plan.stdout.contains(&subjects[0]),
        "{}",
        plan.stdout
    );
}

#[test]
fn rows_are_those_of_the_flags_and_files_that_cannot_match_are_left_out() {
    let dir = empty();
    log_files::write(dir.path(), "part-a-b-1.parquet", Rows::numbered(0, 100));
    let later = Rows { version: "2", ..Rows::numbered(3600, 100) };
    log_files::write(dir.path(), "part-a-b-1.parquet", later);
    let other = Rows { model: "a b/c%", ..Rows::numbered(0, 50) };
    let odd = dir.path().join("log/v1/model=a%20b%2Fc%25/version=1/date=2026-01-31/hour=9");
    fs::create_dir_all(&odd).expect("made");
    let footer = Some(log_files::footer(other));
    log_files::write_at(&odd.join("part-a-b-1.parquet"), &log_files::batch(other), footer);
    let count = |flags: &[&str]| number(dir.path(), &[&[COUNT], flags].concat());
    assert_eq!(count(&[]), 250);
    assert_eq!((count(&["--model", "churn"]), count(&["--model", "a b/c%"])), (200, 50));
    assert_eq!(count(&["--version", "2"]), 100);
    assert_eq!(
        count(&["--from", "2026-01-31T09:00:30Z", "--to", "2026-01-31T10:00:10Z"]),
        20 + 70 + 10
    );
    let by_key = "select model, version, cast(date as text) as day, hour, count(*) as n from log group by 1, 2, 3, 4 order by 1, 2";
    let row = |model: &str, version: &str, hour: u32, n: u32| json!({"model": model, "version": version, "day": "2026-01-31", "hour": hour, "n": n});
    let expected =
        [row("a b/c%", "1", 9, 50), row("churn", "1", 9, 100), row("churn", "2", 10, 100)];
    assert_eq!(rows(dir.path(), &[by_key]), expected);
    // The damaged one is not looked into where its hour is not asked for.
    fs::write(odd.join("part-a-b-1.parquet"), "no Parquet").expect("written");
    assert_eq!(count(&["--model", "churn"]), 200);
    let said = refused(dir.path(), &[COUNT], 1, "not a readable Parquet file");
    assert!(said.contains("model=a%20b%2Fc%25"), "{said}");
}

/// A column of one name with a type for each version.
fn of_a_version(dir: &Path, version: &str, columns: Vec<(&str, ArrayRef)>) {
    let times: TimestampMicrosecondArray = [Some(NINE)].into_iter().collect();
    let mut all: Vec<(&str, ArrayRef)> = vec![("ts", Arc::new(times.with_timezone("UTC")))];
    all.extend(columns);
    let batch = RecordBatch::try_from_iter(all).expect("a batch");
    let hour = dir.join(format!("log/v1/model=m/version={version}/date=2026-01-31/hour=9"));
    fs::create_dir_all(&hour).expect("made");
    log_files::write_at(&hour.join("part-a-b-1.parquet"), &batch, None);
}

#[test]
fn versions_with_other_columns_are_neighbours() {
    let dir = empty();
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let whole = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
    let small: ArrayRef = Arc::new(arrow_array::Int32Array::from(vec![7]));
    let half: ArrayRef = Arc::new(arrow_array::Float32Array::from(vec![0.5]));
    of_a_version(
        dir.path(),
        "1",
        vec![("in_Age", small), ("in_x", half), ("in \"y\"", text("a")), ("in_z", text("b"))],
    );
    of_a_version(
        dir.path(),
        "2",
        vec![("in_Age", whole(1 << 40)), ("in_x", whole(3)), ("in_z", whole(4))],
    );
    let all = rows(
        dir.path(),
        &["select version, IN_age, in_x, \"in \"\"y\"\"\" as y from log order by 1"],
    );
    let expected = [
        json!({"version": "1", "in_Age": 7, "in_x": 0.5, "y": "a"}),
        json!({"version": "2", "in_Age": 1_i64 << 40, "in_x": 3.0, "y": null}),
    ];
    assert_eq!(all, expected);
    refused(
        dir.path(),
        &["select in_z from log"],
        2,
        "line 1, column 8: the column in_z is not in the table log: it is Utf8 in version 1 of model m and Int64 in version 2 of model m",
    );
    assert_eq!(rows(dir.path(), &["select in_z from log", "--version", "2"]), [json!({"in_z": 4})]);
}

#[test]
fn the_latest_label_of_a_key_counts() {
    let dir = empty();
    log_files::write(dir.path(), "part-a-b-1.parquet", Rows::numbered(0, 20));
    let store = Store::at(dir.path());
    let mut taken_back = label("k2", "1", 1);
    taken_back.deleted = true;
    let several =
        [label("k0", "0", 0), label("k1", "0", 0), label("k2", "1", 0), label("early", "1", 0)];
    store.put("churn", &several, NINE).expect("put");
    store.put("churn", &[label("k1", "5", 3), taken_back], NINE).expect("put");
    store.put("churn", &[label("k1", "4", 2)], NINE).expect("put");
    store.put("other", &[label("k3", "1", 0)], NINE).expect("put");
    let sql = |sql: &str| rows(dir.path(), &[sql]);
    let shown = sql(
        "select label_key as k, label as l, revision as r from labels where model = 'churn' order by 1",
    );
    let row = |key: &str, label: &str, revision: i64| json!({"k": key, "l": label, "r": revision});
    assert_eq!(shown, [row("early", "1", 0), row("k0", "0", 0), row("k1", "5", 3)]);
    let joined = sql(
        "select label_key as k, label as l, label_revision as r from labelled where label is not null order by 1",
    );
    // Of another model is of no row.
    assert_eq!(joined, [row("k0", "0", 0), row("k1", "5", 3)]);
    assert_eq!(number(dir.path(), &["select count(*) from labelled"]), 20);
    assert_eq!(number(dir.path(), &["select count(*) from label_revisions"]), 8);
    // Every tenth row failed, and waits for none.
    let ended = run(dir.path(), &["select count(*) from labelled"]);
    assert_eq!(ended.stderr, "onnxd: 2 of 18 answered rows have a label (coverage 0.1111)\n");
    assert_eq!(run(dir.path(), &[COUNT]).stderr, "");
    // Labels may come before every row.
    let early = empty();
    Store::at(early.path()).put("churn", &several, NINE).expect("put");
    fs::create_dir_all(early.path().join("log/v1")).expect("made");
    assert_eq!(number(early.path(), &["select count(*) from labels"]), 4);
    refused(early.path(), &["select * from labelled"], 4, "no row of the log is asked for");
}

/// Rows that take some hundred bytes each in memory: far more than the least limits.
fn many() -> TempDir {
    let dir = empty();
    for part in 0..4 {
        let name = format!("part-a-b-{part}.parquet");
        let rows = Rows {
            since: NINE - part * 3_600_000_000,
            ..Rows::numbered(part as usize * 25_000, 25_000)
        };
        let hour = dir
            .path()
            .join(format!("log/v1/model=churn/version=1/date=2026-01-31/hour={}", 9 - part));
        fs::create_dir_all(&hour).expect("made");
        log_files::write_at(
            &hour.join(name),
            &log_files::batch(rows),
            Some(log_files::footer(rows)),
        );
    }
    let labels: Vec<Label> = (0..50_000).map(|n| label(&format!("k{n}"), "1", 0)).collect();
    Store::at(dir.path()).put("churn", &labels, NINE).expect("put");
    dir
}

#[test]
fn what_memory_does_not_hold_waits_on_the_disk() {
    let dir = many();
    let limits = ["1GiB", "64MiB", "16MiB"];
    for sql in [
        "select label_key, event_id, model_digest, subject_key, in_a from log order by in_b, label_key",
        "select event_id, label_key, max(model_digest) as most, count(*) as n from log group by 1, 2 order by 2 limit 50",
        "select l.label_key, l.event_id, l.model_digest, label from labelled l order by 1 offset 100",
        "select date_trunc('hour', ts) as hour, count(*) as n, count(label) as labelled from labelled group by 1 order by 1",
    ] {
        let answers = limits.map(|limit| {
            let ended = run(dir.path(), &[sql, "--form", "csv", "--memory-limit", limit]);
            assert_eq!(ended.code, Some(0), "{limit}: {sql}: {}", ended.stderr);
            ended.stdout
        });
        assert!(answers[0].lines().count() > 3, "{sql}");
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "another answer within less: {sql}"
        );
    }
    // One value that takes more than there is cannot wait in parts.
    refused(
        dir.path(),
        &["select array_agg(model_digest) from log", "--memory-limit", "4MiB"],
        1,
        "--memory-limit 4MiB: it needs more",
    );
}

#[test]
fn an_answer_is_written_whole_or_not_at_all() {
    let dir = many();
    let out = dir.path().join("answer.parquet");
    let to = out.to_str().expect("UTF-8");
    let sql = "select label_key, ts, in_a, out_p, 1.5 as x from log order by 1";
    let ended = run(dir.path(), &[sql, "--form", "parquet", "--out", to]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    let opened = onnxd::predlog::reader::Opened::at(&out).expect("Parquet");
    assert_eq!(opened.rows, 100_000);
    let names: Vec<&String> = opened.schema.fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["label_key", "ts", "in_a", "out_p", "x"]);
    let before = fs::read(&out).expect("read");
    let fails = "select cast(label_key as int) from log";
    refused(dir.path(), &[fails, "--form", "parquet", "--out", to], 1, "try_cast");
    assert_eq!(fs::read(&out).expect("read"), before);
    let left: Vec<PathBuf> = fs::read_dir(dir.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && *path != out)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let table = run(dir.path(), &["select label_key from log"]);
    assert_eq!(table.stdout.lines().count(), 1001);
    assert!(table.stderr.contains("these are the first 1000 rows"), "{}", table.stderr);
}

/// Bytes of a file changed at every place in turn: an answer, or an error that names the file; never a panic.
#[test]
fn a_damaged_file_is_named() {
    let dir = empty();
    log_files::write(dir.path(), "part-a-b-1.parquet", Rows::numbered(0, 300));
    let hour = dir.path().join("log/v1/model=churn/version=1/date=2026-01-31/hour=9");
    let path = hour.join("part-a-b-1.parquet");
    let whole = fs::read(&path).expect("read");
    let query = "select count(*), max(in_a), max(label_key), max(ts), sum(out_p[1]) from log where in_b < 0";
    for round in 0..60_usize {
        let mut damaged = whole.clone();
        let at = (round * 7919 + round * round * 31) % damaged.len();
        match round % 3 {
            0 => damaged[at] ^= 0x55,
            1 => damaged[at..(at + 64).min(whole.len())].fill(0xff),
            _ => damaged.truncate(at),
        }
        fs::write(&path, damaged).expect("written");
        let ended = run(dir.path(), &[query]);
        let said = ended.stderr;
        assert!(!said.contains("panicked"), "{round}: {said}");
        assert!(
            ended.code == Some(0) || (ended.code == Some(1) && said.contains("part-a-b-1.parquet")),
            "{round}: {:?}: {said}",
            ended.code
        );
    }
}
