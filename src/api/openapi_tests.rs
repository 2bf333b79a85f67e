//! The document against the routes it speaks of, and the page against its own promise.

use std::io::Read;

use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::api::{fixture, http, operator};

struct Answered {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Bytes,
}

async fn ask(router: &Router, method: &str, path: &str) -> Answered {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answered { status: parts.status.as_u16(), headers: parts.headers, body }
}

fn ports() -> [Router; 2] {
    let api = fixture::api();
    let operator = operator::router(&api, Arc::new(String::new));
    [http::router(Arc::new(api)), operator]
}

async fn document(router: &Router) -> Value {
    let answered = ask(router, "GET", "/openapi.json").await;
    assert_eq!(answered.status, 200);
    assert_eq!(answered.headers[header::CONTENT_TYPE], "application/json");
    serde_json::from_slice(&answered.body).unwrap()
}

/// (path, method, operation) of everything in a document.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "delete", "patch"] {
            if let Some(operation) = item.get(method) {
                all.push((path.as_str(), method, operation));
            }
        }
    }
    all
}

/// Every operation answers with a status that the document gives it, and none says that it is not here. Infer is the
/// fast lane's: tests/clients/test_openapi.py asks the whole server.
#[tokio::test]
async fn what_is_listed_is_there() {
    for router in ports() {
        let document = document(&router).await;
        for (path, method, operation) in operations(&document) {
            let listed: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
            assert!(!listed.contains(&&"501".to_string()), "{path}");
            if path.ends_with("/infer") || path.contains(':') {
                continue;
            }
            for (model, version) in
                [("digits", "1"), ("digits", "9"), ("broken", "1"), ("%ff", "1")]
            {
                let asked = path.replace("{model}", model).replace("{version}", version);
                let asked = asked.replace("{label}", "canary");
                let status = ask(&router, &method.to_uppercase(), &asked).await.status.to_string();
                assert!(
                    listed.contains(&&status),
                    "{method} {asked}: {status} is not in {listed:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_data_ports_list_what_clients_call_and_leave_out_what_is_not_here() {
    let [data, operator] = ports();
    let (data, operator) = (document(&data).await, document(&operator).await);
    let paths = data["paths"].as_object().unwrap();
    for path in [
        "/v2",
        "/v2/health/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
        "/v2/models/{model}/versions/{version}/config",
        "/v2/models/stats",
        "/v2/repository/index",
        "/v2/repository/models/{model}/load",
        "/v2/repository/models/{model}/unload",
        "/v1/models/{model}",
        "/v1/models/{model}:predict",
        "/v1/models/{model}/versions/{version}:predict",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    for part in ["generate", "shared", "inference.GRPC", "admin"] {
        assert!(!paths.keys().any(|path| path.contains(part)), "{part}");
    }
    let paths = operator["paths"].as_object().unwrap();
    assert!(paths.contains_key("/admin/v1/explain/{model}/{version}"));
    assert!(!paths.keys().any(|path| path.contains("infer")));
}

/// A generated client has a method for each identifier, and a type for each reference.
#[tokio::test]
async fn identifiers_are_unique_and_references_resolve() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    for router in ports() {
        let document = document(&router).await;
        let mut ids: Vec<&str> = operations(&document)
            .iter()
            .map(|(.., o)| o["operationId"].as_str().unwrap())
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 5);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }
}

/// What the gate takes stands where it takes it, and nowhere else.
#[tokio::test]
async fn the_gates_answers_are_listed() {
    for (port, router) in [Port::Data, Port::Operator].into_iter().zip(ports()) {
        let document = document(&router).await;
        for (path, method, operation) in operations(&document) {
            let open = asked(port, &method.to_uppercase(), path).access == Access::Open;
            for status in ["401", "403"] {
                assert_eq!(operation["responses"][status].is_object(), !open, "{method} {path}");
            }
            assert_eq!(operation["security"].is_array(), !open, "{method} {path}");
        }
        let health = &document["paths"]["/v2/health/ready"]["get"];
        assert!(health["security"].is_null() && health["responses"]["401"].is_null());
    }
}

/// The document says of an error what the table says.
#[tokio::test]
async fn statuses_and_conditions_are_the_tables() {
    let [data, _] = ports();
    let document = document(&data).await;
    let infer = &document["paths"]["/v2/models/{model}/infer"]["post"]["responses"];
    for code in Code::ALL {
        let response = &infer[code.http().to_string()];
        if response.is_object() && response["description"] == code.condition() {
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ErrorBody");
            assert_eq!(response["headers"].is_object(), code == Code::Overloaded);
        }
    }
    for code in [Code::InvalidArgument, Code::Overloaded, Code::DeadlineExceeded] {
        assert_eq!(infer[code.http().to_string()]["description"], code.condition());
    }
}

#[tokio::test]
async fn the_page_asks_nobody_but_this_server() {
    for router in ports() {
        let there = ask(&router, "GET", "/docs").await;
        assert_eq!(
            (there.status, &there.headers[header::LOCATION]),
            (308, &"docs/".parse().unwrap())
        );
        let index = ask(&router, "GET", "/docs/").await;
        assert_eq!(index.status, 200);
        let html = String::from_utf8(unpacked(&index)).unwrap();
        let mut linked = 0;
        for attribute in ["src=\"", "href=\""] {
            for (at, _) in html.match_indices(attribute) {
                let target = html[at + attribute.len()..].split('"').next().unwrap();
                assert!(!target.contains("//"), "{target} is elsewhere");
                let file = format!("/docs/{}", target.trim_start_matches("./"));
                assert_eq!(ask(&router, "GET", &file).await.status, 200, "{target}");
                linked += 1;
            }
        }
        assert!(linked >= 5, "{html}");
        let policy = index.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        // Whatever a script of the page wants: browsers take these to mean this server alone.
        for directive in ["default-src 'none'", "connect-src 'self'", "script-src 'self'"] {
            assert!(policy.split("; ").any(|part| part == directive), "{policy}");
        }
        assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");
        let start = unpacked(&ask(&router, "GET", "/docs/swagger-initializer.js").await);
        let start = String::from_utf8(start).unwrap();
        assert!(start.contains("\"../openapi.json\"") && !start.contains("://"), "{start}");
        let missing = ask(&router, "GET", "/docs/nope.js").await;
        assert_eq!(
            (missing.status, &missing.headers[header::CONTENT_TYPE]),
            (404, &"application/json".parse().unwrap())
        );
    }
}

fn unpacked(answered: &Answered) -> Vec<u8> {
    let encoding = answered.headers.get(header::CONTENT_ENCODING);
    if encoding.is_none_or(|encoding| encoding != "gzip") {
        return answered.body.to_vec();
    }
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&answered.body[..]).read_to_end(&mut text).unwrap();
    text
}
