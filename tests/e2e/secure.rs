//! TLS on the ports: every protocol through it, who may come in, files that are replaced, peers that do not shake hands.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rcgen::SanType;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, infer_path},
    server::{Server, run_to_end},
    tls::{Authority, Pair, set_up},
    watch::{self, until},
};

/// A home with the authority's certificate for the server in it.
fn home(authority: &Authority) -> Home {
    let home = Home::of(&["versioned"]);
    authority.issue(|_| {}).write(home.path(), "server");
    home
}

fn launch(home: &Home, settings: &[(&str, &str)]) -> Server {
    let mut command = Server::command(home.path(), &home.repository());
    Server::launch(set_up(&mut command, home.path()).envs(settings.iter().copied()))
}

#[test]
fn every_protocol_on_both_ports() {
    let authority = Authority::new();
    let home = home(&authority);
    let server = launch(&home, &[]);
    let body = http::four(1.0).to_string();
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(None, &[version]);
        for address in [&server.http, &server.grpc] {
            let mut one = client.connect(address).expect("the server listens");
            for _ in 0..3 {
                let answer = one.ask("POST", &infer_path("versioned"), "", body.as_bytes());
                assert_eq!(answer.output(0), [4.0; 4]);
            }
            let two = Grpc::connect_tls(address, &client);
            assert_eq!(two.infer("", &grpc::four("versioned", 1.0)).floats(), [4.0; 4]);
            let (status, answer) = two.http("POST", &infer_path("versioned"), body.as_bytes());
            assert_eq!(status, 200);
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            assert_eq!(answer["outputs"][0]["data"], json!([4.0, 4.0, 4.0, 4.0]));
        }
    }
    // A large answer and a large request pass in many records.
    let big = http::inputs(&[("X", "FP32", &[20_000, 4], json!(vec![1.5; 80_000]))]).to_string();
    let mut one = authority.client(None).connect(&server.http).expect("the server listens");
    let answer = one.ask("POST", &infer_path("versioned"), "", big.as_bytes());
    assert!(answer.status == 200 || answer.status == 400, "{}", answer.status);
    assert_eq!(one.ask("GET", "/v2/health/live", "", b"").status, 200);

    let before = cut(&server);
    // Not without TLS, and not with one that is older.
    let mut plain = TcpStream::connect(&server.http).expect("the server listens");
    plain.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let mut old = TcpStream::connect(&server.http).expect("the server listens");
    old.write_all(&hello_of_tls_1_1()).expect("sent");
    let mut answer = Vec::new();
    let _ = old.read_to_end(&mut answer);
    // An alert, fatal: protocol_version.
    assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{answer:?}");
    // The peer may see the end before it is counted.
    watch::until("both are counted", || cut(&server) == before + 2.0);
    server.stop();
}

/// Handshakes that failed.
fn cut(server: &Server) -> f64 {
    watch::metric(server, "onnxd_connections_cut_total", &["cause=\"handshake\""])
}

/// A ClientHello that knows nothing newer than TLS 1.1.
fn hello_of_tls_1_1() -> Vec<u8> {
    let suites = [0xc0, 0x13, 0xc0, 0x09, 0x00, 0x2f];
    // Extensions: curves and signatures.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    let body = [
        &[3, 2][..],
        &[7; 32],
        &[0],
        &[0, suites.len() as u8],
        &suites,
        &[1, 0],
        &[0, extensions.len() as u8],
        &extensions,
    ]
    .concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 1, 0, message.len() as u8][..], &message].concat()
}

#[test]
fn clients_show_who_they_are_where_they_must() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let home = home(&authority);
    fs::write(home.path().join("ca.pem"), &authority.certificate).expect("written");
    let ca = home.path().join("ca.pem");
    let ca = ca.to_str().expect("a path");
    let (good, expired) = (authority.issue(|_| {}), authority.expired());
    let wrong = stranger.issue(|_| {});
    for (mode, without) in [("required", false), ("optional", true)] {
        let settings = [("ONNXD_TLS_CLIENT_CA", ca), ("ONNXD_TLS_CLIENT_CERTIFICATES", mode)];
        let server = launch(&home, &settings);
        for version in [&TLS12, &TLS13] {
            for address in [&server.http, &server.grpc] {
                let ask = |pair: Option<&Pair>| {
                    authority.client_of(pair, &[version]).health(address).is_ok_and(|s| s == 200)
                };
                assert!(ask(Some(&good)), "{mode}");
                assert_eq!(ask(None), without, "{mode}");
                assert!(!ask(Some(&wrong)) && !ask(Some(&expired)), "{mode}");
            }
        }
        let two = Grpc::connect_tls(&server.grpc, &authority.client(Some(&good)));
        assert_eq!(two.infer("", &grpc::four("versioned", 1.0)).floats(), [4.0; 4]);
        server.stop();
    }
}

/// Sets its flag when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the certificate says is who the caller is, on every port and in both protocols.
#[test]
fn a_certificate_is_a_caller() {
    let authority = Authority::new();
    let home = home(&authority);
    fs::write(home.path().join("ca.pem"), &authority.certificate).expect("written");
    let ca = home.path().join("ca.pem");
    let named = |name: &'static str| {
        authority.issue(|params| {
            params.subject_alt_names.insert(0, SanType::URI(name.try_into().expect("ASCII")));
        })
    };
    let [known, unknown] = [named("spiffe://house/search"), named("spiffe://house/else")];
    let server = launch(
        &home,
        &[
            ("ONNXD_TLS_CLIENT_CA", ca.to_str().expect("a path")),
            ("ONNXD_TLS_CLIENT_CERTIFICATES", "optional"),
            (
                "ONNXD_AUTH_CALLERS",
                "[{name: search, certificates: ['spiffe://house/search'], roles: [infer]}]",
            ),
        ],
    );
    let body = http::four(1.0).to_string();
    for address in [&server.http, &server.grpc] {
        for (pair, status, code) in
            [(Some(&known), 200, 0), (Some(&unknown), 401, 16), (None, 401, 16)]
        {
            let client = authority.client(pair);
            let mut one = client.connect(address).expect("the server listens");
            let answer = one.ask("POST", &infer_path("versioned"), "", body.as_bytes());
            assert_eq!(answer.status, status);
            let two = Grpc::connect_tls(address, &client);
            assert_eq!(two.infer("", &grpc::four("versioned", 1.0)).code, code);
        }
    }
    server.stop();
}

#[test]
fn replaced_files_are_taken_up_and_broken_ones_are_not() {
    let authority = Authority::new();
    let home = home(&authority);
    let server = launch(&home, &[]);
    let client = authority.client(None);
    let first = client.shown(&server.http);
    let expiry = || watch::metric(&server, "onnxd_tls_certificate_expiry_timestamp_seconds", &[]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also where an assertion fails: the scope waits for its threads.
        let stopping = Stop(&stop);
        // A connection that was there before, and new ones all the time: none fails.
        let asking = scope.spawn(|| {
            let mut open = client.connect(&server.http).expect("the server listens");
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                let body = http::four(1.0).to_string();
                let answer = open.ask("POST", &infer_path("versioned"), "", body.as_bytes());
                assert_eq!(answer.output(0), [4.0; 4]);
                assert_eq!(client.health(&server.http).expect("served"), 200);
                asked += 1;
            }
            asked
        });
        let second = authority.issue(|params| params.not_after = rcgen::date_time_ymd(2040, 1, 1));
        second.write(home.path(), "server");
        until("the new certificate serves", || client.shown(&server.http) != first);
        assert_eq!(client.shown(&server.http), second.der());
        assert_eq!(expiry(), 2_208_988_800.0);

        let third = authority.issue(|_| {});
        fs::write(home.path().join("server.pem"), &third.certificate).expect("written");
        until("the pair that does not fit is reported", || {
            server.said().contains("server.key does not serve as the key of")
        });
        assert_eq!(client.shown(&server.http), second.der());
        assert!(!server.said().contains("PRIVATE"), "{}", server.said());
        fs::write(home.path().join("server.key"), &third.key).expect("written");
        until("the pair that fits serves", || client.shown(&server.http) == third.der());
        drop(stopping);
        assert!(asking.join().expect("nothing failed") > 0);
    });
    assert_eq!(server.said().matches("the one before serves on").count(), 1, "{}", server.said());
    server.stop();
}

#[test]
fn clients_authorities_are_replaced_too() {
    let (authority, next) = (Authority::new(), Authority::new());
    let home = home(&authority);
    fs::write(home.path().join("ca.pem"), &authority.certificate).expect("written");
    let ca = home.path().join("ca.pem");
    let server = launch(&home, &[("ONNXD_TLS_CLIENT_CA", ca.to_str().expect("a path"))]);
    let [old, new] = [&authority, &next].map(|from| authority.client(Some(&from.issue(|_| {}))));
    assert_eq!(old.health(&server.http).expect("served"), 200);
    assert!(new.health(&server.http).is_err());
    fs::write(&ca, &next.certificate).expect("written");
    until("the new authority's client is served", || new.health(&server.http).is_ok());
    assert!(old.health(&server.http).is_err());
    server.stop();
}

#[test]
fn peers_that_do_not_shake_hands_are_cut_and_hold_nobody_up() {
    let authority = Authority::new();
    let home = home(&authority);
    let server = launch(&home, &[("ONNXD_TLS_HANDSHAKE_TIMEOUT_MS", "2000")]);
    let client = authority.client(None);
    let before = cut(&server);
    let mut silent: Vec<_> = (0..100)
        .map(|i| {
            let mut stream = TcpStream::connect(&server.http).expect("the server listens");
            stream.write_all(&hello_of_tls_1_1()[..i % 20]).expect("sent");
            stream
        })
        .collect();
    assert_eq!(client.health(&server.http).expect("served"), 200);
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    assert_eq!(cut(&server), before + 100.0);
    server.stop();

    // Nor a stop, however patient the server is.
    let settings =
        [("ONNXD_TLS_HANDSHAKE_TIMEOUT_MS", "600000"), ("ONNXD_DRAIN_TIMEOUT_MS", "600000")];
    let mut server = launch(&home, &settings);
    let _silent: Vec<_> = (0..3).map(|_| TcpStream::connect(&server.http)).collect();
    let mut idle = client.connect(&server.http).expect("the server listens");
    assert_eq!(idle.ask("GET", "/v2/health/live", "", b"").status, 200);
    until("they are all in", || {
        watch::metric(&server, "onnxd_connections_open", &["listener=\"http\""]) >= 4.0
    });
    server.terminate();
    server.ended_well();
}

#[test]
fn health_and_check_know_tls() {
    let authority = Authority::new();
    let home = home(&authority);
    fs::write(home.path().join("ca.pem"), &authority.certificate).expect("written");
    authority.issue(|_| {}).write(home.path(), "probe");
    let mut command = Server::command(home.path(), &home.repository());
    set_up(&mut command, home.path())
        .env("ONNXD_TLS_LISTENERS", "[operator]")
        .env("ONNXD_TLS_CLIENT_CA", home.path().join("ca.pem"));
    let server = Server::launch(&mut command);
    let health = |listeners: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.args(["health", "--http", "off", "--grpc", "off", "--operator", &server.operator]);
        set_up(&mut command, home.path()).env("ONNXD_TLS_LISTENERS", listeners);
        run_to_end(command.current_dir(home.path()).args(arguments))
    };
    let pair = ["--client-certificate", "probe.pem", "--client-key", "probe.key"];
    let asked = health("[operator]", &pair);
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    // Without a certificate, without TLS.
    assert_eq!(health("[operator]", &[]).code, Some(1));
    assert_eq!(health("[http]", &[]).code, Some(1));
    server.stop();

    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.arg("check").arg("--models").arg(home.repository()).current_dir(home.path());
        run_to_end(set_up(&mut command, home.path()))
    };
    assert_eq!(check().code, Some(0));
    fs::write(home.path().join("server.key"), "nonsense").expect("written");
    let refused = check();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("server.key: expected a private key"), "{}", refused.stderr);
    fs::remove_file(home.path().join("server.pem")).expect("removed");
    assert!(check().stderr.contains("server.pem: cannot be read"));
}
