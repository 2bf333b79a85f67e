//! More comes than can be served, from clients without a deadline: the surplus is refused, and what was taken is answered.

use std::{thread, time::Duration};

use crate::support::{
    files::Home,
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

/// Ten times and more the gap between two requests: on a machine that is busy the gap grows, and a queue must stand still.
const ITERS: u64 = 1000;
/// Only so that a test that fails ends.
const MOST: usize = 800;

fn priority(body: &mut serde_json::Value, level: u64) {
    body["parameters"] = serde_json::json!({ "priority": level });
}

#[test]
fn a_queue_that_stands_refuses_the_surplus_and_answers_the_rest() {
    let home =
        Home::of(&["burn"]).yaml("burn", "batching: {instances: 1, max_queue_requests: 100000}\n");
    let server = Server::start(home.path(), &home.repository());
    let mut clients = Vec::new();
    let body = http::burn(1.0, ITERS).to_string();
    let request = http::request("POST", &infer_path("burn"), "", body.as_bytes());
    while watch_every(&mut clients, 50, || watch::shed(&server, "burn", "standing") == 0) {
        assert!(clients.len() < MOST, "{MOST} requests, and none was refused");
        let mut client = Http::connect(&server.http);
        client.send(&request);
        clients.push(client);
        thread::sleep(Duration::from_millis(1));
    }
    let waiting = watch::metric(&server, "onnxd_requests_queued", &["model=\"burn\""]);
    assert!(waiting >= 1.0, "what was taken goes on");

    // A higher priority is ahead of all that waits, and one that is lower is not.
    let mut urgent = http::burn(9.0, 1);
    priority(&mut urgent, 1);
    assert_eq!(infer(&server.http, "burn", "", &urgent).output(0), [9.0]);

    let (mut answered, mut refused) = (0, 0);
    for client in &mut clients {
        let answer = client.read();
        match answer.status {
            200 => answered += 1,
            _ => {
                let seconds = answer.header("retry-after").expect("Retry-After");
                let known = seconds.parse::<u64>().is_ok_and(|n| (1..=60).contains(&n));
                assert!(known, "{seconds}");
                let message = answer.error(429);
                assert!(message.contains("more comes for model 'burn'"), "{message}");
                refused += 1;
            }
        }
    }
    assert_eq!(watch::shed(&server, "burn", "standing"), refused);
    assert_eq!(watch::ended_with(&server, "burn", "ok"), answered + 1);
    assert!(answered > refused, "{answered} answered, {refused} refused");
    // It is over: whoever comes now is served.
    assert_eq!(infer(&server.http, "burn", "", &http::burn(3.0, 1)).output(0), [3.0]);
    server.stop();
}

/// Asks `goes_on` once for every so many clients, since asking takes longer than a request.
fn watch_every(clients: &mut [Http], every: usize, goes_on: impl Fn() -> bool) -> bool {
    !clients.len().is_multiple_of(every) || goes_on()
}

#[test]
fn priorities_order_what_waits() {
    let home =
        Home::of(&["burn"]).yaml("burn", "batching: {instances: 1, max_queue_requests: 3}\n");
    let server = Server::start(home.path(), &home.repository());
    let send = |x: f64, iters: u64, level: u64| {
        let mut body = http::burn(x, iters);
        priority(&mut body, level);
        let mut client = Http::connect(&server.http);
        let bytes = body.to_string();
        client.send(&http::request("POST", &infer_path("burn"), "", bytes.as_bytes()));
        client
    };
    let holder = send(0.0, 1_000_000_000, 0);
    watch::until_busy(&server, "burn", 1, 0);
    // A full queue of what can wait makes room, the last one first.
    let mut low: Vec<Http> = Vec::new();
    for n in 1..=3 {
        low.push(send(f64::from(n), 1, 7));
        watch::until_busy(&server, "burn", 1, u64::from(n as u32));
    }
    let mut usual = send(10.0, 1, 0);
    watch::until("one made room", || watch::shed(&server, "burn", "queue_full") == 1);
    assert_eq!(low.pop().expect("the last").read().status, 429);
    let mut lowest = http::burn(11.0, 1);
    priority(&mut lowest, 9);
    infer(&server.http, "burn", "", &lowest).error(429);
    drop(holder);
    assert_eq!(usual.read().output(0), [10.0]);
    for (n, client) in low.iter_mut().enumerate() {
        assert_eq!(client.read().output(0), [(n + 1) as f64]);
    }
    for (wrong, what) in [(serde_json::json!(-1), "-1"), (serde_json::json!("high"), "high")] {
        let mut body = http::burn(1.0, 1);
        body["parameters"] = serde_json::json!({ "priority": wrong });
        let message = infer(&server.http, "burn", "", &body).error(400);
        assert!(message.contains("priority"), "{what}: {message}");
    }
    server.stop();
}
