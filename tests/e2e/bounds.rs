//! Overload and faults cost those who caused them: a full queue refuses the surplus, a bad row fails alone.

use std::{sync::Barrier, thread};

use onnxd::api::status::RpcStatus;
use prost::Message;
use serde_json::json;

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

const ENDLESS: u64 = 1_000_000_000;

fn send(server: &Server, x: f64, iters: u64) -> Http {
    let mut client = Http::connect(&server.http);
    let body = http::burn(x, iters).to_string();
    client.send(&http::request("POST", &infer_path("burn"), "", body.as_bytes()));
    client
}

#[test]
fn a_full_queue_refuses_the_surplus_and_keeps_the_rest() {
    let home =
        Home::of(&["burn"]).yaml("burn", "batching: {instances: 1, max_queue_requests: 2}\n");
    let server = Server::start(home.path(), &home.repository());
    let holder = send(&server, 1.0, ENDLESS);
    watch::until_busy(&server, "burn", 1, 0);
    let waiting = [2.0, 3.0].map(|x| (x, send(&server, x, 1)));
    watch::until_busy(&server, "burn", 1, 2);

    let calls = Grpc::connect(&server.grpc);
    for _ in 0..3 {
        let refused = infer(&server.http, "burn", "", &http::burn(4.0, 1));
        let seconds = refused.header("retry-after").expect("Retry-After").parse::<u64>();
        assert!(seconds.is_ok_and(|n| n >= 1), "{:?}", refused.header("retry-after"));
        let message = refused.error(429);
        assert!(message.contains("burn") && message.contains('2'), "{message}");

        let called = calls.infer("", &grpc::burn(4.0, 1));
        assert_eq!(called.code, 8, "{}", called.message);
        let details = called.details.expect("grpc-status-details-bin");
        let status = RpcStatus::decode(&*details).expect("google.rpc.Status");
        assert_eq!((status.code, &status.message), (8, &message));
        let url = b"type.googleapis.com/google.rpc.RetryInfo";
        assert!(details.windows(url.len()).any(|w| w == url), "{details:?}");
    }
    // At once: nobody who was there before has an answer yet.
    assert_eq!(watch::in_flight(&server, "burn"), 3);
    assert_eq!(watch::ended_with(&server, "burn", "overloaded"), 6);

    drop(holder);
    for (x, mut client) in waiting {
        assert_eq!(client.read().output(0), [x]);
    }
    server.stop();
}

#[test]
fn bytes_that_wait_are_bounded_too() {
    // One request of burn has 12 bytes of inputs.
    let home = Home::of(&["burn"]).yaml("burn", "batching: {instances: 1, max_queue_bytes: 20}\n");
    let server = Server::start(home.path(), &home.repository());
    let holder = send(&server, 1.0, ENDLESS);
    watch::until_busy(&server, "burn", 1, 0);
    let mut waiting = send(&server, 2.0, 1);
    watch::until_busy(&server, "burn", 1, 1);
    let refused = infer(&server.http, "burn", "", &http::burn(4.0, 1));
    assert!(refused.header("retry-after").is_some());
    let message = refused.error(429);
    assert!(message.contains("20 bytes"), "{message}");
    drop(holder);
    assert_eq!(waiting.read().output(0), [2.0]);
    server.stop();
}

#[test]
fn requests_and_memory_under_way_are_bounded() {
    let home = Home::of(&["burn", "versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_MAX_REQUESTS", "2").env("ONNXD_REQUEST_MEMORY_BYTES", "100000");
    let server = Server::launch(command.env("ONNXD_MAX_REQUEST_BYTES", "90000"));
    let burning = [1.0, 2.0].map(|x| send(&server, x, ENDLESS));
    watch::until("both are in", || watch::in_flight(&server, "burn") == 2);
    let refused = infer(&server.http, "versioned", "", &http::four(1.0));
    assert!(refused.header("retry-after").is_some());
    refused.error(429);
    assert_eq!(http::get(&server.http, "/v2/health/live").status, 200);
    drop(burning);
    watch::until("both have left", || watch::in_flight(&server, "burn") == 0);
    assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);

    // A body that has not come whole holds what has come of it: the next one finds no room.
    let mut slow = Http::connect(&server.http);
    let mut body = http::four(1.0).to_string().into_bytes();
    body.resize(80_000, b' ');
    let request = http::request("POST", &infer_path("versioned"), "", &body);
    slow.send(&request[..request.len() - 1]);
    watch::until("the memory is taken", || {
        let answer = Http::connect(&server.http).ask("POST", &infer_path("versioned"), "", &body);
        assert!(matches!(answer.status, 200 | 429), "{}", answer.status);
        answer.status == 429 && answer.header("retry-after").is_some()
    });
    slow.send(&request[request.len() - 1..]);
    assert_eq!(slow.read().output(0), [4.0; 4]);
    server.stop();
}

/// Rows of `lookup`: a table of four, asked at an index.
fn at(index: i64) -> serde_json::Value {
    http::inputs(&[("IDX", "INT64", &[1], json!([index]))])
}

/// Everybody asks at the same moment, each on a connection of its own; bad where `bad` says so.
fn all_at_once(server: &Server, model: &str, clients: i64, bad: impl Fn(i64) -> bool + Sync) {
    let start = Barrier::new(clients as usize);
    let (start, bad) = (&start, &bad);
    thread::scope(|scope| {
        for i in 0..clients {
            scope.spawn(move || {
                let mut client = Http::connect(&server.http);
                let index = if bad(i) { 99 } else { i % 4 };
                let body = at(index).to_string();
                start.wait();
                let answer = client.ask("POST", &infer_path(model), "", body.as_bytes());
                if !bad(i) {
                    assert_eq!(answer.output(0), [index as f64]);
                    return;
                }
                assert!(matches!(answer.status, 400 | 500), "{}", answer.status);
                let message = answer.json()["error"].as_str().expect("why").to_owned();
                assert!(message.contains(model) && message.contains("99"), "{message}");
            });
        }
    });
}

#[test]
fn in_a_batch_only_the_culprit_fails() {
    let mut home = Home::new();
    for mode in ["turn", "batch", "single"] {
        let wait = if mode == "batch" { ", max_queue_delay_us: 50000" } else { "" };
        home = home
            .model(mode, "lookup")
            .yaml(mode, &format!("batching: {{mode: {mode}, max_batch_size: 8{wait}}}\n"));
    }
    let server = Server::start(home.path(), &home.repository());
    let before = watch::executions(&server, "batch");
    all_at_once(&server, "batch", 16, |_| false);
    let runs = watch::executions(&server, "batch") - before;
    assert!(runs < 16, "16 requests at once took {runs} runs: nothing was batched");
    for mode in ["turn", "batch", "single"] {
        for _ in 0..5 {
            all_at_once(&server, mode, 16, |i| i % 4 == 3);
        }
        // Whole batches of them, too.
        all_at_once(&server, mode, 8, |_| true);
        assert_eq!(watch::ended_with(&server, mode, "ok") % 4, 0, "{mode}");
    }
    server.stop();
}

#[test]
fn a_runtime_error_fails_its_request_alone_over_grpc() {
    let home = Home::of(&["boom"]);
    let server = Server::start(home.path(), &home.repository());
    let calls = Grpc::connect(&server.grpc);
    let ask = |index: i64| {
        let raw = index.to_le_bytes().to_vec();
        let request = grpc::request("boom", &[("IDX", "INT64", &[1], raw)]);
        calls.start("ModelInfer", "", &request.encode_to_vec())
    };
    let asked: Vec<_> = (0..32).map(|i| (i, ask(if i % 3 == 0 { 99 } else { i % 4 }))).collect();
    for (i, call) in asked {
        let called = grpc::finish(call);
        match i % 3 {
            0 => assert!(matches!(called.code, 3 | 13), "{i}: {}", called.message),
            _ => assert_eq!(called.floats(), [(i % 4) as f32], "{i}"),
        }
    }
    server.stop();
}
