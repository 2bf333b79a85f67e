//! The basics of both protocols on the data ports: chunks, pipelines, verbs, limits, types, and every protocol on every port.

use serde_json::{Value, json};

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, Http, infer_path, request},
    server::Server,
};

const LIMIT: usize = 4096;

fn start() -> (Home, Server) {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_MAX_REQUEST_BYTES", LIMIT.to_string()));
    (home, server)
}

fn chunked(path: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x};note=\"ignored\"\r\n", chunk.len()).bytes());
        bytes.extend([chunk, b"\r\n"].concat());
    }
    bytes.extend(b"0\r\ntrailing: header\r\n\r\n");
    bytes
}

#[test]
fn a_body_in_chunks_is_one_body() {
    let (_home, server) = start();
    let body = http::four(1.0).to_string();
    let mut client = Http::connect(&server.http);
    for size in [1, 7, 64, 1000] {
        client.send(&chunked(&infer_path("versioned"), body.as_bytes(), size));
        assert_eq!(client.read().output(0), [4.0; 4], "chunks of {size}");
    }
    server.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_home, server) = start();
    let mut all = Vec::new();
    for i in 0..20 {
        // Versions of their own, errors and other routes in between: nothing overtakes.
        let body = json!({"id": format!("{i}"), "inputs": http::four(f64::from(i))["inputs"]});
        let path = format!("/v2/models/versioned/versions/{}/infer", i % 3 + 1);
        all.extend(match i % 5 {
            3 => request("POST", &infer_path("nonesuch"), "", body.to_string().as_bytes()),
            4 => request("GET", "/v2/health/live", "", b""),
            _ => request("POST", &path, "", body.to_string().as_bytes()),
        });
    }
    let mut client = Http::connect(&server.http);
    client.send(&all);
    for i in 0..20 {
        let answer = client.read();
        match i % 5 {
            3 => assert!(answer.error(404).contains("nonesuch")),
            4 => assert_eq!(answer.json()["live"], true),
            _ => {
                assert_eq!(answer.output(0), [f64::from(i + i % 3 + 1); 4]);
                assert_eq!(answer.json()["id"], i.to_string());
            }
        }
    }
    server.stop();
}

#[test]
fn wrong_verbs_and_paths_are_told_in_json() {
    let (_home, server) = start();
    let mut client = Http::connect(&server.http);
    for path in [infer_path("versioned"), "/v2/models/versioned/versions/1/infer".to_owned()] {
        for verb in ["GET", "PUT", "DELETE", "PATCH"] {
            let answer = client.ask(verb, &path, "", b"");
            assert_eq!(answer.header("allow"), Some("POST"), "{verb}");
            assert!(answer.error(405).contains(verb));
        }
        let answer = client.ask("HEAD", &path, "", b"");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    }
    for path in ["/", "/v2/health/live"] {
        let answer = client.ask("HEAD", path, "", b"");
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(client.ask("POST", "/v2/health/live", "", b"").status, 405);
    for path in ["/v3", "/v2/nonesuch", "/v2/models/versioned/infer/", "/v2/models/a/b/infer"] {
        for verb in ["GET", "POST"] {
            let answer = client.ask(verb, path, "", b"");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
            assert!(answer.error(404).contains(path), "{path}");
        }
    }
    for model in ["nonesuch", "versioned%20"] {
        let answer =
            client.ask("POST", &infer_path(model), "", http::four(1.0).to_string().as_bytes());
        answer.error(404);
    }
    server.stop();
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let (_home, server) = start();
    for length in [LIMIT as u64 + 1, 1 << 40] {
        let mut client = Http::connect(&server.http);
        let path = infer_path("versioned");
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
        // Not a byte of it follows: the answer comes from the head alone.
        client.send(head.as_bytes());
        let message = client.read().error(413);
        assert!(message.contains(&LIMIT.to_string()), "{message}");
    }
    // No length declared: refused once too much has come.
    let mut client = Http::connect(&server.http);
    client.send(&chunked(&infer_path("versioned"), &[b' '; LIMIT + 1], 1024));
    client.read().error(413);
    // Right at the limit is not over it.
    let mut body = http::four(1.0).to_string().into_bytes();
    body.resize(LIMIT, b' ');
    let mut client = Http::connect(&server.http);
    assert_eq!(client.ask("POST", &infer_path("versioned"), "", &body).output(0), [4.0; 4]);

    let calls = Grpc::connect(&server.grpc);
    let called = calls.call("ModelInfer", "", &[0x0a; LIMIT]);
    assert_eq!(called.code, 8, "{}", called.message);
    assert!(called.details.is_none(), "another try makes no sense");
    assert_eq!(calls.infer("", &grpc::four("versioned", 1.0)).floats(), [4.0; 4]);
    server.stop();
}

#[test]
fn the_content_type_may_be_any_that_clients_send_and_no_other() {
    let (_home, server) = start();
    let mut client = Http::connect(&server.http);
    let body = http::four(1.0).to_string();
    let mut ask =
        |headers: &str| client.ask("POST", &infer_path("versioned"), headers, body.as_bytes());
    for kind in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ] {
        assert_eq!(ask(&format!("content-type: {kind}\r\n")).output(0), [4.0; 4], "{kind}");
    }
    for kind in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "json"] {
        ask(&format!("content-type: {kind}\r\n")).error(415);
    }
    for encoding in ["br", "compress", "nonesuch"] {
        ask(&format!("content-encoding: {encoding}\r\n")).error(415);
    }
    assert_eq!(ask("content-encoding: identity\r\n").output(0), [4.0; 4]);
    server.stop();
}

#[test]
fn both_ports_speak_both_protocols() {
    let (_home, server) = start();
    for address in [&server.http, &server.grpc] {
        assert_eq!(http::infer(address, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);
        let two = Grpc::connect(address);
        assert_eq!(two.infer("", &grpc::four("versioned", 1.0)).floats(), [4.0; 4]);
        // Plain HTTP over HTTP/2, without TLS.
        assert_eq!(two.http("GET", "/v2/health/live", b"").0, 200);
        let (status, body) =
            two.http("POST", &infer_path("versioned"), http::four(1.0).to_string().as_bytes());
        assert_eq!(status, 200);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["outputs"][0]["data"], json!([4.0, 4.0, 4.0, 4.0]));
        let (status, body) = two.http("GET", &infer_path("versioned"), b"");
        assert_eq!(status, 405, "{body:?}");
        assert_eq!(two.http("GET", "/nonesuch", b"").0, 404);
        assert_eq!(two.call("Nonesuch", "", b"").code, 12);
        assert_eq!(two.infer("", &grpc::four("nonesuch", 1.0)).code, 5);
    }
    server.stop();
}

#[test]
fn a_connection_outlives_the_errors_on_it() {
    let (_home, server) = start();
    let mut client = Http::connect(&server.http);
    let good = http::four(1.0).to_string();
    for bad in ["", "{", "[]", "{\"inputs\":[]}", "{\"inputs\":[{\"name\":\"Y\"}]}"] {
        client.ask("POST", &infer_path("versioned"), "", bad.as_bytes()).error(400);
        let answer = client.ask("POST", &infer_path("versioned"), "", good.as_bytes());
        assert_eq!(answer.output(0), [4.0; 4], "after {bad:?}");
    }
    client.send(&request(
        "POST",
        &infer_path("versioned"),
        "expect: 100-continue\r\n",
        good.as_bytes(),
    ));
    let mut answer = client.read();
    if answer.status == 100 {
        answer = client.read();
    }
    assert_eq!(answer.output(0), [4.0; 4]);
    server.stop();
}
