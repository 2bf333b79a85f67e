//! Documents that repeat what the code says are held to it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use onnxd::{
    config::Config,
    repository::options::{Defaults, ModelOptions},
    types::error::Code,
};
use serde_json::Value;

/// The first block of docs/model-yaml.md has every key with its default, and each key has a row.
#[test]
fn model_yaml_is_documented_whole() {
    let document = include_str!("../docs/model-yaml.md");
    let block = document.split("```yaml\n").nth(1).and_then(|b| b.split("```").next());
    let block = block.expect("the document has a block of YAML");
    let read = ModelOptions::read(block, "docs/model-yaml.md", &Defaults::default());
    assert_eq!(read.expect("the block is accepted"), ModelOptions::default());
    let all = serde_json::to_value(ModelOptions::default()).expect("options are a value");
    let mut keys = Vec::new();
    for (key, value) in all.as_object().expect("a map") {
        match value.as_object().filter(|map| !map.is_empty()) {
            Some(map) => keys.extend(map.keys().cloned()),
            None => keys.push(key.clone()),
        }
    }
    for key in keys {
        assert!(block.contains(&format!("{key}: ")), "{key} is not in the block");
        assert!(document.contains(&format!("\n| `{key}` | ")), "{key} has no row");
    }
}

/// Every code has its row in ARCHITECTURE.md, with the same statuses and blame.
#[test]
fn the_error_table_is_documented() {
    let document = include_str!("../ARCHITECTURE.md");
    for code in Code::ALL {
        let label = format!("| `{}` |", code.label());
        let row = document.lines().find(|line| line.contains(&label));
        let row = row.unwrap_or_else(|| panic!("{} has no row", code.label()));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, _, http, grpc, _, blame, _] = cells[..] else { panic!("{row}") };
        assert!(http.starts_with(&code.http().to_string()), "{row}");
        assert!(grpc.starts_with(GRPC[usize::from(code.grpc())]), "{row}");
        assert_eq!(blame, format!("{:?}", code.blame()).to_lowercase(), "{row}");
    }
}

/// gRPC's names of its status codes, by number.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Every option that is a limit has a row in docs/limits.md with its default, and each row an option. The limits that are
/// fixed are held to theirs in `wire/check.rs`.
#[test]
fn limits_are_documented_whole() {
    let document = include_str!("../docs/limits.md");
    let words =
        ["max_", "limit", "timeout", "deadline", "delay", "_bytes", "_ms", "_us", "_seconds"];
    let options = options("", &serde_json::to_value(Config::default()).expect("a value"));
    let is_limit = |key: &str| words.iter().any(|word| key.contains(word));
    let limits: Vec<_> = options.iter().filter(|(key, _)| is_limit(key)).collect();
    assert!(limits.len() > 10);
    for (key, default) in limits {
        let row = format!("\n| `{key}` | {default} | ");
        assert!(document.contains(&row), "docs/limits.md has no row that begins with {row}");
    }
    for row in document.lines().filter_map(|line| line.strip_prefix("| `")) {
        let key = row.split('`').next().unwrap_or(row);
        assert!(options.iter().any(|(known, _)| known == key), "{key} is no option");
    }
}

/// Every number and word of a configuration with its dotted key.
fn options(prefix: &str, value: &Value) -> Vec<(String, String)> {
    let Value::Object(map) = value else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in map {
        let key = format!("{prefix}{key}");
        match value {
            Value::Number(number) => found.push((key, number.to_string())),
            Value::String(word) => found.push((key, word.clone())),
            other => found.extend(options(&format!("{key}."), other)),
        }
    }
    found
}

/// What docs/beside-triton.md says a row is shown by is there: `e2e NAME` is a file or a test of tests/e2e, and so on.
#[test]
fn what_shows_each_row_beside_triton_is_there() {
    let document = include_str!("../docs/beside-triton.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut shown = 0;
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        let by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for named in by.split('`').skip(1).step_by(2).filter_map(|named| named.split_once(' ')) {
            let (target, name) = named;
            let files = match target {
                "lib" => rust_files(&root.join("src")),
                "e2e" => rust_files(&root.join("tests/e2e")),
                "cargo" => {
                    let bench = name.strip_prefix("bench --bench ").expect("a bench");
                    vec![root.join("benches").join(bench).with_extension("rs")]
                }
                test => vec![root.join("tests").join(test).with_extension("rs")],
            };
            let is_here = |file: &PathBuf| {
                let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{by}: {e}"));
                target == "cargo"
                    || file
                        .components()
                        .any(|part| Path::new(part.as_os_str()).file_stem() == Some(name.as_ref()))
                    || [format!("fn {name}("), format!("mod {name};")]
                        .iter()
                        .any(|item| text.contains(item))
            };
            assert!(files.iter().any(is_here), "{target} {name} is not there");
            shown += 1;
        }
    }
    assert!(shown > 15, "{shown}");
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
