//! Drives the real binary over logs and labels that are known.

#[path = "../../tests/support/log_files.rs"]
mod log_files;
#[path = "support/wine.rs"]
mod wine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use arrow_array::{Array, Float64Array, StringArray, TimestampMicrosecondArray};
use log_files::{NINE, Rows};
use onnxd::predlog::{
    labels::store::Store,
    reader::{Filter, Log, Opened, rows},
};
use onnxd_offline::replay::{
    compare::Tolerance,
    run::{Options, run as replay},
};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str], dir: &Path) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-offline"));
    command.env_remove("ONNXD_PREDICTION_LOG_DIR").env_remove("ONNXD_CONFIG");
    let out = command.args(args).arg("--dir").arg(dir).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

fn good(args: &[&str], dir: &Path) -> Value {
    let ended = run(&[args, &["--output", "json"]].concat(), dir);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn refused(args: &[&str], dir: &Path, code: i32, complaint: &str) {
    let ended = run(args, dir);
    assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
    assert!(ended.stderr.contains(complaint), "{args:?}: {}", ended.stderr);
}

/// Rows of four hours, 600 each.
fn log() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for hour in 0..4 {
        log_files::write(dir.path(), "part-n-b-1.parquet", Rows::numbered(hour * 3600, 300));
        log_files::write(dir.path(), "part-n-b-2.parquet", Rows::numbered(hour * 3600 + 300, 300));
    }
    dir
}

fn numbers() -> impl Iterator<Item = usize> {
    (0..4).flat_map(|hour| hour * 3600..hour * 3600 + 600)
}

/// A label that no feature tells alone.
fn label(n: usize) -> usize {
    (n.wrapping_mul(2_654_435_761) >> 7) % 2
}

fn time(us: i64) -> String {
    onnxd::predlog::value::time_text(us)
}

/// Labels of every row, a minute after it, as CSV.
fn labels(dir: &Path, of: impl Fn(usize) -> String) -> PathBuf {
    let mut text = "label_key,label,ts_label,note\n".to_owned();
    for n in numbers() {
        text += &format!("k{n},{},{},x\n", of(n), time(NINE + n as i64 * 1_000_000 + 60_000_000));
    }
    let path = dir.join("labels.csv");
    fs::write(&path, text).expect("written");
    path
}

fn import(dir: &Path, file: &Path) -> Value {
    good(&["labels", "import", file.to_str().expect("UTF-8"), "--model", "churn"], dir)
}

fn labelled() -> TempDir {
    let dir = log();
    let file = labels(dir.path(), |n| label(n).to_string());
    import(dir.path(), &file);
    dir
}

#[test]
fn labels_are_imported_once_and_corrected() {
    let dir = log();
    let file = labels(dir.path(), |n| label(n).to_string());
    let first = import(dir.path(), &file);
    let counts = json!({"labels": 2400, "written": 2400, "known": 0, "ignored_fields": ["note"]});
    assert_eq!(first, counts);
    assert_eq!(import(dir.path(), &file)["known"], json!(2400));
    let fix = dir.path().join("fix.jsonl");
    fs::write(&fix, "{\"id\": \"k0\", \"left\": \"other\", \"revision\": 1}\n{\"id\": \"k1\", \"deleted\": true, \"revision\": 1}\n").expect("written");
    let args = [
        "labels",
        "import",
        fix.to_str().expect("UTF-8"),
        "--model",
        "churn",
        "--key",
        "id",
        "--label",
        "left",
    ];
    assert_eq!(good(&args, dir.path())["written"], json!(2));
    assert_eq!(good(&args, dir.path())["known"], json!(2), "labels without a time are known too");
    let resolved = Store::at(dir.path()).resolved("churn").expect("read");
    assert_eq!(resolved.len(), 2399);
    assert_eq!(resolved.of("k0", i64::MAX / 2, 0).and_then(|l| l.label.as_deref()), Some("other"));
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let dir = log();
    let file = dir.path().join("bad.csv");
    fs::write(&file, "label_key,label,revision\na,1,0\nb,1,first\n").expect("written");
    let name = file.to_str().expect("UTF-8");
    refused(
        &["labels", "import", name, "--model", "churn"],
        dir.path(),
        1,
        "row 2: revision: expected a whole number, got \"first\"",
    );
    assert!(!dir.path().join("labels").exists());
    refused(&["labels", "import", "labels.txt", "--model", "churn"], dir.path(), 2, "--form");
    refused(&["labels", "import", "none.csv", "--model", "churn"], dir.path(), 1, "none.csv: ");
}

#[test]
fn coverage_counts_rows_that_wait_for_a_label() {
    let dir = labelled();
    let extra = dir.path().join("extra.json");
    fs::write(&extra, "[{\"label_key\": \"nobody\", \"label\": 1}]").expect("written");
    import(dir.path(), &extra);
    let shown = good(&["labels", "coverage", "--model", "churn", "--by", "1h"], dir.path());
    assert_eq!(shown["windows"].as_array().map(Vec::len), Some(4));
    // One of ten rows failed, and waits for no label.
    assert_eq!((&shown["rows"], &shown["labelled"]), (&json!(2160), &json!(2160)));
    assert_eq!(shown["delay_seconds"]["p90"], json!(60));
    // Labels of the rows that failed, and of nobody.
    assert_eq!(shown["labels_without_row"], json!(241));
    let strict = good(&["labels", "coverage", "--model", "churn", "--horizon", "59s"], dir.path());
    assert_eq!(strict["labelled"], json!(0));
    refused(&["labels", "coverage", "--model", "none"], dir.path(), 4, "no row of model none");
}

fn built(dir: &Path, name: &str, more: &[&str]) -> (Value, PathBuf) {
    let out = dir.join(name);
    let args = ["dataset", "build", "--model", "churn", "--out", out.to_str().expect("UTF-8")];
    (good(&[&args, more].concat(), dir), out)
}

fn slice(path: &Path) -> (Vec<i64>, Vec<String>) {
    let (mut at, mut keys) = (Vec::new(), Vec::new());
    for batch in Opened::at(path).expect("there").batches(None).expect("read") {
        let batch = batch.expect("whole");
        let of = |name: &str| batch.column_by_name(name).expect("a column").clone();
        let ts = of("ts");
        at.extend_from_slice(
            ts.as_any().downcast_ref::<TimestampMicrosecondArray>().expect("times").values(),
        );
        let texts = of("label_key");
        let texts = texts.as_any().downcast_ref::<StringArray>().expect("texts");
        keys.extend(texts.iter().flatten().map(str::to_owned));
        let weights = of("sample_weight");
        let weights = weights.as_any().downcast_ref::<Float64Array>().expect("numbers");
        assert!(weights.values().iter().all(|w| *w == 2.0), "half of the rows were sampled");
        let names = of("label");
        let names = names.as_any().downcast_ref::<StringArray>().expect("texts");
        for (key, label) in texts.iter().zip(names) {
            let n: usize = key.expect("a key")[1..].parse().expect("a number");
            assert_eq!(label, Some(self::label(n).to_string().as_str()));
            assert_eq!(log_files::status(n), 200);
        }
        assert!(batch.column_by_name("pred_score").is_none(), "an answer is no feature");
    }
    (at, keys)
}

#[test]
fn a_data_set_is_cut_by_time_with_a_gap() {
    let dir = labelled();
    let (manifest, out) = built(dir.path(), "set", &[]);
    let minute = 60_000_000;
    assert_eq!(manifest["query"]["maturity_us"], json!(minute));
    let (train, keys) = slice(&out.join("train/part-0.parquet"));
    let (valid, more) = slice(&out.join("valid/part-0.parquet"));
    let (test, rest) = slice(&dir.path().join("set-withheld/test/part-0.parquet"));
    assert!(train.is_sorted() && valid.is_sorted() && test.is_sorted());
    assert!(
        train[train.len() - 1] + minute < valid[0] && valid[valid.len() - 1] + minute < test[0]
    );
    assert!(!out.join("test").exists());
    let all: std::collections::BTreeSet<&String> = keys.iter().chain(&more).chain(&rest).collect();
    assert_eq!(all.len(), keys.len() + more.len() + rest.len(), "no key is in twice");
    let left: u64 =
        manifest["left_out"].as_object().expect("a map").values().filter_map(Value::as_u64).sum();
    assert_eq!(all.len() as u64 + left, 2400, "every row is in, or left out for a reason");
    assert_eq!(manifest["left_out"]["not_ok"], json!(240));
    let on_disk: Value =
        serde_json::from_slice(&fs::read(out.join("manifest.json")).expect("there")).expect("JSON");
    assert_eq!(on_disk, manifest);
    let signature: Value =
        serde_json::from_slice(&fs::read(out.join("signature.json")).expect("there"))
            .expect("JSON");
    assert_eq!(
        signature["inputs"][0],
        json!({"name": "x", "datatype": "FP32", "columns": ["in_a", "in_b"]})
    );
}

/// Puts the files of each hour together.
fn compact(root: &Path) {
    let log = Log::open(root).expect("a log");
    let merges =
        onnxd::predlog::compact::plan(&log, &Filter::default(), &Default::default(), i64::MAX / 2);
    let merges = merges.expect("planned");
    assert!(!merges.is_empty(), "there is nothing to put together");
    for merge in merges {
        onnxd::predlog::compact::run(&merge).expect("merged");
    }
}

#[test]
fn the_same_log_gives_the_same_id_however_its_files_lie() {
    let dir = labelled();
    let (first, _) = built(dir.path(), "one", &[]);
    compact(dir.path());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let out = elsewhere.path().join("two");
    let args = ["dataset", "build", "--model", "churn", "--out", out.to_str().expect("UTF-8")];
    let second = good(&args, dir.path());
    assert_ne!(first["log_files"], second["log_files"]);
    assert_eq!(first["id"], second["id"]);
    let (other, _) = built(dir.path(), "three", &["--features", "in_b"]);
    assert_ne!(first["id"], other["id"]);
    // So little that keys are set aside in parts, and rows of an hour in sorted files.
    let (small, out) = built(dir.path(), "four", &["--memory-limit", "1MiB"]);
    assert_eq!((&first["id"], &first["left_out"]), (&small["id"], &small["left_out"]));
    assert!(!out.join("aside").exists(), "what was set aside is left");
}

#[test]
fn groups_do_not_train_and_test() {
    let dir = labelled();
    let (manifest, out) = built(dir.path(), "set", &["--group", "subject_key"]);
    // Seven subjects, all of whom train: nothing is left to validate with.
    let slices: Vec<&Value> =
        manifest["files"].as_array().expect("a list").iter().map(|f| &f["slice"]).collect();
    assert_eq!(slices, [&json!("train")]);
    assert!(manifest["left_out"]["group_in_train"].as_u64().is_some_and(|n| n > 300));
    assert!(!out.join("valid").exists());
}

#[test]
fn a_column_that_gives_the_label_away_is_refused() {
    let dir = log();
    let file = labels(dir.path(), |n| n.to_string());
    import(dir.path(), &file);
    let out = dir.path().join("set");
    let args = ["dataset", "build", "--model", "churn", "--out", out.to_str().expect("UTF-8")];
    refused(&args, dir.path(), 3, "in_a: its correlation with the label is 1.0000");
    assert!(!out.exists() && !out.with_extension("part").exists());
    let mut more = args.to_vec();
    more.push("--allow-leaks");
    let manifest = good(&more, dir.path());
    assert_eq!(manifest["suspect_columns"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_makes_no_data_set_is_said() {
    let dir = log();
    let out = dir.path().join("set");
    let args = ["dataset", "build", "--model", "churn", "--out", out.to_str().expect("UTF-8")];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    refused(&args, dir.path(), 4, "model churn has no label");
    let file = labels(dir.path(), |n| label(n).to_string());
    import(dir.path(), &file);
    refused(
        &with(&["--gap", "59s"]),
        dir.path(),
        2,
        "--gap: expected at least the maturity, 60 s, got 59 s",
    );
    refused(
        &with(&["--features", "in_c"]),
        dir.path(),
        2,
        "in_c is no feature of the log: in_a, in_b",
    );
    refused(&with(&["--valid", "0.5", "--test", "0.5"]), dir.path(), 2, "--valid and --test");
    refused(
        &with(&["--routes", "shadow"]),
        dir.path(),
        4,
        "2160 rows seen".replace("2160", "2400").as_str(),
    );
    fs::create_dir(&out).expect("made");
    refused(&args, dir.path(), 2, "is there already");
}

fn subjects(dir: &Path) -> Vec<String> {
    let log = Log::open(dir).expect("a log");
    let filter = Filter::default();
    let columns = ["subject_key".to_owned()];
    let mut all = Vec::new();
    for file in log.files(&filter).expect("listed") {
        for batch in rows(&file, &filter, Some(&columns)).expect("opened") {
            let batch = batch.expect("read");
            let column = batch.column_by_name("subject_key").expect("there").clone();
            let texts = column.as_any().downcast_ref::<StringArray>().expect("texts");
            all.extend(texts.iter().flatten().map(str::to_owned));
        }
    }
    all
}

#[test]
fn a_subject_is_written_out_of_rows_and_labels() {
    let dir = labelled();
    let (_, set) = built(dir.path(), "set", &[]);
    let set = set.to_str().expect("UTF-8");
    let args = ["log", "erase", "--subject-key", "subject-3", "--datasets", set];
    let of_three = numbers().filter(|n| log_files::subject(*n) == "subject-3").count();
    let sum = |files: &Value| -> u64 {
        files.as_array().expect("a list").iter().filter_map(|f| f["rows_erased"].as_u64()).sum()
    };
    let planned = good(&[&args[..], &["--dry-run"]].concat(), dir.path());
    assert_eq!((sum(&planned["log"]), &planned["done"]), (of_three as u64, &json!(false)));
    assert_eq!(subjects(dir.path()).len(), 2400);
    let evidence = good(&args, dir.path());
    assert_eq!(
        (sum(&evidence["log"]), sum(&evidence["labels"])),
        (of_three as u64, of_three as u64)
    );
    assert_eq!(
        (&evidence["tainted_datasets"], &evidence["versions"]),
        (&json!([set]), &json!(["churn/1"]))
    );
    let file = &evidence["log"][0];
    let after =
        onnxd::predlog::digest::file(&dir.path().join(file["file"].as_str().expect("a name")));
    assert_eq!(file["sha256_after"], json!(after.expect("there")));
    assert_ne!(file["sha256_after"], file["sha256_before"]);
    let left = subjects(dir.path());
    assert_eq!(left.len(), 2400 - of_three);
    assert!(!left.contains(&"subject-3".to_owned()));
    assert_eq!(Store::at(dir.path()).resolved("churn").expect("read").len(), 2400 - of_three);
    assert!(
        good(&args[..4], dir.path())["log"].as_array().is_some_and(Vec::is_empty),
        "done is done"
    );
}

#[test]
fn rows_that_come_after_an_erasure_are_in_no_data_set_and_go_with_the_next() {
    let dir = labelled();
    good(&["log", "erase", "--subject-key", "subject-3"], dir.path());
    log_files::write(dir.path(), "part-late.parquet", Rows::numbered(600, 70));
    let late = dir.path().join("late.csv");
    let text: String = (600..670)
        .map(|n| format!("k{n},{},{}\n", label(n), time(NINE + n as i64 * 1_000_000 + 60_000_000)))
        .collect();
    fs::write(&late, format!("label_key,label,ts_label\n{text}")).expect("written");
    import(dir.path(), &late);
    let (manifest, _) = built(dir.path(), "set", &[]);
    assert_eq!(
        manifest["left_out"]["erased"],
        json!(
            (600..670)
                .filter(|n| log_files::subject(*n) == "subject-3" && log_files::status(*n) == 200)
                .count()
        )
    );
    let again = good(&["log", "erase", "--again"], dir.path());
    assert_eq!(again["log"].as_array().map(Vec::len), Some(1));
    assert!(!subjects(dir.path()).contains(&"subject-3".to_owned()));
}

#[test]
fn a_subject_is_found_by_its_name_and_the_key() {
    let dir = log();
    let key = dir.path().join("key");
    fs::write(&key, "0123456789abcdef\n").expect("written");
    let key = key.to_str().expect("UTF-8");
    let done = good(&["log", "erase", "--subject", "4711", "--key-file", key], dir.path());
    let hash = onnxd::predlog::redact::Key::new(b"0123456789abcdef")
        .expect("a key")
        .hash("subject", b"4711");
    assert_eq!(done["subject_keys"], json!([hash]));
    refused(&["log", "erase"], dir.path(), 2, "whom?");
    refused(&["log", "erase", "--subject", "4711"], dir.path(), 2, "--key-file");
}

/// A log of so many wines, and where the models are.
fn wines(count: usize) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    wine::write(dir.path(), count);
    (dir, wine::models().to_str().expect("UTF-8").to_owned())
}

#[test]
fn a_replay_of_the_same_version_is_the_same_and_of_another_is_not() {
    let (dir, models) = wines(150);
    let base = ["replay", "--model", "wine", "--models", &models];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    // The binary may find another runtime than the test did: the last digits may be others.
    let same = good(&with(&["--version", "1", "--same", "--max-flips", "0"]), dir.path());
    assert_eq!(same["rows"]["compared"], json!(150));
    assert_eq!(
        (&same["rows"]["beyond"], &same["rows"]["flips"]),
        (&json!(0), &json!(0)),
        "{same:#}"
    );
    let batched =
        good(&with(&["--version", "1", "--same", "--batch", "16", "--limit", "100"]), dir.path());
    assert_eq!(
        (&batched["rows"]["compared"], &batched["rows"]["beyond"]),
        (&json!(100), &json!(0))
    );
    assert_eq!(batched["requests"], json!(7));
    let report = dir.path().join("report.json");
    let page = dir.path().join("page.html");
    let mut args = with(&["--version", "2", "--max-flips", "0", "--report"]);
    args.extend([report.to_str().expect("UTF-8"), "--page", page.to_str().expect("UTF-8")]);
    refused(&args, dir.path(), 3, "decisions are others");
    let report: Value = serde_json::from_slice(&fs::read(&report).expect("written")).expect("JSON");
    assert_eq!(report["rows"]["compared"], json!(150));
    assert!(report["rows"]["flips"].as_u64().is_some_and(|n| n > 0));
    assert!(report["worst"].as_array().is_some_and(|worst| worst.len() == 20));
    assert!(fs::read_to_string(&page).expect("written").contains("Replay of wine"));
    refused(&with(&["--version", "9"]), dir.path(), 1, "model wine has no version 9; it has 1, 2");
    refused(
        &with(&["--version", "1", "--from", "1h"]),
        dir.path(),
        4,
        "no answer could be compared",
    );
}

#[test]
fn a_replay_is_the_same_after_a_compaction() {
    let (dir, models) = wines(250);
    let args = ["replay", "--model", "wine", "--models", &models, "--version", "2"];
    let mut before = good(&args, dir.path());
    assert_eq!(before["rows"]["compared"], json!(250));
    compact(dir.path());
    let mut after = good(&args, dir.path());
    for report in [&mut before, &mut after] {
        for timed in ["seconds", "answer_us"] {
            report.as_object_mut().expect("a report").remove(timed);
        }
    }
    assert_eq!(after, before);
}

#[test]
fn in_one_process_a_replay_is_exact() {
    let (dir, _) = wines(150);
    let filter = Filter::default();
    let files = Log::open(dir.path()).expect("a log").files(&filter).expect("listed");
    let options = Options {
        batch: 1,
        limit: u64::MAX,
        speed: None,
        tolerance: Tolerance { absolute: 0.0, relative: 0.0 },
        routes: vec!["primary".to_owned()],
    };
    let outcome = replay(&files, &filter, (&mut wine::first(), &options), |_| ()).expect("read");
    let found = &outcome.findings;
    assert_eq!((found.rows, found.exact, found.flips), (150, 150, 0), "{:?}", found.worst);
}
