//! What a row of the prediction log says of its request: the trace, the tenant, the ids and the rollout that it belongs to.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};

use crate::support::{
    collector::Collector,
    files::Home,
    grpc::{self, Grpc},
    http::{self, Answer, infer},
    server::{Server, run_to_end},
    watch::{metric, until},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn logging(home: &Home) -> Command {
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_DEFAULTS_LOG_ENABLED", "true");
    command
}

/// The rows of the log, in their order, by these columns.
fn dumped(home: &Home, columns: &str) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.args(["log", "dump", "--columns", columns, "--dir"]);
    let ended = run_to_end(command.arg(home.path().join("predictions")));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let lines = ended.stdout.lines();
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn good(answer: Answer) -> Answer {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer
}

/// Both protocols; what a request says itself comes before its headers.
#[test]
fn a_row_has_its_trace_its_tenant_and_its_ids() {
    let home =
        Home::of(&["versioned"]).yaml("versioned", "versions: [1]\nlog: {tenant: x-tenant}\n");
    let server = Server::launch(&mut logging(&home));
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let heads = format!(
        "traceparent: {traceparent}\r\nx-request-id: by-head\r\nX-Tenant: acme\r\nx-onnxd-label-key: order-1\r\n"
    );
    good(infer(&server.http, "versioned", &heads, &http::four(0.0)));
    let mut own = http::four(1.0);
    own["id"] = "own".into();
    own["parameters"] = json!({"x-tenant": "globex", "label_key": "order-2"});
    good(infer(&server.http, "versioned", &heads, &own));
    let calls = Grpc::connect(&server.grpc)
        .with_metadata("traceparent", &traceparent)
        .with_metadata("x-request-id", "by-metadata")
        .with_metadata("x-tenant", "initech");
    calls.infer("30S", &grpc::four("versioned", 2.0)).infer();
    // Malformed counts as absent, and so does what is empty.
    good(infer(
        &server.http,
        "versioned",
        "traceparent: 00-nonsense\r\nx-request-id:\r\n",
        &http::four(3.0),
    ));
    // Refused, and yet a row.
    let wrong = http::inputs(&[("X", "FP32", &[1, 1], json!([1]))]);
    infer(&server.http, "versioned", &heads, &wrong).error(400);
    server.stop();

    let mut rows = dumped(&home, "request_id,trace_id,span_id,tenant,label_key,status");
    let unnamed = rows.remove(3);
    let made = unnamed["request_id"].as_str().expect("an id was made");
    assert_eq!(made.len(), 36);
    // Nulls are left out.
    let bare = json!({"request_id": made, "label_key": format!("{made}:0"), "status": 200});
    assert_eq!(unnamed, bare);
    let row = |id: &str, tenant: &str, key: &str, status: u16| {
        json!({
            "request_id": id, "trace_id": TRACE, "span_id": SPAN, "tenant": tenant, "label_key": key,
            "status": status,
        })
    };
    let expected = [
        row("by-head", "acme", "order-1", 200),
        row("own", "globex", "order-2", 200),
        row("by-metadata", "initech", "by-metadata:0", 200),
        row("by-head", "acme", "order-1", 400),
    ];
    assert_eq!(rows, expected);
}

/// Where a span is made of the request, it is the row's.
#[test]
fn a_row_has_the_span_that_was_made_of_its_request() {
    let collector = Collector::start();
    let home = Home::of(&["versioned"]).yaml("versioned", "versions: [1]\n");
    let mut command = logging(&home);
    command.env("ONNXD_TRACING_OTLP_ENDPOINT", &collector.endpoint);
    command.env("ONNXD_TRACING_SAMPLE_RATIO", "1");
    let server = Server::launch(&mut command);
    let heads = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let said = ["", &heads].map(|heads| {
        let answer = good(infer(&server.http, "versioned", heads, &http::four(1.0)));
        answer.header("traceresponse").expect("a span").to_owned()
    });
    server.stop();
    let rows = dumped(&home, "trace_id,span_id");
    let of = |row: &Value| {
        let text = |key: &str| row[key].as_str().expect("an id").to_owned();
        format!("00-{}-{}-01", text("trace_id"), text("span_id"))
    };
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), said);
    assert!(said[1].contains(TRACE) && !said[1].contains(SPAN), "{said:?}");
}

/// A rollout has one id from its first change to its last; each change is a step. What it has no part in has neither.
#[test]
fn a_row_has_the_rollout_that_decided_over_it() {
    let home = Home::of(&["versioned"]);
    let _ = std::fs::remove_file(home.repository().join("versioned/model.yaml"));
    let _ = std::fs::remove_dir_all(home.repository().join("versioned/3"));
    let server = Server::launch(&mut logging(&home));
    let rollout = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.arg("rollout").args(args).args(["--operator", &server.operator]);
        let ended = run_to_end(&mut command);
        assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
    };
    let ask = |path: &str, route: &str| {
        let heads = format!("x-onnxd-route: {route}\r\n");
        good(http::post(&server.http, path, &heads, &http::four(0.0)));
    };
    let path = http::infer_path("versioned");
    ask(&path, "primary");
    rollout(&["set", "versioned", "--primary", "1", "--force", "on"]);
    ask(&path, "primary");
    rollout(&["set", "versioned", "--canary", "2=0"]);
    ask(&path, "primary");
    rollout(&["set", "versioned", "--canary", "2=5"]);
    ask(&path, "canary");
    ask("/v2/models/versioned/versions/2/infer", "");
    // Refused, and yet a row of its arm.
    let wrong = http::inputs(&[("X", "FP32", &[1, 1], json!([1]))]);
    http::post(&server.http, &path, "x-onnxd-route: canary\r\n", &wrong).error(400);
    rollout(&["promote", "versioned"]);
    ask(&path, "primary");
    rollout(&["set", "versioned", "--shadow", "1:100"]);
    ask(&path, "primary");
    until("the shadow has run", || metric(&server, "onnxd_shadow_requests_total", &[]) == 1.0);
    server.stop();

    let rows = dumped(&home, "model_version,route,rollout_id,rollout_step,status,request_id");
    let mut ids = BTreeSet::new();
    let told: Vec<Value> = rows
        .iter()
        .map(|row| {
            ids.insert(row["request_id"].to_string());
            json!([
                row["model_version"],
                row["route"],
                row["rollout_id"],
                row["rollout_step"],
                row["status"]
            ])
        })
        .collect();
    // Files are told by version, the older one first.
    let expected = [
        json!(["1", "primary", null, null, 200]),
        json!(["1", "primary", "2", 2, 200]),
        json!(["1", "shadow", "5", 5, 200]),
        json!(["2", "primary", null, null, 200]),
        json!(["2", "canary", "2", 3, 200]),
        json!(["2", "version", null, null, 200]),
        json!(["2", "canary", "2", 3, 400]),
        json!(["2", "primary", null, null, 200]),
        json!(["2", "primary", "5", 5, 200]),
    ];
    assert_eq!(told, expected);
    assert_eq!(ids.len(), rows.len() - 1, "a shadow has its request's id");
}
