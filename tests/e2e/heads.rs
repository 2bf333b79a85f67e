//! HTTP/1.1 heads that two readers could read differently, too large ones, odd ones: refused and the connection ended, or
//! answered so that the next request on it is the next request.

use std::io::Read;

use crate::support::{
    files::Home,
    http::{self, Http, infer_path},
    server::Server,
};

/// A second request that must never be answered: what would be smuggled.
const SMUGGLED: &str = "GET /v2/health/live HTTP/1.1\r\nhost: smuggled\r\n\r\n";

/// Sends the bytes; the statuses of everything that comes back until the server ends the connection.
fn statuses(server: &Server, bytes: &[u8]) -> Vec<u16> {
    let mut client = Http::connect(&server.http);
    // The server may have refused before all of it is out.
    let _ = client.try_send(bytes);
    let mut all = Vec::new();
    while let Ok(Some(answer)) = client.try_read(false) {
        all.push(answer.status);
    }
    all
}

fn start() -> (Home, Server) {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    // What is not refused is at least not waited for long.
    command.env("ONNXD_IDLE_TIMEOUT_MS", "2000").env("ONNXD_HEADER_TIMEOUT_MS", "2000");
    let server = Server::launch(command.env("ONNXD_BODY_TIMEOUT_MS", "2000"));
    (home, server)
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let (_home, server) = start();
    let path = infer_path("versioned");
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    let refused = [
        // Both, in either order and spelling.
        format!("{head}content-length: 5\r\n{chunked}\r\n0\r\n\r\n{SMUGGLED}"),
        format!("{head}{chunked}Content-Length: 5\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!(
            "{head}Transfer-ENCODING: chunked\r\ncontent-length: 500\r\n\r\n0\r\n\r\n{SMUGGLED}"
        ),
        // More than one.
        format!("{head}content-length: 5\r\ncontent-length: 5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}{chunked}{chunked}\r\n0\r\n\r\n{SMUGGLED}"),
        // No number.
        format!("{head}content-length: +5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: 5, 5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: 5 5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: -5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: 0x5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: 99999999999999999999\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}content-length: \r\n\r\n{SMUGGLED}"),
        // Encodings that end in something else.
        format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("{head}transfer-encoding: identity\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        // Lines that end, begin or are divided otherwise.
        format!("{head}a: b\ncontent-length: 5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}a: b\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("{head}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("{head}content-length\t: 5\r\n\r\n{{}}   {SMUGGLED}"),
        format!("{head}a\0b: c\r\n\r\n{SMUGGLED}"),
        format!("{head}a: b\0c\r\n\r\n{SMUGGLED}"),
        format!("{head}: b\r\n\r\n{SMUGGLED}"),
        format!("{head}a: b\rc: d\r\n\r\n{SMUGGLED}"),
        // Requests that are none.
        format!("GET /v2/health/live\r\n\r\n{SMUGGLED}"),
        format!("GET  /v2/health/live HTTP/1.1\r\n\r\n{SMUGGLED}"),
        format!("GET /v2/health/live HTTP/1.2\r\n\r\n{SMUGGLED}"),
        format!("GET /v2/health/live HTTP/3\r\n\r\n{SMUGGLED}"),
        format!("GE\x01T /v2/health/live HTTP/1.1\r\n\r\n{SMUGGLED}"),
        format!("G{{T /v2/health/live HTTP/1.1\r\n\r\n{SMUGGLED}"),
        format!(" GET /v2/health/live HTTP/1.1\r\n\r\n{SMUGGLED}"),
        // HTTP/1.0 knows no chunks.
        format!("POST {path} HTTP/1.0\r\n{chunked}\r\n0\r\n\r\n{SMUGGLED}"),
    ];
    for request in refused {
        assert_eq!(statuses(&server, request.as_bytes()), [400], "{request:?}");
    }
    // Of the first of them the answer says why, in JSON.
    let mut client = Http::connect(&server.http);
    client.send(format!("{head}content-length: 5\r\n{chunked}\r\n0\r\n\r\n").as_bytes());
    let answer = client.read();
    assert!(answer.closes());
    assert!(answer.error(400).contains("Transfer-Encoding"));
    server.stop();
}

#[test]
fn chunks_that_are_none_end_the_connection() {
    let (_home, server) = start();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        infer_path("versioned")
    );
    for chunks in [
        "5\r\n{}   0\r\n\r\n",
        "5 5\r\n{}   \r\n0\r\n\r\n",
        "-5\r\n{}   \r\n0\r\n\r\n",
        "0x5\r\n{}   \r\n0\r\n\r\n",
        "fffffffffffffffff\r\n{}   \r\n0\r\n\r\n",
        "\r\n5\r\n{}   \r\n0\r\n\r\n",
        "5;a\nb\r\n{}   \r\n0\r\n\r\n",
        "z\r\n\r\n",
    ] {
        let request = format!("{head}{chunks}{SMUGGLED}");
        let got = statuses(&server, request.as_bytes());
        // One answer, no second: what follows is nobody's request.
        assert!(got.len() <= 1 && got.iter().all(|status| *status != 200), "{chunks:?}: {got:?}");
    }
    let long = format!("{head}5;{}\r\n{{}}   \r\n0\r\n\r\n{SMUGGLED}", "a".repeat(100_000));
    let got = statuses(&server, long.as_bytes());
    assert!(got.len() <= 1 && got.iter().all(|status| *status != 200), "{got:?}");
    server.stop();
}

#[test]
fn odd_heads_are_answered_and_the_next_request_is_the_next() {
    let (_home, server) = start();
    for (request, status) in [
        ("GET http://elsewhere.example/v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 404),
        ("BREW /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n", 405),
        ("\r\n\r\nGET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n", 200),
        ("GET /v2/health/live HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x\r\n\r\n", 200),
        ("GET /v2/health/live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", 200),
    ] {
        let mut client = Http::connect(&server.http);
        client.send(request.as_bytes());
        assert_eq!(client.read().status, status, "{request:?}");
        assert_eq!(client.ask("GET", "/v2/health/live", "", b"").status, 200, "{request:?}");
    }
    assert_eq!(statuses(&server, b"GET /v2/health/live HTTP/1.0\r\n\r\n"), [200]);
    // A body that waits to be asked for.
    let body = http::four(1.0).to_string();
    let mut client = Http::connect(&server.http);
    for _ in 0..2 {
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            infer_path("versioned"),
            body.len()
        );
        client.send(head.as_bytes());
        assert_eq!(client.read().status, 100);
        client.send(body.as_bytes());
        assert_eq!(client.read().output(0), [4.0; 4]);
    }
    server.stop();
}

#[test]
fn heads_have_a_size() {
    let (_home, server) = start();
    let ask = |headers: &str| {
        let request = format!("GET /v2/health/live HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        let mut client = Http::connect(&server.http);
        let _ = client.try_send(request.as_bytes());
        let answer = client.read();
        if answer.status != 200 {
            let mut rest = [0; 1];
            assert!(!matches!(client.socket.read(&mut rest), Ok(1..)), "the connection ends");
        }
        answer
    };
    assert_eq!(ask(&format!("a: {}\r\n", "b".repeat(30_000))).status, 200);
    for size in [40_000, 400_000, 4_000_000] {
        let answer = ask(&format!("a: {}\r\n", "b".repeat(size)));
        assert!(answer.error(431).contains("max_header_bytes"));
    }
    assert_eq!(ask(&"a: b\r\n".repeat(90)).status, 200);
    assert_eq!(ask(&"a: b\r\n".repeat(150)).status, 431);
    let answer = ask(&"a: b\r\n".repeat(20_000));
    assert_eq!(answer.status, 431);
    let mut client = Http::connect(&server.http);
    let path = "a".repeat(70_000);
    let _ = client.try_send(format!("GET /{path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
    let status = client.read().status;
    assert!(matches!(status, 414 | 431), "{status}");
    server.stop();
}
