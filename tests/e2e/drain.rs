//! SIGTERM: exit code 0, every request that was sent is answered whole, and peers that do nothing hold nobody up.

use std::{
    io::{Read, Write},
    os::fd::AsRawFd,
    thread,
};

use prost::Message;
use serde_json::Value;

use crate::support::{
    files::Home,
    frames::{Event, Frames},
    grpc::{self, Grpc},
    http::{self, Http, infer_path},
    server::{Server, Socket},
    watch::{self, until},
};

const HTTP_CLIENTS: usize = 6;
const GRPC_CLIENTS: usize = 2;
const IN_THE_QUEUE: usize = 5;

/// What became of one client's requests.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    /// Sent while the connection was open, and never answered, or not whole.
    dropped: usize,
}

/// Whether the server's side of the connection has ended, as far as this side knows; reads nothing.
fn ended(socket: &Socket) -> bool {
    let fd = match socket {
        Socket::Tcp(stream) => stream.as_raw_fd(),
        Socket::Unix(stream) => stream.as_raw_fd(),
        Socket::Tls(stream) => stream.sock.as_raw_fd(),
    };
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: at most one byte is written, into a local; the descriptor is the socket's own.
    let got = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) };
    let nothing_yet =
        got < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock;
    got <= 0 && !nothing_yet
}

/// One request after the other on one connection until the server ends it. What is sent when the server has closed already
/// is not the server's to answer: only a request after which the connection was still open counts as sent.
fn hammer_http(mut client: Http) -> Tally {
    let request = infer("wine", &http::wine());
    let mut tally = Tally::default();
    while !ended(&client.socket) && client.socket.write_all(&request).is_ok() {
        let sent = !ended(&client.socket);
        match client.try_read(false) {
            Ok(Some(answer)) => {
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
                tally.answered += 1;
                if answer.closes() {
                    break;
                }
            }
            Ok(None) => {
                tally.dropped += usize::from(sent);
                break;
            }
            Err(error) => {
                let cut = error.kind() == std::io::ErrorKind::UnexpectedEof;
                tally.dropped += usize::from(sent || cut);
                break;
            }
        }
    }
    tally
}

/// The same over gRPC. A stream above the number of the last GOAWAY was not looked at, which its client hears.
fn hammer_grpc(mut client: Frames) -> Tally {
    let message = grpc::four("versioned", 1.0).encode_to_vec();
    let mut tally = Tally::default();
    let mut last = None;
    'calls: while last.is_none() && !ended(&client.socket) {
        let Ok(id) = client.call(&message) else { break };
        let sent = !ended(&client.socket);
        loop {
            match client.event() {
                Ok(Event::Answered { message, .. }) => {
                    assert!(message, "an inference failed");
                    tally.answered += 1;
                    continue 'calls;
                }
                Ok(Event::GoAway { last: n }) => last = Some(n),
                Ok(Event::Reset { .. } | Event::Closed) | Err(_) => {
                    tally.dropped += usize::from(sent && last.is_none_or(|last| id <= last));
                    break 'calls;
                }
            }
        }
    }
    tally
}

fn infer(model: &str, body: &Value) -> Vec<u8> {
    http::request("POST", &infer_path(model), "", body.to_string().as_bytes())
}

/// A connection that has had an answer, so that the server knows it.
fn known(address: &str) -> Http {
    let mut client = Http::connect(address);
    assert_eq!(client.ask("GET", "/v2/health/live", "", b"").status, 200);
    client
}

/// Peers that hold connections and want nothing.
struct Idle {
    after_an_answer: Vec<Http>,
    before_a_byte: Vec<Http>,
    /// Over HTTP/2.
    calls: Grpc,
}

const IDLE: usize = 4 + 2 + 1;

impl Idle {
    fn at(server: &Server) -> Idle {
        let calls = Grpc::connect(&server.grpc);
        assert_eq!(calls.call("ServerLive", "", b"").code, 0);
        Idle {
            after_an_answer: (0..4).map(|_| known(&server.http)).collect(),
            before_a_byte: (0..2).map(|_| Http::connect(&server.http)).collect(),
            calls,
        }
    }

    /// They were let go with nothing to read.
    fn were_let_go(self) {
        for mut client in self.after_an_answer.into_iter().chain(self.before_a_byte) {
            let mut rest = Vec::new();
            client.socket.read_to_end(&mut rest).expect("a clean end");
            assert!(rest.is_empty(), "nobody asked: {rest:?}");
        }
        drop(self.calls);
    }
}

#[test]
fn a_stop_loses_no_request() {
    let home = Home::of(&["wine", "versioned", "burn"]);
    let all = HTTP_CLIENTS + GRPC_CLIENTS + IDLE + 2;
    let mut server = Server::launch(
        Server::command(home.path(), &home.repository())
            // What does not fit waits in the system's queue, where the stop finds it.
            .env("ONNXD_MAX_CONNECTIONS", all.to_string())
            // Peers that held the stop up would hold it until the test's own limit.
            .env("ONNXD_DRAIN_TIMEOUT_MS", "600000"),
    );
    until("the readiness checks' connections are gone", || {
        watch::metric(&server, "onnxd_connections_open", &["listener=\"http\""]) == 0.0
    });
    let idle = Idle::at(&server);
    let mut slow = known(&server.http);
    slow.send(&infer("burn", &http::burn(4.0, 20_000)));
    watch::until_busy(&server, "burn", 1, 0);
    let mut half = known(&server.http);
    let halves = infer("wine", &http::wine());
    let (first, second) = halves.split_at(halves.len() - 10);
    half.send(first);
    let hammering: Vec<_> = (0..HTTP_CLIENTS)
        .map(|_| known(&server.http))
        .map(|client| thread::spawn(move || hammer_http(client)))
        .collect();
    let calling: Vec<_> = (0..GRPC_CLIENTS)
        .map(|_| Frames::connect(&server.grpc))
        .map(|client| thread::spawn(move || hammer_grpc(client)))
        .collect();
    until("every client is at work", || {
        let work = ["wine", "versioned"].map(|model| watch::ended_with(&server, model, "ok"));
        work.iter().all(|&n| n > 50)
    });
    let waiting: Vec<Http> = (0..IN_THE_QUEUE)
        .map(|_| {
            let mut client = Http::connect(&server.http);
            client.send(&infer("wine", &http::wine()));
            client
        })
        .collect();

    server.terminate();
    until("the port is closed", || Http::try_connect(&server.http).is_err());
    half.send(second);
    server.ended_well();

    for client in hammering.into_iter().chain(calling) {
        let tally = client.join().expect("the client's thread");
        assert!(tally.answered > 0 && tally.dropped == 0, "{tally:?}\n{}", server.said());
    }
    assert_eq!(slow.read().output(0), [4.0]);
    assert_eq!(half.read().status, 200);
    for mut client in waiting {
        assert_eq!(client.read().status, 200);
    }
    idle.were_let_go();
}

/// A server whose one request would take hours, told to stop.
fn stuck(drain_timeout_ms: &str) -> (Home, Server, Http) {
    let home = Home::of(&["burn"]);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_DRAIN_TIMEOUT_MS", drain_timeout_ms));
    let mut client = Http::connect(&server.http);
    client.send(&infer("burn", &http::burn(1.0, 1_000_000_000)));
    watch::until_busy(&server, "burn", 1, 0);
    server.terminate();
    until("the stop has begun", || server.said().contains("stopping"));
    (home, server, client)
}

#[test]
fn patience_with_a_run_that_does_not_end_has_a_limit() {
    let (_home, mut server, mut client) = stuck("500");
    server.ended_well();
    assert!(!matches!(client.try_read(false), Ok(Some(_))), "there is no answer to give");
}

#[test]
fn a_second_signal_skips_to_the_end() {
    let (_home, mut server, mut client) = stuck("600000");
    server.terminate();
    server.ended_well();
    assert!(!matches!(client.try_read(false), Ok(Some(_))), "there is no answer to give");
}

#[test]
fn a_second_signal_skips_the_pause_too() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let mut server = Server::launch(command.env("ONNXD_DRAIN_DELAY_MS", "600000"));
    server.terminate();
    until("the stop has begun", || server.said().contains("stopping"));
    server.terminate();
    server.ended_well();
}

#[test]
fn readiness_goes_before_the_ports_close() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let mut server = Server::launch(command.env("ONNXD_DRAIN_DELAY_MS", "3000"));
    let mut client = Http::connect(&server.http);
    server.terminate();
    until("the server says that it is not ready", || {
        client.ask("GET", "/v2/health/ready", "", b"").status == 503
    });
    // A load balancer that has not heard yet still gets its answers, on new connections too.
    assert_eq!(http::infer(&server.http, "versioned", "", &http::four(1.0)).status, 200);
    server.ended_well();
}
