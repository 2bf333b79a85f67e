//! Labels of logged predictions, as a running server takes them in: over its operator's port, and from a folder.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::{
    files::{Home, below, root, script, succeed, target},
    grpc::{self, Grpc},
    http::{self, Answer, Http, infer},
    server::{Server, run_to_end},
    watch::{metric, until},
};

const MODEL: &str = "versioned";

fn home() -> Home {
    Home::of(&[MODEL, "identity_bytes"]).yaml(MODEL, "versions: [1]\nlog: {enabled: true}\n")
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

fn ask(server: &Server, id: &str) {
    let mut body = http::four(1.0);
    body["id"] = id.into();
    body["parameters"] = json!({"label_key": id});
    assert_eq!(infer(&server.http, MODEL, "", &body).status, 200);
}

fn post(server: &Server, path: &str, headers: &str, body: &[u8]) -> Answer {
    let path = format!("/admin/v1/models/{path}");
    Http::connect(&server.operator).ask("POST", &path, headers, body)
}

const CSV: &str = "content-type: text/csv\r\n";
const JSON: &str = "content-type: application/json\r\n";

fn labels(server: &Server, headers: &str, body: &str) -> Answer {
    post(server, &format!("{MODEL}/labels"), headers, body.as_bytes())
}

fn counts(answer: &Answer) -> (u64, u64, u64) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let answer = answer.json();
    let count = |name: &str| answer[name].as_u64().expect("a count");
    (count("rows"), count("new"), count("same"))
}

/// What lies below a directory, but for the locks.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = below(dir);
    found.retain(|path| path.file_name().is_none_or(|name| name != "_lock"));
    found
}

#[test]
fn labels_come_in_every_form_and_are_joined_by_every_reader() {
    script("setup-tests.sh");
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    for key in ["json", "lines", "csv", "parquet", "arrow"] {
        ask(&server, key);
    }
    let python = |args: &[&str]| {
        let mut command = Command::new(target().join("venv-readers/bin/python"));
        command.arg(root().join("tests/readers/labels.py")).args(args).arg(MODEL);
        println!("{}", succeed(&mut command, "labels.py"));
    };
    python(&["post", &format!("http://{}", server.operator)]);
    let count = |outcome: &str| {
        let labels = [format!("model=\"{MODEL}\""), format!("outcome=\"{outcome}\"")];
        metric(&server, "onnxd_predlog_labels_total", &[&labels[0], &labels[1]])
    };
    assert_eq!((count("new"), count("same")), (15.0, 15.0));
    server.stop();
    python(&["read", log_of(&home).to_str().expect("UTF-8")]);
}

#[test]
fn a_label_is_known_by_its_key_revision_and_words() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    let two = r#"[{"label_key": "a", "label": "x"}, {"label_key": "b", "label": 1}]"#;
    assert_eq!(counts(&labels(&server, JSON, two)), (2, 2, 0));
    let before = files(&log_of(&home).join("labels"));
    assert_eq!(counts(&labels(&server, JSON, two)), (2, 0, 2));
    // Alone, in another form, at another time.
    assert_eq!(counts(&labels(&server, CSV, "label_key,label\nb,1\n")), (1, 0, 1));
    assert_eq!(files(&log_of(&home).join("labels")), before);
    let other = "label_key,label,revision\nb,2,0\nb,1,1\nb,1,1\n";
    assert_eq!(counts(&labels(&server, CSV, other)), (3, 2, 1));
    let renamed = post(
        &server,
        &format!("{MODEL}/labels?key=order&label=left&time=seen"),
        CSV,
        b"order,left,seen\nc,yes,2026-01-01\n",
    );
    assert_eq!(counts(&renamed), (1, 1, 0));
    server.stop();
}

#[test]
fn a_mistake_is_named_and_changes_nothing() {
    let home = home();
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_MAX_REQUEST_BYTES", "100000"));
    let good: String =
        (0..200).map(|n| format!("{{\"label_key\": \"k{n}\", \"label\": 1}}\n")).collect();
    for (kind, body, complaint) in [
        (
            "text/csv",
            "label_key,label,revision\na,1,0\nb,1,first\n".into(),
            "row 2: revision: expected a whole number, got \"first\"",
        ),
        ("text/csv", "label_key,label\na,1,2\n".into(), "line: 2"),
        (
            "text/csv",
            "key,label\na,1\n".into(),
            "row 1: label_key: expected a key, got only the fields key, label",
        ),
        (
            "application/json",
            format!("{good}{{\"label_key\": \"z\"}}"),
            "row 201: z: expected label or label_value, or deleted: true",
        ),
        (
            "application/json",
            "[{\"label_key\": \"a\", \"label\": 1},\n{\"label_key\"}]".into(),
            "line 2 column",
        ),
        ("application/json", "[3]".into(), "row 1: expected an object such as"),
        ("application/vnd.apache.parquet", "a,b".into(), "not a readable Parquet file"),
        ("application/vnd.apache.arrow.stream", "a,b".into(), "not an Arrow stream"),
    ] {
        let said = labels(&server, &format!("content-type: {kind}\r\n"), &body).error(400);
        assert!(
            said.contains(complaint) && said.ends_with("nothing of the body is kept"),
            "{said}"
        );
    }
    let said = labels(&server, "", &good).error(415);
    assert!(said.starts_with("there is no content-type, expected application/json"), "{said}");
    let said = labels(&server, "content-type: application/xml\r\n", &good).error(415);
    assert!(said.contains("'application/xml', expected"), "{said}");
    let said = labels(&server, JSON, &good.repeat(20)).error(413);
    assert!(said.contains("the limit of 100000 bytes: send the labels in parts"), "{said}");
    let said = post(&server, &format!("{MODEL}/labels?kee=x"), JSON, good.as_bytes()).error(400);
    assert!(said.contains("kee"), "{said}");
    let said = post(&server, "nosuch/labels", JSON, good.as_bytes()).error(404);
    assert!(said.contains("nosuch"), "{said}");
    let said = post(&server, "identity_bytes/labels", JSON, good.as_bytes()).error(404);
    assert!(said.contains("set log.enabled in its model.yaml"), "{said}");
    assert_eq!(post(&server, "a%2Fb/labels", JSON, good.as_bytes()).status, 400);
    assert_eq!(
        http::get(&server.operator, &format!("/admin/v1/models/{MODEL}/labels")).status,
        405
    );
    assert!(files(&log_of(&home).join("labels")).is_empty());
    assert_eq!(metric(&server, "onnxd_predlog_labels_total", &[]), 0.0);
    server.stop();
}

#[test]
fn where_labels_cannot_be_kept_the_answer_says_so_and_they_can_be_sent_again() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    fs::create_dir(log_of(&home)).expect("made");
    fs::write(log_of(&home).join("labels"), b"in the way").expect("written");
    let one = r#"{"label_key": "a", "label": 1}"#;
    let said = labels(&server, JSON, one).error(503);
    assert!(
        said.contains("the server's log has the reason") && !said.contains("predictions/"),
        "{said}"
    );
    until("the log says why", || server.said().contains("labels cannot be kept"));
    fs::remove_file(log_of(&home).join("labels")).expect("removed");
    assert_eq!(counts(&labels(&server, JSON, one)), (1, 1, 0));
    server.stop();
}

#[test]
fn whoever_brings_labels_needs_the_role_and_the_model() {
    let home = home();
    let key = || -> (String, String) {
        let made =
            run_to_end(Command::new(env!("CARGO_BIN_EXE_onnxd")).args(["key", "--output", "json"]));
        let made: Value = serde_json::from_str(&made.stdout).expect("JSON");
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (format!("authorization: Bearer {}\r\n{JSON}", text("key")), text("hash"))
    };
    let [reader, labeller, other] = [key(), key(), key()];
    let config = format!(
        "auth:\n  callers:\n    - {{name: reader, keys: '{}', roles: [read, infer]}}\n    - {{name: labeller, keys: '{}', roles: [operate]}}\n    - {{name: other, keys: '{}', roles: [operate], models: [identity_bytes]}}\n",
        reader.1, labeller.1, other.1
    );
    let file = home.path().join("onnxd.yaml");
    fs::write(&file, config).expect("written");
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.arg("--config").arg(&file));
    let one = r#"{"label_key": "a", "label": 1}"#;
    assert_eq!(labels(&server, JSON, one).status, 401);
    let said = labels(&server, &reader.0, one).error(403);
    assert!(said.contains("role 'operate'"), "{said}");
    assert!(matches!(labels(&server, &other.0, one).status, 403 | 404));
    assert_eq!(counts(&labels(&server, &labeller.0, one)), (1, 1, 0));
    server.stop();
}

/// A server that looks for labels in the folder `inbox`.
fn with_inbox(home: &Home) -> (Server, PathBuf) {
    let inbox = home.path().join("inbox");
    fs::create_dir_all(inbox.join(MODEL)).expect("made");
    let mut command = Server::command(home.path(), &home.repository());
    (Server::launch(command.env("ONNXD_PREDICTION_LOG_LABELS_FOLDER", &inbox)), inbox)
}

fn label_files(server: &Server, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    metric(server, "onnxd_predlog_label_files_total", &[&outcome])
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn files_in_the_folder_are_brought_in_and_moved_away() {
    let home = home();
    let (server, inbox) = with_inbox(&home);
    let own = inbox.join(MODEL);
    fs::write(own.join("a.csv"), "label_key,label\na,1\nb,0\n").expect("written");
    fs::write(own.join("b.jsonl"), "{\"label_key\": \"a\", \"label\": 1}\n").expect("written");
    fs::write(own.join("bad.json"), "[{\"label_key\": \"z\"}]").expect("written");
    // Not labels by their names, or not yet.
    for name in ["README", ".c.csv", "_c.csv", "c.csv.part"] {
        fs::write(own.join(name), "label_key,label\nc,1\n").expect("written");
    }
    until("all three are moved", || {
        label_files(&server, "done") == 2.0 && label_files(&server, "failed") == 1.0
    });
    assert_eq!(text(&own.join("_done/a.csv")), "label_key,label\na,1\nb,0\n");
    until("the last is where it belongs", || own.join("_failed/bad.json").exists());
    let reason = text(&own.join("_failed/bad.json.reason"));
    assert!(reason.starts_with("row 1: z: expected label or label_value"), "{reason}");
    assert!(!server.said().contains("row 1"), "what stands in files is in no log");
    let count = |outcome: &str| {
        metric(&server, "onnxd_predlog_labels_total", &[&format!("outcome=\"{outcome}\"")])
    };
    assert_eq!((count("new"), count("same")), (2.0, 1.0));
    for name in ["README", ".c.csv", "_c.csv", "c.csv.part"] {
        assert!(own.join(name).exists(), "{name}");
    }
    // The same name again, mended.
    fs::write(own.join("bad.json"), "[{\"label_key\": \"z\", \"label\": 1}]").expect("written");
    until("it is brought in", || label_files(&server, "done") == 3.0);
    until("its name is free", || !own.join("bad.json").exists());
    server.stop();
}

#[test]
fn a_file_that_grows_is_left_until_it_is_whole() {
    let home = home();
    let (server, inbox) = with_inbox(&home);
    let path = inbox.join(MODEL).join("slow.csv");
    let mut file = fs::File::create(&path).expect("made");
    file.write_all(b"label_key,label\n").expect("written");
    // Another file that comes later and is brought in shows that looks went by.
    for round in 0..3 {
        file.write_all(format!("k{round},1\n").as_bytes()).expect("written");
        let whole = inbox.join(MODEL).join(format!("whole-{round}.csv"));
        fs::write(inbox.join("whole"), format!("label_key,label\nw{round},1\n")).expect("written");
        fs::rename(inbox.join("whole"), &whole).expect("renamed");
        until("the whole one is brought in", || {
            // Every look finds the slow one longer.
            file.write_all(b"k,1\n").expect("written");
            !whole.exists()
        });
        assert!(path.exists(), "round {round}");
    }
    drop(file);
    until("it is brought in once it is whole", || !path.exists());
    assert_eq!(label_files(&server, "failed"), 0.0);
    server.stop();
}

#[test]
fn labels_wait_for_their_model_and_for_the_disk() {
    let home = home();
    let (server, inbox) = with_inbox(&home);
    fs::create_dir(inbox.join("identity_bytes")).expect("made");
    let early = inbox.join("identity_bytes/early.csv");
    fs::write(&early, "label_key,label\na,1\n").expect("written");
    until("it is said", || server.said().contains("labels wait in their folder"));
    assert!(early.exists());
    fs::create_dir_all(log_of(&home)).expect("made");
    fs::write(log_of(&home).join("labels"), b"in the way").expect("written");
    let path = inbox.join(MODEL).join("a.csv");
    fs::write(&path, "label_key,label\na,1\n").expect("written");
    until("it is said", || server.said().contains("they are tried again"));
    fs::remove_file(log_of(&home).join("labels")).expect("removed");
    until("it is brought in", || !path.exists());
    assert_eq!((label_files(&server, "done"), label_files(&server, "failed")), (1.0, 0.0));
    // What is logged from now on may have labels.
    fs::write(
        home.repository().join("identity_bytes/model.yaml"),
        "format: 1\nlog: {enabled: true}\n",
    )
    .expect("written");
    let load = "/v2/repository/models/identity_bytes/load";
    assert_eq!(http::post(&server.operator, load, "", &json!({})).status, 200);
    until("the other as well", || !early.exists());
    server.stop();
}

/// The keys of the log's rows, by request.
fn keys(home: &Home) -> BTreeMap<String, String> {
    use arrow_array::cast::AsArray;
    let mut keys = BTreeMap::new();
    for path in files(&log_of(home).join("log")) {
        if path.extension().is_none_or(|ending| ending != "parquet") {
            continue;
        }
        let file = fs::File::open(path).expect("a file");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        for batch in reader.build().expect("a reader") {
            let batch = batch.expect("rows");
            let text = |name: &str| {
                batch.column_by_name(name).expect("a column").as_string::<i32>().clone()
            };
            let (requests, labels) = (text("request_id"), text("label_key"));
            keys.extend(
                requests
                    .iter()
                    .flatten()
                    .map(str::to_owned)
                    .zip(labels.iter().flatten().map(str::to_owned)),
            );
        }
    }
    keys
}

#[test]
fn who_cannot_change_bodies_gives_the_key_in_a_header() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    let ask = |id: &str, headers: &str, parameters: Value| {
        let mut body = http::four(1.0);
        (body["id"], body["parameters"]) = (id.into(), parameters);
        assert_eq!(infer(&server.http, MODEL, headers, &body).status, 200);
    };
    let long = "ä".repeat(1000);
    ask("head", "x-onnxd-label-key: order-1\r\n", json!({}));
    ask("both", "X-Onnxd-Label-Key: order-2\r\n", json!({"label_key": "order-3"}));
    ask("other", "x-onnxd-label-key: order-4\r\n", json!({"user": "u"}));
    ask("none", "", json!({}));
    ask("odd", &format!("x-onnxd-label-key: {long}\r\n"), json!({}));
    let mut request = grpc::four(MODEL, 1.0);
    request.id = "grpc".to_owned();
    let calls = Grpc::connect(&server.grpc).with_metadata("x-onnxd-label-key", "order-5");
    assert_eq!(calls.infer("", &request).code, 0);
    server.stop();
    let expected = [
        ("head", "order-1"),
        ("both", "order-3"),
        ("other", "order-4"),
        ("none", "none:0"),
        // No text that a header holds.
        ("odd", "odd:0"),
        ("grpc", "order-5"),
    ];
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(id, key)| (id.to_owned(), key.to_owned())).collect();
    assert_eq!(keys(&home), expected);
}
