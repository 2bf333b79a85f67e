//! Files of the prediction log in an S3-compatible store: every one once, whatever is down or restarted meanwhile, and read by others.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    files::{Home, below, root, script, succeed, target},
    http::{four, infer},
    log_files::{self, Rows},
    s3::S3,
    server::{Server, compact},
    watch::{metric, to_upload, until, uploaded},
};

const PREFIX: &str = "logs/of this";

/// Logs everything, makes files of it every second, and puts them into the store, which it does not trust for long.
fn command(home: &Home, store: &S3) -> Command {
    let mut command = Server::command(home.path(), &home.repository());
    store.known_to(&mut command).envs([
        ("ONNXD_DEFAULTS_LOG_ENABLED", "true"),
        ("ONNXD_PREDICTION_LOG_ROTATE_SECONDS", "1"),
        ("ONNXD_PREDICTION_LOG_UPLOAD_TIMEOUT_MS", "300"),
    ]);
    command.env("ONNXD_PREDICTION_LOG_UPLOAD_URI", format!("s3://models/{PREFIX}"));
    command
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

fn ask(server: &Server, id: &str, n: f64) {
    let mut body = four(n);
    body["id"] = id.into();
    assert_eq!(infer(&server.http, "versioned", "", &body).status, 200);
}

/// The files of rows below a directory, as they are named below it.
fn parts(root: &Path) -> BTreeSet<String> {
    let parts =
        below(root).into_iter().filter(|path| path.extension().is_some_and(|e| e == "parquet"));
    parts
        .map(|path| path.strip_prefix(root).expect("below").to_str().expect("text").to_owned())
        .collect()
}

/// Every closed file is in the store once: with the store there, with the store silent and back, and after a restart meanwhile.
/// What is fetched from there, pandas, polars and DuckDB read like the log itself.
#[test]
fn every_closed_file_is_in_the_store_once() {
    script("setup-tests.sh");
    let home = Home::of(&["versioned"]).yaml("versioned", "versions: [1]\n");
    let store = S3::start();
    let server = Server::launch(&mut command(&home, &store));
    let mut rows: Vec<Value> = Vec::new();
    let mut ask = |server: &Server, n: usize| {
        let id = format!("r{n}");
        ask(server, &id, n as f64);
        let n = n as f64;
        let columns = json!({"in_X": [n, n, n, n], "out_Y": [n + 1.0, n + 1.0, n + 1.0, n + 1.0]});
        rows.push(json!({"request_id": id, "row": 0, "columns": columns}));
    };
    ask(&server, 0);
    until("the first file is up", || uploaded(&server) >= 1.0 && to_upload(&server) == 0.0);
    assert_eq!(metric(&server, "onnxd_predlog_upload_lag_seconds", &[]), 0.0);

    store.pause(true);
    ask(&server, 1);
    until("it is noticed", || {
        let labels = ["reason=\"unreachable\""];
        metric(&server, "onnxd_predlog_upload_failures_total", &labels) >= 1.0
    });
    assert!(to_upload(&server) >= 1.0);
    ask(&server, 2);
    assert!(server.said().contains("cannot be put into the object store"), "{}", server.said());
    assert!(!server.said().contains("a-secret-of-the-test"));
    let mut server = server;
    server.terminate();
    server.ended_well();
    assert!(server.said().contains("the next start goes on"), "{}", server.said());
    store.pause(false);

    let server = Server::launch(&mut command(&home, &store));
    until("the rest is up", || uploaded(&server) >= 1.0 && to_upload(&server) == 0.0);
    let before = uploaded(&server);
    ask(&server, 3);
    until("the last row is up", || uploaded(&server) > before && to_upload(&server) == 0.0);
    server.stop();
    let fetched = home.path().join("fetched");
    let keys = store.fetch(PREFIX, &fetched);
    assert_eq!(parts(&fetched), parts(&log_of(&home)));
    for part in parts(&fetched) {
        let read = |root: &Path| fs::read(root.join(&part)).expect("readable");
        assert_eq!(read(&fetched), read(&log_of(&home)), "{part}");
    }
    let accounts = keys.iter().filter(|key| key.contains("/_manifest/")).count();
    assert!(accounts >= 1, "of the first start: {keys:?}");
    let list = home.path().join("expected.json");
    fs::write(&list, Value::from(rows).to_string()).expect("written");
    let mut read = Command::new(target().join("venv-readers/bin/python"));
    read.arg(root().join("tests/readers/same.py")).arg(&fetched).arg(&list);
    println!("{}", succeed(&mut read, "same.py"));
}

/// What `onnxd log compact` replaces goes from the store, once what replaces it is there.
#[test]
fn a_compaction_reaches_the_store() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    for n in 0..3 {
        log_files::write(
            &log_of(&home),
            &format!("part-n-b-{n}.parquet"),
            Rows::numbered(n * 10, 10),
        );
    }
    let server = Server::launch(&mut command(&home, &store));
    until("they are up", || uploaded(&server) == 3.0 && to_upload(&server) == 0.0);
    compact(&server, &log_of(&home), 3.0);
    server.stop();
    let fetched = home.path().join("fetched");
    store.fetch(PREFIX, &fetched);
    let left = parts(&fetched);
    assert_eq!(left, parts(&log_of(&home)));
    assert!(left.len() == 1 && left.iter().all(|part| part.contains("compact")), "{left:?}");
}
