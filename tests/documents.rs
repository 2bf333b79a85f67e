//! Documents that repeat what the code says are held to it.

use onnxd::{
    repository::options::{Defaults, ModelOptions},
    types::error::Code,
};

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
