//! `onnxd log tail` and `verify` beside a server that writes, and `verify` over what a disk made of the log.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    files::Home,
    http::{self, infer},
    server::{Ended, Server, run_to_end},
    watch::{self, until},
};

fn home() -> Home {
    Home::of(&["versioned"]).yaml("versioned", "versions: [1]\n")
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

fn logging(home: &Home) -> Command {
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_DEFAULTS_LOG_ENABLED", "true").env("ONNXD_PREDICTION_LOG_FLUSH_MS", "5");
    command
}

fn ask(server: &Server, ids: std::ops::Range<u32>) {
    for n in ids {
        let mut body = http::four(f64::from(n));
        body["id"] = format!("r{n}").into();
        assert_eq!(infer(&server.http, "versioned", "", &body).status, 200);
    }
}

fn log(args: &[&str], dir: &Path) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    run_to_end(command.arg("log").args(args).arg("--dir").arg(dir))
}

/// The ids of a following tail's lines so far.
struct Tail {
    child: Child,
    ids: Arc<Mutex<Vec<String>>>,
}

impl Tail {
    fn start(dir: &Path) -> Tail {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.args(["log", "tail", "--follow", "--output", "json", "--dir"]).arg(dir);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ids = Arc::new(Mutex::new(Vec::new()));
        let kept = ids.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let row: Value = serde_json::from_str(&line).expect("JSON");
                let id = row["request_id"].as_str().expect("an id").to_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            }
        });
        Tail { child, ids }
    }

    fn ids(&self) -> Vec<String> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files below a directory whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path, ending)),
            false if path.to_string_lossy().ends_with(ending) => found.push(path),
            false => {}
        }
    }
    found
}

/// Rows are seen before their file is there, each once, over rotations and the end of the server.
#[test]
fn a_tail_shows_each_row_as_it_is_committed_and_once() {
    let home = home();
    let server = Server::launch(logging(&home).env("ONNXD_PREDICTION_LOG_ROTATE_SECONDS", "1"));
    ask(&server, 0..3);
    until("rows are written", || {
        watch::metric(&server, "onnxd_predlog_rows_written_total", &[]) == 3.0
    });
    let lines = log(&["tail", "-n", "2", "--output", "json"], &log_of(&home)).stdout;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let tail = Tail::start(&log_of(&home));
    let expected = |to: u32| (0..to).map(|n| format!("r{n}")).collect::<Vec<_>>();
    until("what was there", || tail.ids() == expected(3));
    let closed = || watch::metric(&server, "onnxd_predlog_file_rows_total", &[]);
    ask(&server, 3..10);
    until("the file is there", || closed() == 10.0);
    ask(&server, 10..20);
    until("rows over a rotation", || tail.ids().len() >= 20);
    server.stop();
    // Without a rotation before its end: what a tail shows then, it has from the write-ahead log.
    let server = Server::launch(&mut logging(&home));
    let before = files(&log_of(&home), ".parquet").len();
    ask(&server, 20..30);
    until("rows that are in no file", || tail.ids().len() >= 30);
    assert_eq!(files(&log_of(&home), ".parquet").len(), before);
    server.stop();
    // Once another start's row is there, the last one's files have been looked at as well.
    let server = Server::launch(&mut logging(&home));
    ask(&server, 30..31);
    until("one more", || tail.ids().len() >= 31);
    assert_eq!(tail.ids(), expected(31));
    server.stop();
}

fn verified(home: &Home) -> (Option<i32>, Value, String) {
    let ended = log(&["verify", "--output", "json"], &log_of(home));
    let text = log(&["verify"], &log_of(home));
    assert_eq!(ended.code, text.code);
    (ended.code, serde_json::from_str(&ended.stdout).expect("JSON"), text.stdout)
}

/// It does not hold, and this line says why.
fn broken(home: &Home, file: &Path, why: &str) {
    let (code, told, text) = verified(home);
    let shown = file.strip_prefix(log_of(home)).expect("below it").display().to_string();
    let hit = |line: &str| line.starts_with(&shown) && line.contains(why);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.lines().any(hit), "{shown}: {why}\n{text}");
    assert!(
        told["problems"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|line| hit(line.as_str().expect("text")))
    );
}

/// With these bytes in place of a file's, for a while.
fn with_bytes(path: &Path, change: impl Fn(&mut Vec<u8>), look: impl Fn()) {
    let whole = fs::read(path).expect("readable");
    let mut bytes = whole.clone();
    change(&mut bytes);
    fs::write(path, bytes).expect("written");
    look();
    fs::write(path, whole).expect("written");
}

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 0x10;
}

#[test]
fn verify_names_what_does_not_hold() {
    let home = home();
    let server = Server::launch(&mut logging(&home));
    ask(&server, 0..20);
    until("rows are written", || {
        watch::metric(&server, "onnxd_predlog_rows_written_total", &[]) == 20.0
    });
    let (code, told, _) = verified(&home);
    assert_eq!((code, &told["rows"], &told["rows_ahead"]), (Some(0), &json!(0), &json!(20)));
    server.stop();
    let (code, told, _) = verified(&home);
    assert_eq!((code, &told["rows"], &told["rows_ahead"]), (Some(0), &json!(20), &json!(0)));
    assert_eq!(told["unlisted_files"], json!(0));
    let start = &told["starts"][0];
    assert_eq!((&start["found"], &start["closed"]), (&json!(20), &json!(true)));

    // A byte that no reader looks at, and one of a page.
    let parquet = &files(&log_of(&home), ".parquet")[0];
    for at in [2, 300] {
        with_bytes(parquet, |bytes| flip(bytes, at), || broken(&home, parquet, ""));
    }
    let sha = "its SHA-256 is";
    let created = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(6).rposition(|window| window == b"onnxd ").expect("who wrote it");
        bytes[at] = b'O';
    };
    with_bytes(parquet, created, || broken(&home, parquet, sha));
    let away = home.path().join("away");
    fs::rename(parquet, &away).expect("moved");
    broken(&home, parquet, "listed with 20 rows, and is not there");
    fs::rename(&away, parquet).expect("moved back");
    let manifest = &files(&log_of(&home).join("_manifest"), ".json")[0];
    let text = fs::read_to_string(manifest).expect("readable");
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        text.replace(from, to).into_bytes()
    };
    let more = change("\"received\":20", "\"received\":21");
    with_bytes(
        manifest,
        |bytes| *bytes = more.clone(),
        || broken(&home, manifest, "21 rows were received"),
    );
    let list = &files(&log_of(&home), ".files.jsonl")[0];
    with_bytes(list, |bytes| bytes[0] = b'x', || broken(&home, list, "line 1"));
    with_bytes(list, Vec::clear, || {
        broken(&home, manifest, "20 rows were written, and 0 are in its files")
    });
    assert_eq!(verified(&home).0, Some(0));
}

#[test]
fn verify_tells_a_torn_tail_from_a_damaged_frame() {
    let home = home();
    let server = Server::launch(&mut logging(&home));
    for n in 0..3 {
        ask(&server, n..n + 1);
        let written = || watch::metric(&server, "onnxd_predlog_rows_written_total", &[]);
        until("a frame is written", || written() == f64::from(n + 1));
    }
    let pid = libc::pid_t::try_from(server.id()).expect("a process id fits pid_t");
    // SAFETY: kill takes no pointer; the child is not waited for yet, so that its id is still its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    drop(server);
    let wal = &files(&log_of(&home), ".wal")[0];
    let (code, told, _) = verified(&home);
    assert_eq!(
        (code, &told["rows_ahead"], &told["wal"][0]["torn_bytes"]),
        (Some(0), &json!(3), &json!(0))
    );
    for tail in [vec![0; 4096], vec![200, 0, 0, 0, 1, 2, 3, 4, 5, 6], vec![7; 3]] {
        let torn = |bytes: &mut Vec<u8>| bytes.extend(&tail);
        with_bytes(wal, torn, || {
            let (code, told, text) = verified(&home);
            assert_eq!((code, &told["rows_ahead"]), (Some(0), &json!(3)), "{text}");
            assert_eq!(told["wal"][0]["torn_bytes"], json!(tail.len()));
        });
    }
    // In the middle frame: one is read, and two are lost.
    with_bytes(
        wal,
        |bytes| {
            let middle = bytes.len() / 2;
            flip(bytes, middle);
        },
        || {
            broken(&home, wal, "a frame's bytes are not those of its CRC");
            assert_eq!(verified(&home).1["rows_ahead"], json!(1));
        },
    );
    // The next start makes files of it, and all is well.
    Server::launch(&mut logging(&home)).stop();
    let (code, told, text) = verified(&home);
    assert_eq!(
        (code, &told["rows"], &told["rows_ahead"]),
        (Some(0), &json!(3), &json!(0)),
        "{text}"
    );
}
