//! What a version is held to before it takes over.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    repository::{
        calls::{Command, Target},
        check::check,
        fake::{Fake, backends, current, graph, model, options, put, started},
    },
    runtime::onnx_writer::{GraphWriter, ModelWriter},
    types::datatype::Datatype,
};

/// Why the newest of what is on disk is refused.
fn refused(manager: &Manager) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let target = Target { model: "iris".into(), version: None };
    let result = runtime.block_on(manager.control.ask(Command::Load(vec![target])));
    result.err().map(|error| error.message.into_owned()).unwrap_or_default()
}

fn sample(answer: &serde_json::Value) -> Vec<u8> {
    let request = json!({"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]});
    json!({"request": request, "response": answer}).to_string().into_bytes()
}

fn zeros(count: usize) -> serde_json::Value {
    json!({"outputs": [
        {"name": "y", "datatype": "FP32", "shape": [1, count], "data": vec![0; count]}]})
}

#[test]
fn a_version_that_answers_otherwise_than_its_predecessor_is_refused() {
    let dir = TempDir::new().unwrap();
    let wide = GraphWriter::new()
        .input("x", Datatype::Fp32, &["N", "4"])
        .output("y", Datatype::Fp32, &["N", "M"])
        .node("Relu", &["x"], &["y"]);
    let wide = |fake| ModelWriter::default().property("fake", fake).write(&wide);
    put(dir.path(), "iris/1/model.onnx", &wide(""));
    let (manager, _) = started(&options(dir.path()));
    for (bad, why) in [
        (model("nan"), "output 'y' has NaN, its predecessor's had none"),
        (wide("wide"), "output 'y' has the shape [1, 2], its predecessor's was [1, 1]"),
    ] {
        put(dir.path(), "iris/2/model.onnx", &bad);
        let error = refused(&manager);
        assert!(error.contains("on the same made-up input"), "{error}");
        let shape = "has the shape [1, 3]";
        assert!(error.contains(why) || error.contains(shape), "{error}");
        assert!(error.ends_with("version 1 serves"), "{error}");
        assert_eq!(current(&manager, "iris"), Ok(1));
    }
    put(dir.path(), "iris/2/model.onnx", &wide("warn"));
    assert_eq!(refused(&manager), "");
    assert_eq!(current(&manager, "iris"), Ok(2));
    // Its own files, changed in place.
    put(dir.path(), "iris/2/model.onnx", &wide("nan"));
    assert!(refused(&manager).contains("has NaN"));
    assert!(manager.table.load().model("iris").unwrap().refused[&2].contains("has NaN"));
}

#[test]
fn a_first_version_with_nan_serves_and_is_talked_of() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model("nan"));
    let (manager, _) = started(&options(dir.path()));
    let version = manager.table.load().resolve("iris", "").unwrap();
    assert_eq!(version.explanation["advice"], json!(["output 'y' has NaN on made-up input"]));
    // Its successor may have it as well.
    put(dir.path(), "iris/2/model.onnx", &model("nan"));
    assert_eq!(refused(&manager), "");
}

#[test]
fn a_signature_that_callers_cannot_use_is_refused_unless_it_is_allowed() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    let other = graph().input("more", Datatype::Fp32, &["N", "1"]);
    put(dir.path(), "iris/2/model.onnx", &ModelWriter::default().write(&other));
    let error = refused(&manager);
    assert!(error.contains("callers of version 1 could not use it"), "{error}");
    assert!(error.contains("it needs a further input 'more'"), "{error}");
    assert_eq!(current(&manager, "iris"), Ok(1));
    put(dir.path(), "iris/model.yaml", b"allow_signature_change: true");
    assert_eq!(refused(&manager), "");
    assert_eq!(current(&manager, "iris"), Ok(2));
}

#[test]
fn recorded_samples_refuse_what_answers_them_wrongly() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    put(dir.path(), "iris/samples/a.json", &sample(&zeros(3)));
    let (manager, _) = started(&options(dir.path()));
    let version = manager.table.load().resolve("iris", "").unwrap();
    assert_eq!(version.explanation["samples"], 1);
    let wrong = json!({"outputs": [
        {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0.5]}]});
    put(dir.path(), "iris/2/model.onnx", &model(""));
    put(dir.path(), "iris/2/samples/b.json", &sample(&wrong));
    let error = refused(&manager);
    assert!(
        error.contains("iris/2/samples/b.json: output 'y': expected 0.5 at 2, got 0"),
        "{error}"
    );
    assert_eq!(current(&manager, "iris"), Ok(1));
    put(dir.path(), "iris/2/samples/b.json", b"{\"inputs\": []}");
    assert!(refused(&manager).contains("iris/2/samples/b.json: expected {\"request\""));
    let fake = Arc::new(Fake::default());
    let verdict = check(&options(dir.path()), &backends(&fake)).unwrap();
    assert_eq!(verdict.versions.iter().filter(|checked| checked.outcome.is_err()).count(), 1);
    put(dir.path(), "iris/2/samples/b.json", &sample(&zeros(3)));
    assert_eq!(refused(&manager), "");
    assert_eq!(current(&manager, "iris"), Ok(2));
}
