//! Clients that leave: their work is not begun, or ended, and who comes next is served.

use prost::Message;

use crate::support::{
    files::Home,
    frames::{Event, Frames},
    grpc::{self, Grpc},
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
fn of_many_that_leave_over_three_protocols_none_is_executed() {
    const EACH: u64 = 20;
    let (_home, server) = one_at_a_time();
    let web = Grpc::connect(&server.http);
    // The run in the way is ended by its own leaving, over HTTP/2: over HTTP/1.1 and gRPC the tests above do the same.
    let body = http::burn(1.0, ENDLESS);
    let running = web.post(&infer_path("burn"), &[], &body);
    watch::until_busy(&server, "burn", 1, 0);
    let before = watch::executions(&server, "burn");

    let mut calls = Frames::connect(&server.grpc);
    let message = grpc::burn(2.0, 1).encode_to_vec();
    let streams: Vec<u32> =
        (0..EACH).map(|_| calls.call(&message).expect("the call goes out")).collect();
    let clients: Vec<Http> = (0..EACH).map(|_| send(&server, 2.0, 1)).collect();
    let body = http::burn(2.0, 1);
    let posts: Vec<_> = (0..EACH).map(|_| web.post(&infer_path("burn"), &[], &body)).collect();
    watch::until_busy(&server, "burn", 1, 3 * EACH);
    let mut next = send(&server, 7.0, 1);
    watch::until_busy(&server, "burn", 1, 3 * EACH + 1);

    streams.into_iter().for_each(|id| calls.reset(id));
    drop(clients);
    posts.iter().for_each(|post| post.abort());
    until("all of them are counted", || {
        watch::ended_with(&server, "burn", "cancelled") == 3 * EACH
    });
    running.abort();
    assert_eq!(next.read().output(0), [7.0]);
    assert_eq!(watch::executions(&server, "burn"), before + 1, "who left was not served");
    assert_eq!(watch::ended_with(&server, "burn", "cancelled"), 3 * EACH + 1);
    drop(calls);
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
