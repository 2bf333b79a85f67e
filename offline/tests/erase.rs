//! Erasure while a server runs and after one was killed, by the real binary: nothing of the subject is in a later file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use onnxd::{app::Server, config::Config, predlog::redact::Key};
use onnxd_offline::replay::http::Client;
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn erase(root: &Path, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-offline"));
    command.env_remove("ONNXD_PREDICTION_LOG_DIR").env_remove("ONNXD_CONFIG");
    let out = command
        .args(["log", "erase", "--output", "json", "--dir"])
        .arg(root)
        .args(args)
        .output()
        .expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stdout)))
}

fn import(root: &Path, text: &str) {
    let file = root.join("labels.csv");
    fs::write(&file, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-offline"));
    let out = command.args(["labels", "import", "--model", "wine", "--dir"]).arg(root).arg(&file);
    assert!(out.status().expect("it starts").success());
    fs::remove_file(&file).expect("removed");
}

/// A server of the example model that logs whom requests are about, below `home`.
fn config(home: &Path) -> Config {
    let key = home.join("key");
    fs::write(&key, SECRET).expect("written");
    let loopback = || "127.0.0.1:0".parse().expect("an address");
    let mut config = Config {
        models: Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"),
        load: "wine".parse().expect("a name"),
        http: loopback(),
        grpc: loopback(),
        operator: loopback(),
        ..Config::default()
    };
    config.defaults.log.enabled = true;
    config.defaults.log.subject = "user".to_owned();
    config.prediction_log.dir = home.join("predictions");
    config.prediction_log.key_file = key;
    config.prediction_log.flush_ms = 5;
    config
}

fn subject(name: &str) -> String {
    Key::new(SECRET.as_bytes()).expect("a key").hash("subject", name.as_bytes())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Every file below a directory, but for the ledger and the evidence.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true if path.file_name().is_some_and(|name| name == "_erased") => {}
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Files in which a text stands, as bytes. Names are not compressed where they are many.
fn with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = files(dir);
    found.retain(|path| {
        let bytes = fs::read(path).expect("readable");
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    });
    found
}

fn ask(client: &mut Client, user: &str, n: usize) {
    let body = json!({
        "id": format!("{user}-{n}"), "parameters": {"user": user, "label_key": format!("{user}-{n}")},
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 13], "data": vec![0.5; 13]}],
    });
    let answer = client.ask("POST", "/v2/models/wine/infer", body.to_string().as_bytes());
    assert_eq!(answer.expect("an answer").0, 200);
}

fn segments(root: &Path) -> Vec<PathBuf> {
    let mut found = files(&root.join("_wal"));
    found.retain(|path| path.extension().is_some_and(|ending| ending == "wal"));
    found
}

/// Rows of the log's files by their subjects.
fn subjects(root: &Path) -> Vec<String> {
    use onnxd::predlog::reader::{Filter, Log, rows};
    let filter = Filter::default();
    let mut all = Vec::new();
    for file in Log::open(root).expect("a log").files(&filter).expect("listed") {
        for batch in rows(&file, &filter, None).expect("opened") {
            let batch = batch.expect("read");
            let column = batch.column_by_name("subject_key").expect("there").clone();
            let texts = column.as_any().downcast_ref::<arrow_array::StringArray>().expect("texts");
            all.extend(texts.iter().flatten().map(str::to_owned));
        }
    }
    all.sort();
    all
}

/// Runs `work` with a server, and stops it.
fn serving(config: &Config, work: impl FnOnce(&Server)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("an event loop");
    let server = {
        let _entered = runtime.enter();
        Server::start(config).expect("the server starts")
    };
    assert!(server.wait_loaded(Duration::from_secs(120)), "the model did not load");
    work(&server);
    runtime.block_on(server.stop(config));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("there").flatten() {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("copied")),
        }
    }
}

#[test]
fn nothing_of_a_subject_is_in_a_later_file_while_a_server_runs_and_after_one_was_killed() {
    let (live, dead) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("one"));
    let config = config(live.path());
    let root = config.prediction_log.dir.clone();
    let key = live.path().join("key").display().to_string();
    let args = ["--subject", "alice", "--key-file", &key];
    let hash = subject("alice");
    serving(&config, |server| {
        let url = format!("http://{}", server.addresses[0]);
        let mut client = Client::new(&url, Duration::from_secs(60)).expect("a client");
        for n in 0..20 {
            ask(&mut client, "alice", n);
            ask(&mut client, "bob", n);
        }
        until("all is written ahead", || {
            let bytes: Vec<u8> = segments(&root)
                .iter()
                .flat_map(|path| fs::read(path).unwrap_or_default())
                .collect();
            bytes
                .windows(8)
                .filter(|part| *part == b"alice-19" || part.starts_with(b"bob-19"))
                .count()
                >= 4
        });
        import(&root, "label_key,label\nalice-1,1\nbob-1,0\nalice-2,1\n");
        // As a kill would leave it, with half a frame at its end.
        let left = dead.path().join("predictions");
        copy(&root, &left);
        let torn = segments(&left).pop().expect("a segment");
        let bytes = fs::read(&torn).expect("read");
        fs::write(&torn, &[&bytes[..], &bytes[..bytes.len() / 2]].concat()[..bytes.len() + 100])
            .expect("written");

        let planned = erase(&root, &[&args[..], &["--dry-run"]].concat());
        assert_eq!(planned["wal_open"][0]["rows"], json!(20), "{planned:#}");
        assert!(!root.join("_erased").exists());
        let done = erase(&root, &args);
        assert_eq!((&done["wal_open"][0]["rows"], &done["wal"]), (&json!(20), &json!([])));
        assert_eq!(
            done["labels"][0]["rows_erased"],
            json!(2),
            "labels of rows that are in no file yet"
        );
        assert_eq!(done["versions"].as_array().map(Vec::len), Some(1));
        assert_eq!(with(&root.join("labels"), "alice-1"), Vec::<PathBuf>::new());
        // Who was erased asks again.
        ask(&mut client, "alice", 77);
        ask(&mut client, "bob", 77);
    });
    assert_eq!(subjects(&root), vec![subject("bob"); 21]);
    assert_eq!(with(&root, &hash), Vec::<PathBuf>::new());
    let manifest = files(&root.join("_manifest")).pop().expect("an account");
    let manifest: Value = serde_json::from_slice(&fs::read(manifest).expect("read")).expect("JSON");
    let own = &manifest["models"]["wine"];
    assert_eq!(
        (&own["written"], &own["in_files"], &own["erased"]),
        (&json!(42), &json!(21), &json!(21))
    );
    after_a_kill(&dead.path().join("predictions"), &args, &hash);
}

fn after_a_kill(root: &Path, args: &[&str], hash: &str) {
    let segment = segments(root).pop().expect("a segment");
    let before = onnxd::predlog::digest::file(&segment).expect("there");
    let planned = erase(root, &[args, &["--dry-run"]].concat());
    assert_eq!(onnxd::predlog::digest::file(&segment).expect("there"), before);
    assert_eq!(planned["wal"][0]["sha256_after"], json!(null));
    let done = erase(root, args);
    let wal = &done["wal"][0];
    assert_eq!((&wal["rows_erased"], &wal["torn_bytes"]), (&json!(20), &json!(100)), "{done:#}");
    assert_eq!((&wal["sha256_before"], &done["wal_open"]), (&json!(before), &json!([])));
    let after = onnxd::predlog::digest::file(&root.join(wal["file"].as_str().expect("a name")));
    assert_eq!(wal["sha256_after"], json!(after.expect("there")));
    assert_eq!(with(root, hash), Vec::<PathBuf>::new());
    assert_eq!(erase(root, args)["wal"], json!([]), "done is done");
    let config = config(root.parent().expect("a parent"));
    serving(&config, |_| until("it is a file", || segments(root).is_empty()));
    assert_eq!(subjects(root), vec![subject("bob"); 20]);
}
