//! What clients see of the HTTP routes, through the router of a data port.

use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::api::fixture;

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn json(&self) -> Value {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The message of an error, which is JSON of one key.
    fn error(&self) -> String {
        let value = self.json();
        value["error"].as_str().expect("an error").to_string()
    }
}

async fn ask(api: Api, method: &str, path: &str, body: &str) -> Answered {
    let request =
        Request::builder().method(method).uri(path).body(Body::from(body.to_string())).unwrap();
    let response = router(Arc::new(api)).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answered { status: parts.status.as_u16(), headers: parts.headers, body }
}

async fn get_(path: &str) -> Answered {
    ask(fixture::api(), "GET", path, "").await
}

async fn post_(path: &str, body: &str) -> Answered {
    ask(fixture::api(), "POST", path, body).await
}

#[tokio::test]
async fn the_server_says_who_it_is() {
    let metadata = get_("/v2").await;
    assert_eq!(metadata.status, 200);
    assert_eq!(metadata.json()["name"], "onnxd");
    assert_eq!(metadata.json()["version"], env!("CARGO_PKG_VERSION"));
    assert!(metadata.json()["extensions"].as_array().unwrap().contains(&"statistics".into()));
    assert_eq!(get_("/").await.json(), json!({ "status": "alive" }));
}

#[tokio::test]
async fn health_is_a_status_for_some_clients_and_a_body_for_others() {
    for ready in [true, false] {
        let api = Api { ready: watch::channel(ready).1, ..fixture::api() };
        let live = ask(api.clone(), "GET", "/v2/health/live", "").await;
        assert_eq!((live.status, live.json()), (200, json!({ "live": true, "ready": ready })));
        let answered = ask(api, "GET", "/v2/health/ready", "").await;
        assert_eq!(answered.status, if ready { 200 } else { 503 });
        assert_eq!(answered.json()["ready"], ready);
        assert_eq!(answered.json()["live"], true);
        assert_eq!(answered.json().get("error").is_some(), !ready);
    }
}

#[tokio::test]
async fn models_are_described() {
    for path in ["/v2/models/digits", "/v2/models/digits/versions/1"] {
        let metadata = get_(path).await;
        assert_eq!(metadata.status, 200);
        let expected = json!({
            "name": "digits",
            "versions": ["1", "2"],
            "platform": "onnxruntime_onnx",
            "inputs": [{ "name": "image", "datatype": "FP32", "shape": [-1, 8, 8] }],
            "outputs": [{ "name": "label", "datatype": "BYTES", "shape": [-1] }],
        });
        assert_eq!(metadata.json(), expected);
    }
}

#[tokio::test]
async fn what_is_unknown_is_404_and_what_does_not_serve_is_503() {
    for tail in ["", "/ready", "/config", "/stats"] {
        for (model, status) in [
            ("digits", 200),
            ("%64igits", 200),
            ("digits/versions/2", 200),
            ("digits/versions/3", 503),
            ("digits/versions/4", 503),
            ("broken", 503),
            ("empty", 503),
            ("digits/versions/9", 404),
            ("digits/versions/two", 404),
            ("digits/versions/-1", 404),
            ("digits/versions/99999999999999999999", 404),
            ("nosuch", 404),
            ("..%2f..%2fetc", 404),
            ("a%00b", 404),
            ("%ff", 400),
        ] {
            let answered = get_(&format!("/v2/models/{model}{tail}")).await;
            assert_eq!(answered.status, status, "{model}{tail}");
            if status != 200 {
                assert!(!answered.error().is_empty());
            }
        }
    }
    let failed = get_("/v2/models/digits/versions/4/ready").await;
    assert_eq!(failed.json()["ready"], false);
    assert!(failed.error().contains("the file is cut off"));
    let ready = get_("/v2/models/digits/ready").await;
    assert_eq!(ready.json(), json!({ "name": "digits", "ready": true }));
}

#[tokio::test]
async fn the_configuration_has_what_perf_analyzer_reads() {
    let config = get_("/v2/models/digits/config").await.json();
    assert_eq!(config["max_batch_size"], 64);
    assert_eq!(config["input"][0]["name"], "image");
    assert_eq!(config["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(config["input"][0]["dims"], json!([8, 8]));
    assert_eq!(config["output"][0]["data_type"], "TYPE_STRING");
    assert!(config["dynamic_batching"].is_object());
    assert_eq!(config["model_transaction_policy"], json!({ "decoupled": false }));
}

#[tokio::test]
async fn every_count_is_there_before_anything_was_counted() {
    let all = get_("/v2/models/stats").await.json();
    let stats = all["model_stats"].as_array().unwrap();
    assert_eq!(stats.len(), 2);
    for (entry, version) in stats.iter().zip(["1", "2"]) {
        assert_eq!((&entry["name"], &entry["version"]), (&json!("digits"), &json!(version)));
        for number in ["last_inference", "inference_count", "execution_count"] {
            assert_eq!(entry[number], 0, "{number}");
        }
        for duration in [
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
            "cache_hit",
            "cache_miss",
        ] {
            assert_eq!(entry["inference_stats"][duration], json!({ "count": 0, "ns": 0 }));
        }
        assert_eq!(entry["batch_stats"], json!([]));
        let memory = json!([{ "type": "CPU", "id": 0, "byte_size": 300 }]);
        assert_eq!(entry["memory_usage"], memory);
    }
    let one = get_("/v2/models/digits/versions/2/stats").await.json();
    assert_eq!(one["model_stats"].as_array().unwrap().len(), 1);
    assert_eq!(one["model_stats"][0]["version"], "2");
}

#[tokio::test]
async fn the_index_lists_every_version_with_its_state() {
    for body in ["", " \n", "null", "{}", r#"{"ready":false}"#, r#"{"ready":false,"more":1}"#] {
        let index = post_("/v2/repository/index", body).await;
        assert_eq!(index.status, 200, "{body}");
        let expected = json!([
            { "name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "unknown operator Foo" },
            { "name": "digits", "version": "1", "state": "READY", "reason": "" },
            { "name": "digits", "version": "2", "state": "READY", "reason": "" },
            { "name": "digits", "version": "3", "state": "LOADING", "reason": "" },
            { "name": "digits", "version": "4", "state": "UNAVAILABLE", "reason": "the file is cut off" },
            { "name": "empty", "version": "", "state": "UNAVAILABLE", "reason": "model.yaml: unknown key 'speed'" },
        ]);
        assert_eq!(index.json(), expected, "{body}");
    }
    let ready = post_("/v2/repository/index", r#"{"ready":true}"#).await.json();
    assert_eq!(ready.as_array().unwrap().len(), 2);
    for body in ["{", "[1]", r#"{"ready":"yes"}"#, "\u{0}"] {
        let refused = post_("/v2/repository/index", body).await;
        assert_eq!(refused.status, 400, "{body}");
        assert!(!refused.error().is_empty());
    }
    let large = post_("/v2/repository/index", &" ".repeat(3 << 20)).await;
    assert_eq!(large.status, 413);
    assert!(!large.error().is_empty());
}

#[tokio::test]
async fn load_and_unload_check_the_name_first() {
    for verb in ["load", "unload"] {
        for (control, model, status) in [
            (false, "digits", 403),
            (true, "nosuch", 404),
            (true, "broken", 400),
            (false, "nosuch", 404),
            (false, "..%2fetc", 400),
            (true, "a%00b", 400),
            (true, "%ff", 400),
        ] {
            let api = Api { control, ..fixture::api() };
            let path = format!("/v2/repository/models/{model}/{verb}");
            let answered = ask(api, "POST", &path, "").await;
            assert_eq!(answered.status, status, "{control} {path}");
            assert!(!answered.error().is_empty());
        }
        let api = || Api { control: true, ..fixture::api() };
        let path = format!("/v2/repository/models/digits/{verb}");
        for (body, status) in [
            ("", 200),
            ("{}", 200),
            (r#"{"parameters":{"unload_dependents":false}}"#, 200),
            (r#"{"parameters":{"version":1}}"#, 200),
            (r#"{"parameters":{"config":"{}"}}"#, 400),
            ("[]", 400),
            ("{", 400),
        ] {
            let answered = ask(api(), "POST", &path, body).await;
            assert_eq!(answered.status, status, "{body}");
            match status {
                200 => assert_eq!(answered.json(), json!({"name": "digits", verb: true})),
                _ => assert!(!answered.error().is_empty()),
            }
        }
        let refused = post_(&format!("/v2/repository/models/digits/{verb}"), "").await;
        assert!(refused.error().contains("--control"), "{}", refused.error());
        let elsewhere = post_(&format!("/v2/repository/west/models/digits/{verb}"), "").await;
        assert_eq!(elsewhere.status, 501);
    }
}

#[tokio::test]
async fn extensions_that_are_not_here() {
    for kind in ["systemsharedmemory", "cudasharedmemory"] {
        assert_eq!(get_(&format!("/v2/{kind}/status")).await.json(), json!([]));
        assert_eq!(get_(&format!("/v2/{kind}/region/r/status")).await.status, 404);
        assert_eq!(post_(&format!("/v2/{kind}/unregister"), "").await.status, 200);
        assert_eq!(post_(&format!("/v2/{kind}/region/r/unregister"), "").await.status, 200);
        let register = post_(&format!("/v2/{kind}/region/r/register"), "{}").await;
        assert_eq!(register.status, 501);
        assert!(register.error().contains("shared memory"));
    }
    for path in ["/v2/models/digits/generate", "/v2/models/digits/versions/1/generate_stream"] {
        assert_eq!(post_(path, "{}").await.status, 501, "{path}");
    }
}

#[tokio::test]
async fn settings_are_read_and_not_changed() {
    for (path, key, value) in [
        ("/v2/trace/setting", "trace_level", json!(["OFF"])),
        ("/v2/models/digits/trace/setting", "trace_file", json!("")),
        ("/v2/logging", "log_file", json!("")),
    ] {
        let read = get_(path).await;
        assert_eq!((read.status, &read.json()[key]), (200, &value), "{path}");
        for harmless in ["", "{}", &format!("{{\"{key}\":null}}"), &read.json().to_string()] {
            let same = post_(path, harmless).await;
            assert_eq!((same.status, same.json()), (200, read.json()), "{path} {harmless}");
        }
        let (name, other) = (key.split('_').next().unwrap(), json!("/tmp/elsewhere"));
        for (body, status) in [
            (json!({ format!("{name}_file"): other }).to_string(), 403),
            (json!({ "speed": 1 }).to_string(), 400),
            ("[]".into(), 400),
            ("{".into(), 400),
        ] {
            let refused = post_(path, &body).await;
            assert_eq!(refused.status, status, "{path} {body}");
            assert!(!refused.error().is_empty());
        }
    }
    assert_eq!(get_("/v2/models/nosuch/trace/setting").await.status, 404);
    assert_eq!(post_("/v2/models/nosuch/trace/setting", "{}").await.status, 404);
}

#[tokio::test]
async fn wrong_verbs_are_405_and_say_which_are_right() {
    for (method, path, allowed) in [
        ("PUT", "/v2", "GET"),
        ("DELETE", "/v2/models/digits", "GET"),
        ("POST", "/v2/health/live", "GET"),
        ("GET", "/v2/models/digits/infer", "POST"),
        ("GET", "/v2/models/digits/versions/1/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("PATCH", "/", "GET"),
        ("GET", "/inference.GRPCInferenceService/ServerLive", "POST"),
    ] {
        let answered = ask(fixture::api(), method, path, "{}").await;
        assert_eq!(answered.status, 405, "{method} {path}");
        let allow = answered.headers[header::ALLOW].to_str().unwrap();
        assert!(allow.split(',').any(|verb| verb.trim() == allowed), "{path}: {allow}");
        assert!(answered.error().contains(method));
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    for path in ["/v2", "/v2/health/ready", "/v2/models/digits/ready"] {
        let answered = ask(fixture::api(), "HEAD", path, "").await;
        assert_eq!((answered.status, answered.body.len()), (200, 0), "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_answer_in_the_callers_protocol() {
    for path in ["/v3", "/v2/nope", "/v2/", "/v2/models", "/v2/models/digits/nope"] {
        let answered = get_(path).await;
        assert_eq!(answered.status, 404, "{path}");
        assert!(answered.error().contains(path), "{path}");
    }
    assert_eq!(get_("/v2/models//ready").await.status, 404);
    let request = Request::post("/other.Service/Method")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Body::empty())
        .unwrap();
    let response = router(Arc::new(fixture::api())).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn json_on_a_grpc_path_is_415() {
    let answered = post_("/inference.GRPCInferenceService/ServerLive", "{}").await;
    assert_eq!(answered.status, 415);
    assert!(answered.error().contains("application/grpc"));
}
