//! The rules of the house that a compiler does not check, as tests: who imports whom, who may spawn, what stays pure, how
//! long things get. Nothing to install; a failure names file, line and rule.

#[path = "tidy/source.rs"]
mod source;

use std::{collections::BTreeSet, fs, process::Command};

use source::{
    first_word, imports, item_end, line_of, mentions, relative, root, sources, walk, word_before,
};

/// The rooms, top floor first: each may import only from those after it. A new arrow is an ADR and a change here.
const FLOORS: [&str; 18] = [
    "main",
    "cli",
    "app",
    "config",
    "api",
    "serving",
    "rollout",
    "repository",
    "cache",
    "batcher",
    "predlog",
    "runtime",
    "wire",
    "objects",
    "telemetry",
    "priority",
    "shutdown",
    "types",
];

/// Who may import `config`: every other room takes its own options.
const CONFIG_READERS: [&str; 4] = ["main", "cli", "app", "config"];

/// Files without tokio, threads, files, clock and environment: they are told the time, and property tests drive them.
const PURE: [&str; 49] = [
    "api/auth/callers.rs",
    "api/auth/keys.rs",
    "api/auth/policy.rs",
    "api/auth/roles.rs",
    "api/framing.rs",
    "api/patience.rs",
    "types/",
    "wire/",
    "batcher/assemble.rs",
    "batcher/entry.rs",
    "batcher/lines.rs",
    "batcher/mode.rs",
    "batcher/padding.rs",
    "batcher/plan.rs",
    "batcher/queue.rs",
    "batcher/schedule.rs",
    "batcher/shares.rs",
    "batcher/standing.rs",
    "cache/key.rs",
    "repository/breaker.rs",
    "repository/declared.rs",
    "predlog/cells.rs",
    "predlog/columns.rs",
    "predlog/columns/meta.rs",
    "predlog/encode.rs",
    "predlog/large.rs",
    "predlog/redact.rs",
    "predlog/sampling.rs",
    "predlog/schema.rs",
    "predlog/profile.rs",
    "predlog/profile/build.rs",
    "predlog/upload/marks.rs",
    "predlog/condition.rs",
    "predlog/footer.rs",
    "predlog/layout.rs",
    "predlog/value.rs",
    "repository/lifecycle.rs",
    "repository/manifest.rs",
    "repository/remote_list.rs",
    "repository/remote_plan.rs",
    "repository/residency.rs",
    "repository/samples.rs",
    "repository/settle.rs",
    "repository/pbtxt.rs",
    "rollout/change.rs",
    "serving/classify.rs",
    "serving/compare.rs",
    "serving/quota.rs",
    "serving/router.rs",
];

const IMPURE: [&str; 9] = [
    "tokio",
    "thread::",
    "fs::",
    "net::",
    "env::",
    "Instant::now",
    "SystemTime",
    "Mutex",
    "process::",
];

/// `types/time.rs` names the clock's type, to turn instants into ticks; its origin is the first instant it sees.
/// `policy.rs` names addresses, which are values.
const PURE_BUT: [(&str, &str); 2] =
    [("api/auth/policy.rs", "net::"), ("types/time.rs", "Instant::now")];

/// Who may start threads and tasks, and which: the list is closed, so that everything that runs is known.
const SPAWNERS: [(&str, &str); 9] = [
    (
        "api/listen.rs",
        "the network threads and the operator's, a task for each listener and connection",
    ),
    ("api/labels.rs", "reading and writing labels, whose disk may hang"),
    ("api/rollout.rs", "reading and writing traffic rules, whose disk may hang"),
    ("app.rs", "the watch over the start, and waiting for threads to end at a stop"),
    ("batcher/executor.rs", "the executors and their reserve, and those of each device's lane"),
    (
        "repository/manager.rs",
        "the manager, its eyes, its sweeper and what reads its store, and the loaders",
    ),
    (
        "predlog/store.rs",
        "the prediction log's writer, its rotator and who works aside for it, what puts its files into a store, and who looks for labels",
    ),
    ("serving/shadow.rs", "the thread that runs shadows"),
    ("telemetry/logs.rs", "the log's writer"),
];

/// Third-party crates with an owner: what nobody else may name.
const OWNERS: [(&str, &[&str]); 37] = [
    ("arc_swap", &["api/tls", "api/auth/live.rs", "api/gate.rs", "repository/", "serving/"]),
    ("arrow_array", &["predlog/"]),
    ("arrow_buffer", &["predlog/"]),
    ("arrow_ipc", &["predlog/"]),
    ("arrow_schema", &["predlog/"]),
    ("arrow_select", &["predlog/"]),
    ("axum", &["api/"]),
    ("clap", &["cli/"]),
    ("datasketches", &["predlog/profile"]),
    ("futures_util", &["predlog/upload/remote.rs", "repository/remote"]),
    ("hyper", &["api/"]),
    ("hyper_util", &["api/"]),
    ("mimalloc", &["main.rs"]),
    ("notify", &["repository/eyes.rs"]),
    ("moka", &["cache/store.rs"]),
    ("object_store", &["objects.rs", "predlog/upload/remote.rs", "repository/remote"]),
    ("opentelemetry", &["telemetry/trace.rs"]),
    ("opentelemetry_otlp", &["telemetry/trace.rs"]),
    ("opentelemetry_sdk", &["telemetry/trace.rs"]),
    ("opentelemetry", &["telemetry/trace.rs"]),
    ("opentelemetry_otlp", &["telemetry/trace.rs"]),
    ("opentelemetry_sdk", &["telemetry/trace.rs"]),
    ("ort", &["runtime/ort"]),
    ("ort_sys", &["runtime/ort"]),
    ("parquet", &["predlog/"]),
    ("rustls", &["api/tls"]),
    ("siphasher", &["cache/key.rs", "serving/router.rs"]),
    ("socket2", &["api/"]),
    ("tokio_rustls", &["api/"]),
    ("tonic", &["api/"]),
    ("tower", &["api/"]),
    ("tract_onnx", &["runtime/tract"]),
    ("tracing_subscriber", &["telemetry/logs.rs"]),
    // The configuration's shape on the wire is the repository's own.
    ("utoipa", &["api/", "repository/config.rs"]),
    ("utoipa_axum", &["api/"]),
    ("utoipa_swagger_ui", &["api/"]),
    ("x509_parser", &["api/tls"]),
];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// Fails with every complaint at once.
fn settle(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn rooms_import_only_from_floors_below() {
    let mut complaints = Vec::new();
    let floor = |room: &str| FLOORS.iter().position(|r| *r == room);
    for source in sources().iter().filter(|s| s.path.starts_with("src/") && s.path != "src/lib.rs")
    {
        let Some(own) = floor(source.room()) else {
            complaints.push(format!("{}: a room that FLOORS does not know", source.path));
            continue;
        };
        for (at, room) in imports(&source.code) {
            let (path, line) = (&source.path, line_of(&source.code, at));
            match floor(&room) {
                None => complaints.push(format!("{path}:{line}: crate::{room} is no room")),
                Some(theirs) if theirs < own => {
                    complaints.push(format!(
                        "{path}:{line}: {} may not import {room}, a floor above",
                        source.room()
                    ));
                }
                Some(_) if room == "config" && !CONFIG_READERS.contains(&source.room()) => {
                    complaints
                        .push(format!("{path}:{line}: only {CONFIG_READERS:?} import config"));
                }
                Some(_) => {}
            }
        }
    }
    settle(complaints);
}

#[test]
fn files_open_with_a_sentence_and_stay_short() {
    let mut complaints = Vec::new();
    for source in sources() {
        let first = source.text.lines().next().unwrap_or("");
        if !first.starts_with("//! ") || first.len() < 20 {
            complaints.push(format!(
                "{}:1: no sentence (`//! …`) that says what the file is for",
                source.path
            ));
        }
        let lines = source.text.lines().count();
        if lines >= FILE_LINES {
            complaints
                .push(format!("{}: {lines} lines; files stay under {FILE_LINES}", source.path));
        }
    }
    settle(complaints);
}

#[test]
fn functions_stay_short() {
    let mut complaints = Vec::new();
    for source in sources() {
        for at in mentions(&source.code, "fn") {
            let name = first_word(source.code[at + 2..].trim_start());
            let end = item_end(&source.code, at);
            // Blank lines and comments do not make a function harder to hold in one's head.
            let lines = source.code[at..end].lines().filter(|l| !l.trim().is_empty()).count();
            if !name.is_empty() && lines > FUNCTION_LINES {
                let line = line_of(&source.code, at);
                complaints.push(format!(
                    "{}:{line}: {name} has {lines} lines; {FUNCTION_LINES} is the limit",
                    source.path
                ));
            }
        }
    }
    settle(complaints);
}

#[test]
fn pure_files_are_pure() {
    let mut complaints = Vec::new();
    let sources = sources();
    for rule in PURE {
        assert!(
            sources.iter().any(|s| s.in_src().starts_with(rule)),
            "PURE names {rule}, which is not there"
        );
    }
    for source in sources.iter().filter(|s| PURE.iter().any(|p| s.in_src().starts_with(p))) {
        for word in IMPURE.iter().filter(|word| !PURE_BUT.contains(&(source.in_src(), word))) {
            for at in mentions(&source.live, word) {
                complaints.push(format!(
                    "{}:{}: {word} in a pure file",
                    source.path,
                    line_of(&source.live, at)
                ));
            }
        }
    }
    settle(complaints);
}

#[test]
fn who_may_spawn_is_a_closed_list() {
    let mut complaints = Vec::new();
    let words = [
        "thread::Builder",
        "thread::spawn",
        "thread::scope",
        "tokio::spawn",
        "spawn_blocking",
        "spawn_local",
        "task::spawn",
    ];
    for source in sources() {
        let places: Vec<usize> =
            words.iter().flat_map(|word| mentions(&source.live, word)).collect();
        let listed = SPAWNERS.iter().any(|(path, _)| *path == source.in_src());
        for at in places.iter().filter(|_| !listed) {
            complaints.push(format!(
                "{}:{}: starts a thread or task and is not in SPAWNERS",
                source.path,
                line_of(&source.live, *at)
            ));
        }
        if listed && places.is_empty() {
            complaints.push(format!("{}: is in SPAWNERS and starts nothing", source.path));
        }
    }
    settle(complaints);
}

#[test]
fn crates_stay_with_their_owners() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (name, owners) in
            OWNERS.iter().filter(|(_, o)| !o.iter().any(|o| source.in_src().starts_with(o)))
        {
            for at in mentions(&source.live, &format!("{name}::")) {
                let before = source.live[..at].trim_end();
                // A path's later part (`runtime::ort::`, `{ort::` within `use crate::…`) is one of our modules.
                let inner = before.ends_with("::")
                    || (before.ends_with(['{', ',']) && in_crate_use(&source.live, at));
                if !inner {
                    complaints.push(format!(
                        "{}:{}: {name} belongs to {owners:?}",
                        source.path,
                        line_of(&source.live, at)
                    ));
                }
            }
        }
    }
    settle(complaints);
}

/// Whether the place is inside a `use crate::…` or `use super::…`.
fn in_crate_use(code: &str, at: usize) -> bool {
    let start = code[..at].rfind(';').map_or(0, |n| n + 1);
    let statement = code[start..at].trim_start();
    statement.contains("use crate::") || statement.contains("use super::")
}

/// A word that is not to be found in live code, who may have it all the same, and why not everybody.
const BANNED: [(&str, &[&str], &str); 12] = [
    (".unwrap()", &[], "no unwrap outside tests"),
    (".unwrap_unchecked(", &[], "no unwrap outside tests"),
    (
        "println!",
        &["cli/", "app.rs", "main.rs"],
        "only the command line and the start-up banner write to the terminal",
    ),
    (
        "eprintln!",
        &["cli/", "app.rs", "main.rs"],
        "only the command line and the start-up banner write to the terminal",
    ),
    ("print!", &["cli/"], "only the command line writes to the terminal"),
    ("process::exit", &[], "main returns an exit code, so that what is open is closed"),
    ("cfg(feature", &["runtime/"], "runtime holds the only features"),
    ("pub use ", &[], "nothing is re-exported"),
    ("todo!", &[], "what is missing is not in the tree"),
    ("unimplemented!", &[], "what is missing is not in the tree"),
    ("dbg!", &[], "left over"),
    ("super::super", &[], "a path from the crate's root says where it leads"),
];

#[test]
fn banned_words() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (word, _, why) in
            BANNED.iter().filter(|(_, a, _)| !a.iter().any(|a| source.in_src().starts_with(a)))
        {
            for (at, _) in source.live.match_indices(word).filter(|(at, _)| {
                word.starts_with('.') || !word_before(source.live.as_bytes(), *at)
            }) {
                complaints.push(format!(
                    "{}:{}: {word}: {why}",
                    source.path,
                    line_of(&source.live, at)
                ));
            }
        }
    }
    settle(complaints);
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    let mut complaints = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for at in ["unsafe {", "unsafe impl"].iter().flat_map(|word| mentions(&source.code, word)) {
            let line = line_of(&source.code, at);
            if !(line.saturating_sub(12)..line).any(|n| lines[n].contains("SAFETY:")) {
                complaints
                    .push(format!("{}:{line}: unsafe without a SAFETY comment above", source.path));
            }
        }
    }
    settle(complaints);
}

#[test]
fn main_is_short_and_not_async() {
    let main = sources().into_iter().find(|s| s.path == "src/main.rs").expect("there is a main");
    assert!(main.text.lines().count() <= 40, "main.rs has more than 40 lines");
    assert!(!main.code.contains("async"), "main.rs is async");
}

/// Nothing in the tree depends on, or tells of, the machine it was written on.
/// What the README's first command builds, its second does not build again: no package has other features where tests need it.
#[test]
fn tests_need_no_feature_that_the_programs_do_not_have() {
    let built = |edges: &str| -> BTreeSet<String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--locked", "--offline", "--workspace", "--prefix", "none"]);
        let out = cargo.args(["--format", "{p} {f}", "--edges", edges]).output().expect("cargo");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout);
        text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
    };
    let (programs, tests) = (built("normal,build"), built("normal,build,dev"));
    settle(
        programs
            .difference(&tests)
            .map(|own| format!("with other features in tests: {own}"))
            .collect(),
    );
}

#[test]
fn no_paths_of_a_machine() {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    let banned = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "wt")];
    let mut complaints = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (at, _) in banned.iter().flat_map(|word| text.match_indices(word)) {
            // Not where it goes on from something, as in `$1/…` or `"$1"/…`.
            let before = text[..at].trim_end_matches('"');
            if !before.ends_with(|c: char| c.is_alphanumeric() || "_}*.~-".contains(c)) {
                let line = line_of(&text, at);
                complaints.push(format!("{}:{line}: a path of a machine", relative(&path)));
            }
        }
    }
    settle(complaints);
}
