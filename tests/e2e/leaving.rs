//! Clients that leave: their work is not begun, or ended, and who comes next is served.

use prost::Message;

use crate::support::{
    files::Home,
    frames::{Event, Frames},
    grpc,
    http::{self, Http, infer_path},
    server::Server,
    watch::{self, until},
};

/// Would take hours: only cancellation ends it.
const ENDLESS: u64 = 1_000_000_000;

fn one_at_a_time() -> (Home, Server) {
    let home = Home::of(&["burn"]).yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    (home, server)
}

fn send(server: &Server, x: f64, iters: u64) -> Http {
    let mut client = Http::connect(&server.http);
    let body = http::burn(x, iters).to_string();
    client.send(&http::request("POST", &infer_path("burn"), "", body.as_bytes()));
    client
}

#[test]
fn an_http_client_that_closes_ends_its_work() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    let running = send(&server, 1.0, ENDLESS);
    watch::until_busy(&server, "burn", 1, 0);
    let queued = send(&server, 2.0, 1);
    watch::until_busy(&server, "burn", 1, 1);
    let mut next = send(&server, 7.0, 1);
    watch::until_busy(&server, "burn", 1, 2);

    drop(queued);
    until("who left the queue is counted", || watch::ended_with(&server, "burn", "cancelled") == 1);
    drop(running);
    until("who left the run is counted", || watch::ended_with(&server, "burn", "cancelled") == 2);
    assert_eq!(next.read().output(0), [7.0]);
    assert_eq!(watch::executions(&server, "burn"), before + 1, "who left was not served");
    server.stop();
}

#[test]
fn a_grpc_client_that_resets_ends_its_work() {
    let (_home, server) = one_at_a_time();
    let before = watch::executions(&server, "burn");
    // One connection: a reset concerns its own stream alone.
    let mut client = Frames::connect(&server.grpc);
    let mut call = |x: f32, iters: u64| {
        client.call(&grpc::burn(x, iters as i64).encode_to_vec()).expect("the call goes out")
    };
    let running = call(1.0, ENDLESS);
    watch::until_busy(&server, "burn", 1, 0);
    let queued = call(2.0, 1);
    watch::until_busy(&server, "burn", 1, 1);
    let next = call(7.0, 1);
    watch::until_busy(&server, "burn", 1, 2);

    client.reset(queued);
    until("who left the queue is counted", || watch::ended_with(&server, "burn", "cancelled") == 1);
    client.reset(running);
    until("who left the run is counted", || watch::ended_with(&server, "burn", "cancelled") == 2);
    let event = client.event().expect("an answer");
    assert_eq!(event, Event::Answered { id: next, message: true });
    assert_eq!(watch::executions(&server, "burn"), before + 1, "who left was not served");
    // It answers no ping while nobody reads, which a stop would wait for.
    drop(client);
    server.stop();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_request_holds_nothing() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let body = http::four(1.0).to_string();
    let request = http::request("POST", &infer_path("versioned"), "", body.as_bytes());
    for cut in [1, request.len() / 2, request.len() - 1] {
        Http::connect(&server.http).send(&request[..cut]);
    }
    until("their connections are gone", || {
        watch::metric(&server, "onnxd_connections_open", &["listener=\"http\""]) == 0.0
    });
    assert_eq!(watch::executions(&server, "versioned"), 0, "half a request is none");
    server.stop();
}
