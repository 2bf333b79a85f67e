//! Large tensors of the prediction log as files of their own: read by others, replayed, checked, uploaded, erased and expired with their
//! rows, by the real binaries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    files::{Home, below, root, script, succeed, target},
    http::{four, infer},
    s3::S3,
    server::{Ended, Server, run_to_end},
    watch::{metric, to_upload, until, uploaded},
};

/// Sixteen bytes in and out are large here.
fn home() -> Home {
    let home = Home::of(&["versioned"]);
    fs::write(home.path().join("key"), "0123456789abcdef").expect("written");
    home.yaml(
        "versioned",
        "versions: [1]\nlog: {enabled: true, max_inline_bytes: 8, large: blob, subject: user}\n",
    )
}

fn command(home: &Home) -> Command {
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_PREDICTION_LOG_KEY_FILE", home.path().join("key"));
    command.env("ONNXD_PREDICTION_LOG_FLUSH_MS", "5");
    command
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

fn ask(server: &Server, user: &str, n: f64) {
    let mut body = four(n);
    body["id"] = format!("{user}-{n}").into();
    body["parameters"] = json!({"user": user, "label_key": format!("{user}-{n}")});
    let answer = infer(&server.http, "versioned", "", &body);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

/// `onnxd` with these words, on a log.
fn onnxd(args: &[&str], log: &Path) -> Ended {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_onnxd"));
    let there = own.with_file_name("onnxd-offline").is_file();
    assert!(there, "onnxd-offline is not built beside onnxd: build with --workspace");
    run_to_end(Command::new(own).args(args).args(["--output", "json", "--dir"]).arg(log))
}

fn good(args: &[&str], log: &Path) -> Value {
    let ended = onnxd(args, log);
    assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// The blobs below a log's directory.
fn blobs(root: &Path) -> Vec<PathBuf> {
    let of_blobs = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("_blobs"));
    below(root).into_iter().filter(of_blobs).collect()
}

/// Answers of a server that logs: for each of these, and its rows in files.
fn logged(asked: &[(&str, f64)]) -> Home {
    let home = home();
    let server = Server::launch(&mut command(&home));
    for (user, n) in asked {
        ask(&server, user, *n);
    }
    let last = asked.len() as f64;
    until("all are written", || {
        metric(&server, "onnxd_predlog_rows_written_total", &["model=\"versioned\""]) >= last
    });
    assert!(metric(&server, "onnxd_predlog_blobs_total", &[]) >= 2.0);
    assert!(metric(&server, "onnxd_predlog_blob_bytes_total", &[]) >= 32.0);
    server.stop();
    home
}

#[test]
fn large_tensors_are_files_that_others_read_and_that_are_replayed() {
    script("setup-tests.sh");
    let home = logged(&[("a", 0.0), ("a", 1.5), ("b", 0.0), ("b", -3.0)]);
    let log = log_of(&home);
    // Of X: 0, 1.5 and -3. Of Y: one more than each.
    assert_eq!(blobs(&log).len(), 6);
    let mut python = Command::new(target().join("venv-readers/bin/python"));
    python.arg(root().join("tests/readers/blobs.py")).arg(&log);
    let said = succeed(python.args(["versioned", "in_X"]), "blobs.py");
    let rows: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let row = |id: &str, n: f64| json!([id, [n, n, n, n]]);
    assert_eq!(rows, [row("a-0", 0.0), row("a-1.5", 1.5), row("b-0", 0.0), row("b--3", -3.0)]);
    assert_eq!(good(&["log", "verify"], &log)["problems"], json!([]));
    let repository = home.repository();
    let base = ["replay", "--model", "versioned", "--models", repository.to_str().expect("UTF-8")];
    let same = good(&[&base[..], &["--version", "1", "--same"]].concat(), &log);
    assert_eq!(
        (&same["rows"]["compared"], &same["rows"]["beyond"]),
        (&json!(4), &json!(0)),
        "{same:#}"
    );

    assert_eq!(same["columns"]["out_Y_ref"]["exact"], json!(4), "{same:#}");

    // What a disk made of one, and what somebody removed.
    let all = blobs(&log);
    fs::write(&all[0], b"sixteen bytes...").expect("written");
    let ended = onnxd(&["log", "verify"], &log);
    assert_eq!(ended.code, Some(3));
    assert!(
        ended.stdout.contains("refer to blobs that do not hold what they name"),
        "{}",
        ended.stdout
    );
    all.iter().for_each(|path| fs::remove_file(path).expect("removed"));
    let ended = onnxd(&["log", "verify"], &log);
    assert!(ended.stdout.contains("8 cells refer to blobs that are not there"), "{}", ended.stdout);
    let ended = onnxd(&[&base[..], &["--version", "1", "--same"]].concat(), &log);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("a blob of it is there no more"),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
}

/// What she alone sent goes with her rows, while the server runs and from the files; what others sent as well stays.
#[test]
fn erasure_takes_the_blobs_that_nobody_else_refers_to() {
    let home = logged(&[("alice", 1.0), ("alice", 2.5), ("bob", 2.5)]);
    let log = log_of(&home);
    let key = home.path().join("key").display().to_string();
    let args = ["log", "erase", "--subject", "alice", "--key-file", &key];
    assert_eq!(blobs(&log).len(), 4);
    let server = Server::launch(&mut command(&home));
    ask(&server, "alice", 7.0);
    ask(&server, "bob", 8.5);
    until("they are ahead", || {
        metric(&server, "onnxd_predlog_rows_written_total", &["model=\"versioned\""]) >= 2.0
    });
    let planned = good(&[&args[..], &["--dry-run"]].concat(), &log);
    assert_eq!(planned["blobs"].as_array().map(Vec::len), Some(4), "{planned:#}");
    let before = blobs(&log).len();
    let done = good(&args, &log);
    // X and Y of 1 and 7; not those of 2.5, which bob sent as well.
    assert_eq!(done["blobs"].as_array().map(Vec::len), Some(4), "{done:#}");
    assert_eq!(blobs(&log).len(), before - 4);
    // She asks again: her row is left out, and what it brought.
    ask(&server, "alice", 9.0);
    server.stop();
    let left = blobs(&log).len();
    assert_eq!(left, before - 4, "of bob's 2.5 and 8.5");
    assert_eq!(good(&["log", "verify"], &log)["problems"], json!([]));
}

#[test]
fn a_data_set_brings_them_along_and_retention_takes_them() {
    let asked: Vec<(&str, f64)> = (0..60).map(|n| ("u", f64::from(n))).collect();
    let home = logged(&asked);
    let log = log_of(&home);
    let labels: String = (0..60).map(|n| format!("u-{n},{}\n", n % 2)).collect();
    let file = home.path().join("labels.csv");
    fs::write(&file, format!("label_key,label\n{labels}")).expect("written");
    let file = file.to_str().expect("UTF-8");
    good(&["labels", "import", "--model", "versioned", file], &log);
    let out = home.path().join("set");
    let built =
        ["dataset", "build", "--model", "versioned", "--maturity", "0s", "--gap", "0s", "--out"];
    let built = good(&[&built[..], &[out.to_str().expect("UTF-8")]].concat(), &log);
    let brought = &built["blobs"];
    assert_eq!(
        (&brought["files"], &brought["bytes"], &brought["gone"]),
        (&json!(60), &json!(960), &json!(0)),
        "{built:#}"
    );
    let kept = fs::read_dir(out.join("train/blobs")).expect("blobs of what trains").count();
    assert!((1..60).contains(&kept), "{kept}");

    let planned = good(&["log", "expire", "--max-bytes", "1", "--dry-run"], &log);
    let files = planned["files"].as_array().expect("a list");
    assert!(
        files
            .last()
            .is_some_and(|last| last["file"].as_str().is_some_and(|f| f.ends_with("_blobs"))),
        "{planned:#}"
    );
    assert_eq!(blobs(&log).len(), 2 * 60 - 59, "Y of one row is X of the next");
    let none = good(&["log", "expire", "--max-age", "1h", "--dry-run"], &log);
    assert_eq!(none["files"], json!([]));
    let done = good(&["log", "expire", "--max-bytes", "1"], &log);
    assert_eq!((&done["files"], &done["done"]), (&planned["files"], &json!(true)));
    assert_eq!(blobs(&log), Vec::<PathBuf>::new());
    assert!(
        fs::read_dir(log.join("log/v1/model=versioned/version=1"))
            .is_ok_and(|mut d| d.next().is_none())
    );
    let ended = onnxd(&["log", "expire"], &log);
    assert_eq!(ended.code, Some(2), "no policy: {}", ended.stderr);
    for (age, why) in [("5m", "expected an hour or more"), ("soon", "--max-age")] {
        let ended = onnxd(&["log", "expire", "--max-age", age], &log);
        assert!(ended.code == Some(2) && ended.stderr.contains(why), "{}", ended.stderr);
    }
}

/// Blobs are in the store before the rows that refer to them; what an erasure takes goes from there as well, and what retention takes
/// here stays there.
#[test]
fn they_go_up_before_their_rows_and_come_down_with_an_erasure() {
    const PREFIX: &str = "logs";
    let home = home();
    let store = S3::start();
    let mut command = command(&home);
    store.known_to(&mut command).env("ONNXD_PREDICTION_LOG_ROTATE_SECONDS", "1");
    command.env("ONNXD_PREDICTION_LOG_UPLOAD_URI", format!("s3://models/{PREFIX}"));
    let server = Server::launch(&mut command);
    ask(&server, "alice", 1.0);
    ask(&server, "bob", 5.0);
    until("rows and blobs are up", || uploaded(&server) >= 6.0 && to_upload(&server) == 0.0);
    let log = log_of(&home);
    let fetched = home.path().join("fetched");
    store.fetch(PREFIX, &fetched);
    let below = |root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let of = |path: &PathBuf| {
            let own = path.strip_prefix(root).expect("below").to_owned();
            (own, fs::read(path).expect("read"))
        };
        blobs(root).iter().map(of).collect()
    };
    assert_eq!((below(&fetched), below(&fetched).len()), (below(&log), 4));
    let key = home.path().join("key").display().to_string();
    let done = good(&["log", "erase", "--subject", "alice", "--key-file", &key], &log);
    assert_eq!(done["blobs"].as_array().map(Vec::len), Some(2), "{done:#}");
    until("the store is as the disk is", || {
        metric(&server, "onnxd_predlog_upload_objects_removed_total", &[]) >= 2.0
            && to_upload(&server) == 0.0
    });
    let again = home.path().join("again");
    store.fetch(PREFIX, &again);
    assert_eq!((below(&again), below(&again).len()), (below(&log), 2));
    let done = good(&["log", "expire", "--max-bytes", "1"], &log);
    assert!(
        done["files"]
            .as_array()
            .is_some_and(|files| files.iter().all(|file| file["reason"] == "size")),
        "{done:#}"
    );
    assert_eq!(blobs(&log), Vec::<PathBuf>::new());
    // A look at everything later, which is told of by what is asked then.
    ask(&server, "bob", 8.0);
    let before = uploaded(&server);
    until("the next row is up", || uploaded(&server) > before && to_upload(&server) == 0.0);
    server.stop();
    let kept = home.path().join("kept");
    store.fetch(PREFIX, &kept);
    assert!(below(&kept).len() >= 4, "{:?}", blobs(&kept));
}
