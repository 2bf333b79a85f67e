//! The prediction log of the real binary: read by those who will read it, killed at any moment, on a disk that is not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use arrow_array::{RecordBatch, cast::AsArray, types::Float32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::{
    files::{Home, root, script, succeed, target},
    http::{self, Http, infer, infer_path},
    server::Server,
    watch::{self, until},
};

fn logging(home: &Home) -> Command {
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_DEFAULTS_LOG_ENABLED", "true");
    command
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

/// What is compared with what stands in the files.
fn expected(id: &str, row: usize, columns: Value) -> Value {
    json!({"request_id": id, "row": row, "columns": columns})
}

/// Datatypes with values of each, as they are sent and as they are to be stored.
fn cases() -> [(&'static str, Value, Value); 12] {
    [
        ("BOOL", json!([true, false]), json!([true, false])),
        ("INT8", json!([-128, 127]), json!([-128, 127])),
        ("UINT8", json!([0, 255]), json!([0, 255])),
        ("INT16", json!([-32768, 32767]), json!([-32768, 32767])),
        ("UINT16", json!([0, 65535]), json!([0, 65535])),
        ("INT32", json!([i32::MIN, i32::MAX]), json!([i32::MIN, i32::MAX])),
        ("UINT32", json!([0, u32::MAX]), json!([0, u32::MAX])),
        ("INT64", json!([i64::MIN, i64::MAX]), json!([i64::MIN, i64::MAX])),
        ("UINT64", json!([0, u64::MAX]), json!(["0", "18446744073709551615"])),
        (
            "FP32",
            json!(["NaN", "Infinity", "-Infinity", -0.0, f32::MAX, 1.5]),
            json!(["NaN", "Infinity", "-Infinity", 0.0, f64::from(f32::MAX), 1.5]),
        ),
        (
            "FP64",
            json!([f64::MIN, f64::MIN_POSITIVE, "NaN"]),
            json!([f64::MIN, f64::MIN_POSITIVE, "NaN"]),
        ),
        ("BYTES", json!(["", "ä\u{1f600}", "a\"b,\n"]), json!(["", "ä\u{1f600}", "a\"b,\n"])),
    ]
}

/// pandas, polars, DuckDB and PySpark give the same values for every datatype, its extremes among them, and for failures.
#[test]
fn every_reader_reads_every_value() {
    script("setup-tests.sh");
    let cases = cases();
    let models: Vec<String> = cases
        .iter()
        .map(|(datatype, ..)| format!("identity_{}", datatype.to_lowercase()))
        .collect();
    let mut names: Vec<&str> = models.iter().map(String::as_str).collect();
    names.extend(["mixed", "wine"]);
    let home = Home::of(&names);
    let server = Server::launch(logging(&home).env("ONNXD_DEFAULTS_LOG_TEXT", "true"));
    let mut rows = Vec::new();
    for ((datatype, sent, stored), model) in cases.iter().zip(&models) {
        let width = sent.as_array().map_or(0, Vec::len);
        let mut body = http::inputs(&[("INPUT0", datatype, &[1, width], sent.clone())]);
        body["id"] = model.as_str().into();
        body["parameters"] = json!({"label_key": format!("key of {model}")});
        assert_eq!(infer(&server.http, model, "", &body).status, 200, "{model}");
        let columns = json!({
            "in_INPUT0": stored, "in_INPUT0_shape": [width], "out_OUTPUT0": stored, "status": 200,
            "error_code": null, "label_key": format!("key of {model}"), "model_name": model,
            "model_version": "1", "protocol": "http", "route": "primary", "sample_p": 1.0, "cache": "bypass",
        });
        rows.push(expected(model, 0, columns));
    }
    let mut body = http::inputs(&[
        ("features", "FP32", &[2, 3], json!([1, 2, 3, 4, 5, 6])),
        ("weight", "FP64", &[2], json!([0.5, 2])),
        ("name", "BYTES", &[2, 1], json!(["x", "y"])),
    ]);
    body["id"] = "two".into();
    assert_eq!(infer(&server.http, "mixed", "", &body).status, 200);
    for (row, (features, sum, weight, name)) in
        [([1, 2, 3], 6, 0.5, "x"), ([4, 5, 6], 15, 2.0, "y")].into_iter().enumerate()
    {
        let columns = json!({
            "in_features": features, "in_weight": weight, "in_name": name, "out_sum": sum, "out_echo": name,
            "out_weighted": f64::from(sum) * weight, "out_big": sum > 10, "label_key": format!("two:{row}"),
        });
        rows.push(expected("two", row, columns));
    }
    let mut wrong = http::inputs(&[("features", "FP32", &[1, 2], json!([1, 2]))]);
    wrong["id"] = "wrong".into();
    infer(&server.http, "wine", "", &wrong).error(400);
    let columns = json!({
        "status": 400, "error_code": "invalid_argument", "in_alcohol": null, "out_label": null,
        "pred_label": null, "pred_score": null, "queue_us": null,
    });
    rows.push(expected("wrong", 0, columns));
    server.stop();
    let list = home.path().join("expected.json");
    fs::write(&list, Value::from(rows).to_string()).expect("written");
    let mut read = Command::new(target().join("venv-readers/bin/python"));
    read.arg(root().join("tests/readers/same.py")).arg(log_of(&home)).arg(&list);
    if target().join("java").exists() {
        read.env("JAVA_HOME", target().join("java"));
    }
    println!("{}", succeed(&mut read, "same.py"));
}

/// The parts of the Parquet files below a directory.
fn batches(folder: &Path) -> Vec<RecordBatch> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(batches(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            let file = fs::File::open(&path).expect("a file");
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
            found.extend(reader.build().expect("a reader").map(|batch| batch.expect("rows")));
        }
    }
    found
}

/// Every row by its request's id: what went in, and what came out.
fn rows(home: &Home) -> (BTreeMap<String, (f32, f32)>, usize) {
    let (mut rows, mut ids, mut count) = (BTreeMap::new(), BTreeSet::new(), 0);
    for batch in batches(&log_of(home).join("log")) {
        let text = |name: &str| {
            let column = batch.column_by_name(name).expect("a column").as_string::<i32>();
            column.iter().map(|text| text.expect("a value").to_owned()).collect::<Vec<_>>()
        };
        let first = |name: &str| {
            let lists = batch.column_by_name(name).expect("a column").as_list::<i32>();
            let first = |n| lists.value(n).as_primitive::<Float32Type>().value(0);
            (0..batch.num_rows()).map(first).collect::<Vec<f32>>()
        };
        let values = first("in_X").into_iter().zip(first("out_Y"));
        for ((request, event), value) in
            text("request_id").into_iter().zip(text("event_id")).zip(values)
        {
            assert!(ids.insert(event), "an event twice");
            rows.insert(request, value);
            count += 1;
        }
    }
    (rows, count)
}

/// Asks until the server is gone: what was sent, and what was answered.
struct Clients {
    sent: Mutex<BTreeSet<String>>,
    answered: Mutex<BTreeSet<String>>,
    count: AtomicU64,
    stop: AtomicBool,
}

impl Clients {
    fn new() -> Clients {
        Clients {
            sent: Mutex::default(),
            answered: Mutex::default(),
            count: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn ask(&self, address: &str, name: &str) {
        let mut connection = Http::connect(address);
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let mut body = http::four(f64::from(n));
            let id = format!("{name}-{n}");
            body["id"] = id.as_str().into();
            let body = body.to_string();
            let bytes = http::request("POST", &infer_path("versioned"), "", body.as_bytes());
            locked(&self.sent).insert(id.clone());
            let answer = connection.try_send(&bytes).and_then(|()| connection.try_read(false));
            let Ok(Some(answer)) = answer else { return };
            assert_eq!(answer.status, 200);
            locked(&self.answered).insert(id);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(server: &Server) {
    let pid = libc::pid_t::try_from(server.id()).expect("a process id fits pid_t");
    // SAFETY: kill takes no pointer; the child is not waited for yet, so that its id is still its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// How many kills there are of each mode: fifty, or as many as ONNXD_TEST_KILLS says.
fn kills() -> u64 {
    std::env::var("ONNXD_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// Kills under load, each followed by a start on the same log: every row whose request was answered, or none but those, as the mode
/// promises; no row twice, none that nobody asked for, none that is not what was asked and answered. Gives the rows, and those answered
/// that are not there.
fn killed(mode: &str) -> (usize, Vec<String>) {
    let home = Home::of(&["versioned"])
        .yaml("versioned", &format!("warmup: false\nversions: [1]\nlog: {{mode: {mode}}}\n"));
    let clients = Clients::new();
    for round in 0..kills() {
        let server = Server::launch(&mut logging(&home));
        // Another moment each time: a few answers in, up to some hundreds.
        let enough = clients.count.load(Ordering::Relaxed) + 1 + (round * 37) % 150;
        thread::scope(|scope| {
            for client in 0..3 {
                let (clients, address) = (&clients, &server.http);
                scope.spawn(move || clients.ask(address, &format!("{round}-{client}")));
            }
            until("answers", || clients.count.load(Ordering::Relaxed) >= enough);
            // In every other round something has been written ahead: answers alone may come faster than that.
            if round % 2 == 1 {
                until("rows are written ahead", || {
                    watch::metric(&server, "onnxd_predlog_rows_written_total", &[]) > 0.0
                });
            }
            kill(&server);
        });
        drop(server);
    }
    let server = Server::launch(&mut logging(&home));
    until("what was left is in order", || {
        let left = fs::read_dir(log_of(&home).join("_wal")).map_or(0, Iterator::count);
        // Its own is made with its first row.
        left == 0
    });
    server.stop();
    let (rows, count) = rows(&home);
    let (sent, answered) = (locked(&clients.sent), locked(&clients.answered));
    assert_eq!(rows.len(), count, "a request twice");
    for (id, (x, y)) in &rows {
        assert!(sent.contains(id), "nobody sent {id}");
        let n: f32 = id.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!((*x, *y), (n, n + 1.0), "{id}");
    }
    let lost: Vec<String> = answered.iter().filter(|id| !rows.contains_key(*id)).cloned().collect();
    println!(
        "{mode}: {} kills, {} sent, {} answered, {} rows, {} answered and lost",
        kills(),
        sent.len(),
        answered.len(),
        rows.len(),
        lost.len()
    );
    assert!(answered.len() as u64 > kills() * 20);
    (rows.len(), lost)
}

/// Kills under load: no row whose answer went out is lost in `durable` mode, none is there twice, and none that nobody asked for.
#[test]
fn kills_lose_no_answered_row_of_a_durable_log() {
    let (_, lost) = killed("durable");
    assert!(lost.is_empty(), "{} lost: {:?}", lost.len(), &lost[..lost.len().min(5)]);
}

/// The same in `best_effort` mode, where what was answered last may be lost.
#[test]
fn kills_invent_and_repeat_no_row_of_a_best_effort_log() {
    let (rows, _) = killed("best_effort");
    assert!(rows > 0, "not one row outlived its server");
}

/// The sum on every page of metrics while requests come, and after SIGTERM in the account on the disk, which is what stands in the
/// files.
#[test]
fn received_is_written_and_dropped_and_in_flight_on_every_page() {
    let home =
        Home::of(&["versioned"]).yaml("versioned", "versions: [1]\nlog: {ring_bytes: 1000}\n");
    let server = Server::launch(logging(&home).env("ONNXD_PREDICTION_LOG_FLUSH_MS", "500"));
    let clients = Clients::new();
    let rows_of = |page: &str, name: &str| -> u64 {
        let series =
            page.lines().filter(|line| line.starts_with(&format!("onnxd_predlog_rows_{name}")));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    thread::scope(|scope| {
        for client in 0..2 {
            let (clients, address) = (&clients, &server.http);
            scope.spawn(move || clients.ask(address, &client.to_string()));
        }
        let mut seen = BTreeSet::new();
        while seen.len() < 100 {
            let page = http::get(&server.operator, "/metrics").body;
            let page = String::from_utf8(page).expect("text");
            let of = |name| rows_of(&page, name);
            let settled = of("written_total") + of("dropped_total") + of("in_flight");
            assert_eq!(of("received_total"), settled);
            seen.insert(settled);
        }
        clients.stop.store(true, Ordering::Relaxed);
    });
    server.stop();
    // Beside it lies the list of the files.
    let mut manifests = fs::read_dir(log_of(&home).join("_manifest")).expect("manifests");
    let manifest = manifests.find_map(|entry| {
        let path = entry.expect("readable").path();
        path.extension().is_some_and(|ending| ending == "json").then_some(path)
    });
    let manifest = fs::read(manifest.expect("one")).expect("read");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let own = &manifest["models"]["versioned"];
    let dropped: u64 =
        own["dropped"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
    assert_eq!(own["received"].as_u64(), Some(clients.count.load(Ordering::Relaxed)));
    assert_eq!(own["written"].as_u64().map(|written| written + dropped), own["received"].as_u64());
    assert_eq!((&own["in_flight"], &own["in_files"]), (&json!(0), &own["written"]));
    assert_eq!(rows(&home).1 as u64, own["written"].as_u64().expect("a number"));
    println!("{dropped} dropped of {}", own["received"]);
}

/// Where the log's directory cannot be written, requests are answered all the same, rows are dropped and counted, and writing goes on
/// once it can.
#[test]
fn a_place_that_cannot_be_written_costs_rows_and_no_answer() {
    let home = Home::of(&["versioned"]).yaml("versioned", "versions: [1]\n");
    fs::write(log_of(&home), b"in the way").expect("written");
    let server = Server::launch(&mut logging(&home));
    let ask = || assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).status, 200);
    ask();
    until("the row is dropped", || {
        watch::metric(&server, "onnxd_predlog_rows_dropped_total", &["reason=\"disk\""]) == 1.0
    });
    assert_eq!(watch::metric(&server, "onnxd_predlog_writable", &[]), 0.0);
    assert!(server.said().contains("the prediction log cannot be written"), "{}", server.said());
    fs::remove_file(log_of(&home)).expect("removed");
    ask();
    until("a row is written", || {
        watch::metric(&server, "onnxd_predlog_rows_written_total", &[]) == 1.0
    });
    assert_eq!(watch::metric(&server, "onnxd_predlog_writable", &[]), 1.0);
    server.stop();
    assert_eq!(rows(&home).1, 1);
}

/// What redaction withholds is in no file of the log, and what it cannot do is refused at load.
#[test]
fn what_is_redacted_reaches_no_file() {
    let secret = "zq7secretzq7";
    let home = Home::of(&["identity_bytes"]).yaml(
        "identity_bytes",
        "log:\n  redact: {in_INPUT0: {mask: 'zq7\\w+'}, 'out_*': drop, label_key: hash}\n  subject: user\n",
    );
    let key = home.path().join("key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").expect("written");
    let server = Server::launch(logging(&home).env("ONNXD_PREDICTION_LOG_KEY_FILE", &key));
    let mut body =
        http::inputs(&[("INPUT0", "BYTES", &[1, 1], json!([format!("hello {secret}")]))]);
    body["parameters"] = json!({"label_key": format!("k{secret}"), "user": format!("u{secret}")});
    assert_eq!(infer(&server.http, "identity_bytes", "", &body).status, 200);
    until("it is written", || {
        watch::metric(&server, "onnxd_predlog_rows_written_total", &[]) == 1.0
    });
    let found = |folder: PathBuf| {
        let mut folders = vec![folder];
        let mut texts = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => texts.push(fs::read(entry.path()).expect("readable")),
                }
            }
        }
        let hit =
            texts.iter().any(|text| text.windows(secret.len()).any(|w| w == secret.as_bytes()));
        (texts.len(), hit)
    };
    let (files, hit) = found(log_of(&home));
    assert!(files > 1 && !hit, "the write-ahead log has it");
    server.stop();
    assert!(!found(log_of(&home)).1);
    let batch = &batches(&log_of(&home).join("log"))[0];
    let masked = batch.column_by_name("in_INPUT0").expect("a column").as_list::<i32>().value(0);
    assert_eq!(masked.as_string::<i32>().value(0), "hello ***");
    let subject = batch.column_by_name("subject_key").expect("a column").as_string::<i32>();
    assert_eq!(subject.value(0).len(), 32);
    assert!(batch.column_by_name("out_OUTPUT0").is_none());
}
