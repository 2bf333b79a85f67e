//! What an operator sees of single requests: lines of the access log, and spans at a collector.

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;

use crate::support::{
    collector::{Collector, attribute},
    files::Home,
    grpc::{self, Grpc},
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The lines of the access log so far.
fn lines(server: &Server) -> Vec<Value> {
    let said = server.said();
    let json = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    json.filter(|line| line["target"] == "access").collect()
}

fn parent() -> String {
    format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n")
}

#[test]
fn the_access_log_has_a_line_a_request() {
    let home = Home::of(&["versioned", "burn"]);
    let mut command = Server::command(home.path(), &home.repository());
    command.args(["--log-format", "json"]).env("ONNXD_LOG_ACCESS", "all");
    let server = Server::launch(&mut command);
    let before = lines(&server).len();
    let headers = format!("x-request-id: a\u{1b}[2Jb\r\n{}", parent()).replace('\u{1b}', "%1b");
    assert_eq!(infer(&server.http, "versioned", &headers, &http::four(1.0)).status, 200);
    let calls = Grpc::connect(&server.grpc);
    assert_eq!(calls.infer("30S", &grpc::four("versioned", 1.0)).floats(), [4.0; 4]);
    calls.infer("30S", &grpc::four("nosuch", 1.0));
    // A client that leaves: its line says so.
    let mut leaving = Http::connect(&server.http);
    let body = http::burn(1.0, 1_000_000_000).to_string();
    leaving.send(&http::request("POST", &infer_path("burn"), "", body.as_bytes()));
    watch::until("the burn is in", || watch::in_flight(&server, "burn") == 1);
    drop(leaving);
    let of = |path: &str, code: &str| {
        let found = lines(&server).into_iter().skip(before);
        found.filter(|l| l["path"] == path && l["code"] == code).collect::<Vec<_>>()
    };
    let burn = infer_path("burn");
    watch::until("the line of who left", || of(&burn, "cancelled").len() == 1);

    let infers = of(&infer_path("versioned"), "ok");
    let [line] = &infers[..] else { panic!("{infers:?}") };
    assert_eq!((&line["status"], &line["method"]), (&200.into(), &"POST".into()));
    assert_eq!((&line["model"], &line["version"]), (&"versioned".into(), &"3".into()));
    assert_eq!((&line["rows"], &line["protocol"]), (&1.into(), &"1.1".into()));
    assert_eq!((&line["trace_id"], &line["peer"]), (&TRACE.into(), &"127.0.0.1".into()));
    assert_eq!(line["request_id"], "a%1b[2Jb");
    assert!(line["duration_us"].is_u64() && line["queue_us"].is_u64(), "{line}");
    let call = "/inference.GRPCInferenceService/ModelInfer";
    assert_eq!(of(call, "ok")[0]["protocol"], "grpc");
    assert_eq!(of(call, "not_found").len(), 1);
    server.stop();
}

#[test]
fn the_access_log_may_have_the_failures_only() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    command.args(["--log-format", "json"]).env("ONNXD_LOG_ACCESS", "errors");
    let server = Server::launch(&mut command);
    assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).status, 200);
    assert_eq!(infer(&server.http, "nosuch", "", &http::four(1.0)).status, 404);
    let wanted = infer_path("nosuch");
    watch::until("the failure's line", || lines(&server).iter().any(|l| l["path"] == wanted));
    assert!(lines(&server).iter().all(|line| line["code"] != "ok"));
    server.stop();
}

#[test]
fn spans_reach_a_collector_and_follow_their_callers_trace() {
    let collector = Collector::start();
    let home = Home::of(&["versioned"]).yaml("versioned", "batching: {mode: batch}\n");
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_TRACING_OTLP_ENDPOINT", &collector.endpoint);
    command.env("ONNXD_TRACING_SAMPLE_RATIO", "0");
    let server = Server::launch(&mut command);
    let answer = infer(&server.http, "versioned", &parent(), &http::four(1.0));
    let response = answer.header("traceresponse").expect("a sampled request says its span");
    assert!(response.starts_with(&format!("00-{TRACE}-")) && response.ends_with("-01"));
    // Neither sampled by its caller nor by the ratio.
    let plain = infer(&server.http, "versioned", "", &http::four(1.0));
    assert_eq!((plain.status, plain.header("traceresponse")), (200, None));
    let refused = infer(&server.http, "nosuch", &parent(), &http::four(1.0));
    assert_eq!(refused.status, 404);
    // The last spans are sent before the end.
    server.stop();

    let spans = collector.spans();
    let trace = hex::decode(TRACE).expect("hexadecimal");
    assert!(spans.iter().all(|span| span.trace_id == trace));
    let path = infer_path("versioned");
    let of_path = |span: &&Span| attribute(&span.attributes, "url.path").as_deref() == Some(&path);
    let infer = spans.iter().find(of_path).expect("the answered request's span");
    assert_eq!(hex::encode(&infer.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(attribute(&infer.attributes, "onnxd.model").as_deref(), Some("versioned"));
    let status = attribute(&infer.attributes, "http.response.status_code");
    assert_eq!(status.as_deref(), Some("200"));
    let inner: Vec<&str> = spans
        .iter()
        .filter(|span| span.parent_span_id == infer.span_id)
        .map(|span| &*span.name)
        .collect();
    assert!(inner.contains(&"compute_infer") && inner.contains(&"queue"), "{inner:?}");
    for span in spans.iter().filter(|span| span.parent_span_id == infer.span_id) {
        assert!(span.start_time_unix_nano >= infer.start_time_unix_nano, "{}", span.name);
    }
    let codes = spans.iter().filter_map(|span| attribute(&span.attributes, "error.type"));
    assert_eq!(codes.collect::<Vec<_>>(), ["not_found"]);
}

/// A collector that is not there costs no request anything, and does not hold up the end.
#[test]
fn a_collector_that_is_away_is_nobodys_trouble() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_TRACING_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let server = Server::launch(command.env("ONNXD_TRACING_SAMPLE_RATIO", "1"));
    for _ in 0..100 {
        assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).status, 200);
    }
    watch::until("failed exports are counted", || {
        watch::metric(&server, "onnxd_trace_spans_total", &["outcome=\"failed\""]) > 0.0
    });
    server.stop();
}
