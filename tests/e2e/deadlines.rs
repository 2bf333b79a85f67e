//! Deadlines from every source: what is late is answered so, and what expired while it waited never runs.

use std::time::{Duration, Instant};

use prost::Message;
use serde_json::json;

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

/// Would take hours: it ends because nobody waits any more.
const ENDLESS: u64 = 1_000_000_000;

fn saturated(home: Home) -> (Home, Server, Http) {
    let home = home.model("burn", "burn").yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    let mut holder = Http::connect(&server.http);
    let body = http::burn(1.0, ENDLESS).to_string();
    holder.send(&http::request("POST", &infer_path("burn"), "", body.as_bytes()));
    watch::until_busy(&server, "burn", 1, 0);
    (home, server, holder)
}

#[test]
fn what_expires_in_the_queue_is_never_run() {
    let (_home, server, holder) = saturated(Home::new());
    let before = watch::executions(&server, "burn");
    let calls = Grpc::connect(&server.grpc);

    let late = |headers: &str, timeout: Option<i64>| {
        let mut body = http::burn(2.0, 1);
        if let Some(us) = timeout {
            body["parameters"] = json!({"timeout": us});
        }
        let message = infer(&server.http, "burn", headers, &body).error(504);
        assert!(message.contains("deadline"), "{message}");
    };
    late("x-request-timeout-ms: 200\r\n", None);
    late("", Some(200_000));
    late("x-request-timeout-ms: 200\r\n", Some(30_000_000));
    late("x-request-timeout-ms: 30000\r\n", Some(200_000));
    for (timeout, request) in [
        ("200m", grpc::burn(2.0, 1)),
        ("", grpc::timeout(grpc::burn(2.0, 1), 200_000)),
        ("30S", grpc::timeout(grpc::burn(2.0, 1), 200_000)),
        ("200m", grpc::timeout(grpc::burn(2.0, 1), 30_000_000)),
    ] {
        let called = calls.infer(timeout, &request);
        assert_eq!(called.code, 4, "{timeout}: {}", called.message);
        assert!(called.message.contains("deadline"), "{}", called.message);
    }
    assert_eq!(watch::ended_with(&server, "burn", "deadline_exceeded"), 8);

    // `timeout: 0` means none: it waits for its turn, however long that takes, and gets it.
    let mut patient = Http::connect(&server.http);
    let mut body = http::burn(3.0, 1);
    body["parameters"] = json!({"timeout": 0});
    let headers = "x-request-timeout-ms: 0\r\n";
    patient.send(&http::request("POST", &infer_path("burn"), headers, body.to_string().as_bytes()));
    watch::until("the request waits", || watch::in_flight(&server, "burn") == 2);
    drop(holder);
    assert_eq!(patient.read().output(0), [3.0]);
    assert_eq!(watch::executions(&server, "burn"), before + 1, "only the patient request ran");
    // More milliseconds than a number holds are more than anybody waits.
    let headers = "x-request-timeout-ms: 164847274964518764544\r\n";
    assert_eq!(infer(&server.http, "burn", headers, &http::burn(4.0, 1)).output(0), [4.0]);
    server.stop();
}

/// What `count` requests over each protocol came to, all sent before the first is answered: gRPC codes, HTTP statuses.
struct Sent {
    grpc: Vec<i32>,
    http1: Vec<u16>,
    http2: Vec<u16>,
}

fn over_every_protocol(server: &Server, count: usize, timeout_ms: u64) -> Sent {
    let timeout = timeout_ms.to_string();
    let calls = Grpc::connect(&server.grpc);
    let web = Grpc::connect(&server.http);
    let message = grpc::burn(2.0, 1).encode_to_vec();
    let body = http::burn(2.0, 1);
    let grpc: Vec<_> =
        (0..count).map(|_| calls.start("ModelInfer", &format!("{timeout}m"), &message)).collect();
    let headers = [("x-request-timeout-ms", timeout.as_str())];
    let http2: Vec<_> =
        (0..count).map(|_| web.post(&infer_path("burn"), &headers, &body)).collect();
    let line = format!("x-request-timeout-ms: {timeout}\r\n");
    let request = http::request("POST", &infer_path("burn"), &line, body.to_string().as_bytes());
    let mut clients: Vec<_> = (0..count).map(|_| Http::connect(&server.http)).collect();
    clients.iter_mut().for_each(|client| client.send(&request));
    Sent {
        grpc: grpc.into_iter().map(|call| grpc::finish(call).code).collect(),
        http1: clients.iter_mut().map(|client| client.read().status).collect(),
        http2: http2.into_iter().map(|call| grpc::finish(call).0).collect(),
    }
}

#[test]
fn of_sixty_that_expire_over_three_protocols_none_is_executed() {
    const EACH: usize = 20;
    let (_home, server, holder) = saturated(Home::new());
    let runs = |server: &Server| {
        let rows = watch::metric(server, "onnxd_batch_rows_count", &["model=\"burn\""]) as u64;
        (watch::executions(server, "burn"), rows)
    };
    let before = runs(&server);
    let sent = over_every_protocol(&server, EACH, 350);
    assert_eq!(
        (sent.grpc, sent.http1, sent.http2),
        (vec![4; EACH], vec![504; EACH], vec![504; EACH])
    );
    assert_eq!(watch::ended_with(&server, "burn", "deadline_exceeded"), 3 * EACH as u64);
    drop(holder);
    // Whoever comes next is served, and takes out what had expired.
    assert_eq!(infer(&server.http, "burn", "", &http::burn(5.0, 1)).output(0), [5.0]);
    assert_eq!(runs(&server), (before.0 + 1, before.1 + 1), "nothing ran but the last one");
    assert_eq!(watch::shed(&server, "burn", "expired"), 3 * EACH as u64);
    server.stop();
}

#[test]
fn a_run_ends_with_its_deadline() {
    let home = Home::of(&["burn"]).yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    let headers = "x-request-timeout-ms: 300\r\n";
    infer(&server.http, "burn", headers, &http::burn(1.0, ENDLESS)).error(504);
    let calls = Grpc::connect(&server.grpc);
    assert_eq!(calls.infer("300m", &grpc::burn(1.0, ENDLESS as i64)).code, 4);
    let web = Grpc::connect(&server.http);
    let body = http::burn(1.0, ENDLESS);
    let call = web.post(&infer_path("burn"), &[("x-request-timeout-ms", "300")], &body);
    assert_eq!(grpc::finish(call).0, 504);
    // The one executor that the model may hold is free again.
    assert_eq!(infer(&server.http, "burn", "", &http::burn(5.0, 1)).output(0), [5.0]);
    server.stop();
}

#[test]
fn what_runs_cost_too_long_for_is_refused_before_it_runs() {
    let home = Home::of(&["burn"]).yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    let mut iters = 1000;
    loop {
        let begun = Instant::now();
        assert_eq!(infer(&server.http, "burn", "", &http::burn(1.0, iters)).output(0), [1.0]);
        if begun.elapsed() >= Duration::from_millis(200) {
            break;
        }
        iters *= 2;
    }
    // What it costs is learned.
    for _ in 0..16 {
        infer(&server.http, "burn", "", &http::burn(1.0, iters)).output(0);
    }
    let runs = watch::executions(&server, "burn");
    // Not the first: an idle model tries one now and then, and that ends with its deadline.
    watch::until("a request is refused for what it would cost", || {
        let headers = "x-request-timeout-ms: 20\r\n";
        let message = infer(&server.http, "burn", headers, &http::burn(2.0, iters)).error(504);
        message.contains("cannot be met")
    });
    assert_eq!(watch::executions(&server, "burn"), runs);
    assert_eq!(infer(&server.http, "burn", "", &http::burn(3.0, 1)).output(0), [3.0]);
    server.stop();
}

#[test]
fn the_models_default_and_the_servers_cap_count_too() {
    let home = Home::of(&["burn"])
        .yaml("burn", "default_timeout_ms: 300\nbatching: {instances: 1}\n")
        .model("capped", "burn")
        .yaml("capped", "batching: {instances: 1}\n");
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_MAX_DEADLINE_MS", "2000"));
    infer(&server.http, "burn", "", &http::burn(1.0, ENDLESS)).error(504);
    infer(&server.http, "capped", "", &http::burn(1.0, ENDLESS)).error(504);
    let headers = "x-request-timeout-ms: 86400000\r\n";
    infer(&server.http, "capped", headers, &http::burn(1.0, ENDLESS)).error(504);
    server.stop();
}

#[test]
fn a_deadline_that_is_none_is_refused() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    for value in ["soon", "-1", "1.5", ""] {
        let headers = format!("x-request-timeout-ms: {value}\r\n");
        let message = infer(&server.http, "versioned", &headers, &http::four(1.0)).error(400);
        assert!(message.contains("x-request-timeout-ms"), "{message}");
    }
    for timeout in [json!(-1), json!("soon"), json!(1.5)] {
        let mut body = http::four(1.0);
        body["parameters"] = json!({"timeout": timeout});
        let message = infer(&server.http, "versioned", "", &body).error(400);
        assert!(message.contains("timeout"), "{message}");
    }
    let calls = Grpc::connect(&server.grpc);
    for timeout in ["soon", "m", "-1m", "123456789m"] {
        let called = calls.infer(timeout, &grpc::four("versioned", 1.0));
        assert_eq!(called.code, 3, "{timeout}: {}", called.message);
    }
    server.stop();
}
