//! A machine without ONNX Runtime: what tract serves well is served, the rest says what to install.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::support::{
    files::Home,
    http::{self, infer, post},
    server::{Server, run_to_end},
};

/// The binary, where no library lies beside it and none is found by the environment.
struct Bare {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

impl Bare {
    fn new() -> Bare {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let bin = folder.path().join("install/bin");
        fs::create_dir_all(&bin).expect("a directory");
        let binary = bin.join("onnxd");
        fs::copy(env!("CARGO_BIN_EXE_onnxd"), &binary).expect("the binary can be copied");
        fs::create_dir(folder.path().join("home")).expect("a directory");
        Bare { folder, binary }
    }

    fn serve(&self, repository: &Path) -> Command {
        let ordinary = Server::command(self.folder.path(), repository);
        let mut command = Command::new(&self.binary);
        let home = self.folder.path().join("home");
        command
            .args(ordinary.get_args())
            .current_dir(self.folder.path())
            .env("HOME", &home)
            .env("XDG_DATA_HOME", home.join("data"))
            .env_remove("ORT_DYLIB_PATH")
            .env_remove("LD_LIBRARY_PATH");
        command
    }
}

#[test]
fn plain_networks_are_served_on_tract_and_trees_are_refused() {
    let home = Home::of(&["wine", "diabetes"]);
    let ordinary = Server::launch(
        Server::command(home.path(), &home.repository()).env("ONNXD_READINESS", "lenient"),
    );
    let bare = Bare::new();
    let server = Server::launch(bare.serve(&home.repository()).env("ONNXD_READINESS", "lenient"));

    let log = server.said();
    let told: Vec<&str> = log.lines().filter(|l| l.contains("models run on tract")).collect();
    assert_eq!(told.len(), 1, "one clear line:\n{log}");
    for word in ["ONNX Runtime", "fetch-onnxruntime.sh", "--onnxruntime-lib"] {
        assert!(told[0].contains(word), "{}", told[0]);
    }

    let [theirs, ours] = [&ordinary, &server].map(|s| infer(&s.http, "wine", "", &http::wine()));
    assert_eq!(theirs.json()["model_version"], ours.json()["model_version"]);
    let outputs = theirs.json()["outputs"].as_array().expect("outputs").len();
    for i in 0..outputs {
        assert_eq!(theirs.json()["outputs"][i]["name"], ours.json()["outputs"][i]["name"]);
        for (a, b) in theirs.output(i).iter().zip(ours.output(i)) {
            assert!((a - b).abs() < 1e-4, "{a} on ONNX Runtime, {b} on tract");
        }
    }
    let platform = |s: &Server| http::get(&s.http, "/v2/models/wine").json()["platform"].clone();
    assert_ne!(platform(&ordinary), platform(&server));

    let index = post(&server.http, "/v2/repository/index", "", &json!({})).json();
    let entry = index.as_array().expect("an array").iter().find(|e| e["name"] == "diabetes");
    let entry = entry.expect("diabetes is in the index");
    assert_eq!(entry["state"], "UNAVAILABLE");
    let reason = entry["reason"].as_str().expect("a reason");
    for word in ["TreeEnsemble", "install ONNX Runtime", "tract", "--onnxruntime-lib"] {
        assert!(reason.contains(word), "no {word:?} in {reason:?}");
    }
    let refused = http::get(&server.http, "/v2/models/diabetes/ready");
    assert_eq!(refused.status, 503);
    server.stop();
    ordinary.stop();
}

#[test]
fn a_library_that_is_named_and_missing_ends_the_start() {
    let home = Home::of(&["versioned"]);
    let bare = Bare::new();
    let missing = home.path().join("absent/libonnxruntime.so");
    let mut command = bare.serve(&home.repository());
    let ended = run_to_end(command.arg("--onnxruntime-lib").arg(&missing));
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(missing.to_str().expect("UTF-8")), "{}", ended.stderr);
    assert!(!ended.stderr.contains("listening"), "{}", ended.stderr);
}
