//! Files that no runtime can serve: each fails alone, with its file and the reason, wherever an operator looks.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::{
    files::Home,
    http::{self, infer, post},
    server::{Ended, Server, run_to_end},
};

/// Model, what its reason must name, for every model of `broken` that fails.
const REASONS: [(&str, &[&str]); 7] = [
    ("empty", &["empty/1/model.onnx", "empty"]),
    ("truncated", &["truncated/1/model.onnx", "ONNX"]),
    ("garbage", &["garbage/1/model.onnx", "ONNX"]),
    ("unknown_operator", &["unknown_operator/1/model.onnx", "Nonesuch"]),
    ("zipmap", &["zipmap/1/model.onnx", "sequence", "zipmap"]),
    ("typo", &["typo/model.yaml", "speed", "2"]),
    ("folders", &["folders"]),
];

fn broken() -> Home {
    let home = Home::of(&["versioned", "simple", "unknown_operator", "zipmap"])
        .model("typo", "simple")
        .yaml("typo", "speed: 9\n")
        .model("previous", "versioned")
        .yaml("previous", "versions: latest\n")
        .file("folders/one/readme.txt", b"no version at all")
        .file("empty/1/model.onnx", b"")
        .file("garbage/1/model.onnx", &b"this is no model, and never was one\n".repeat(50));
    let whole = home.read("simple/1/model.onnx");
    home.file("truncated/1/model.onnx", &whole[..whole.len() / 2])
        .file("previous/3/model.onnx", &whole[..whole.len() / 2])
}

fn index(server: &Server) -> Value {
    post(&server.http, "/v2/repository/index", "", &json!({})).json()
}

/// State and reason of a version in an index; `version` is empty for a model that has none.
fn entry(index: &Value, model: &str, version: &str) -> (String, String) {
    let found = index
        .as_array()
        .expect("an array")
        .iter()
        .find(|e| e["name"] == model && e["version"].as_str().unwrap_or("") == version);
    let found = found.unwrap_or_else(|| panic!("{model} {version} is not in {index}"));
    let text = |key: &str| found[key].as_str().unwrap_or("").to_owned();
    (text("state"), text("reason"))
}

/// The reason why a model of `REASONS` does not serve.
fn reason(index: &Value, model: &str) -> String {
    let entries = index.as_array().expect("an array").iter().filter(|e| e["name"] == model);
    let entries: Vec<&Value> = entries.collect();
    assert!(!entries.is_empty(), "{model} is not in {index}");
    for entry in &entries {
        assert_eq!(entry["state"], "UNAVAILABLE", "{entry}");
    }
    entries[0]["reason"].as_str().expect("a reason").to_owned()
}

#[test]
fn each_fails_alone_with_its_file_and_the_reason() {
    let home = broken();
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_READINESS", "lenient"));
    let index = index(&server);
    for (model, words) in REASONS {
        let reason = reason(&index, model);
        for word in words {
            assert!(reason.contains(word), "{model}: no {word:?} in {reason:?}");
        }
        assert!(!reason.contains(home.path().to_str().expect("UTF-8")), "a path: {reason}");
        assert!(server.said().contains(model), "the log names {model}");
        let refused = infer(&server.http, model, "", &http::four(1.0));
        assert_eq!(refused.status, 503, "{}", String::from_utf8_lossy(&refused.body));
    }

    // Only the version that is broken fails: the one before serves, with what the newest should have.
    let (state, reason) = entry(&index, "previous", "3");
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains("previous/3/model.onnx"), "{reason}");
    assert_eq!(entry(&index, "previous", "2").0, "READY");
    let answer = infer(&server.http, "previous", "", &http::four(1.0));
    assert_eq!(answer.json()["model_version"], "2");
    assert_eq!(answer.output(0), [3.0; 4]);

    // And the rest serves.
    for version in ["1", "2", "3"] {
        assert_eq!(entry(&index, "versioned", version).0, "READY");
    }
    assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);
    let ready = post(&server.http, "/v2/repository/index", "", &json!({"ready": true})).json();
    let ready: Vec<&str> =
        ready.as_array().expect("an array").iter().filter_map(|e| e["name"].as_str()).collect();
    assert_eq!(ready, ["previous", "simple", "versioned", "versioned", "versioned"]);
    server.stop();
}

#[test]
fn a_server_that_lacks_a_model_is_not_ready_unless_told() {
    let home = Home::of(&["versioned", "unknown_operator"]);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_READINESS", "lenient"));
    assert_eq!(http::get(&server.http, "/v2/health/ready").status, 200);
    assert_eq!(http::get(&server.http, "/v2/models/unknown_operator/ready").status, 503);
    assert_eq!(http::get(&server.http, "/v2/models/versioned/ready").status, 200);
    server.stop();
}

fn check(repository: &Path, args: &[&str]) -> Ended {
    let binary = env!("CARGO_BIN_EXE_onnxd");
    run_to_end(Command::new(binary).arg("check").arg("--models").arg(repository).args(args))
}

#[test]
fn check_finds_the_same_without_serving() {
    let home = broken();
    let text = check(&home.repository(), &[]);
    assert_eq!(text.code, Some(3), "{}{}", text.stdout, text.stderr);
    let machine = check(&home.repository(), &["--output", "json"]);
    assert_eq!(machine.code, Some(3), "{}{}", machine.stdout, machine.stderr);
    let found: Value = serde_json::from_str(&machine.stdout).expect("JSON");
    let result = |model: &str| {
        let rows = found["models"].as_array().expect("rows").iter();
        let results = rows.filter(|row| row["model"] == model);
        results.map(|row| row["result"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    for (model, words) in REASONS {
        let results = result(model);
        assert!(!results.is_empty(), "{model} is not in {found}");
        for word in words {
            assert!(results[0].contains(word), "{model}: no {word:?} in {results:?}");
            assert!(text.stdout.contains(word), "{model}: no {word:?} in {}", text.stdout);
        }
    }
    assert_eq!(result("simple"), ["ok"]);
    assert_eq!(result("versioned"), ["ok"; 3]);
    let previous = result("previous");
    assert_eq!(previous.len(), 2, "the broken version and the one that serves instead");
    assert!(previous[0].contains("previous/3/model.onnx") && previous[1] == "ok", "{previous:?}");
}

#[test]
fn check_is_content_with_a_good_repository() {
    let home = Home::of(&["versioned", "simple"]);
    let good = check(&home.repository(), &[]);
    assert_eq!(good.code, Some(0), "{}{}", good.stdout, good.stderr);
    let missing = check(&home.path().join("nothing"), &[]);
    assert_eq!(missing.code, Some(1), "{}{}", missing.stdout, missing.stderr);
    assert!(missing.stderr.contains("nothing"), "{}", missing.stderr);
}
