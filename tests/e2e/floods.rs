//! HTTP/2 as those send it who mean harm: each flood costs its sender its connection or nothing, others are served
//! meanwhile, and memory stays bounded.

use std::{
    fs,
    io::{Read, Write},
    time::Duration,
};

use prost::Message;
use serde_json::json;

use crate::support::{
    files::Home,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, Frames, HEADERS, INITIAL_WINDOW_SIZE,
        MAX_CONCURRENT_STREAMS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, head,
    },
    grpc::{self, Grpc},
    http::{self, infer_path},
    server::{Server, Socket},
    watch::{self, until},
};

const CANCEL: [u8; 4] = 8u32.to_be_bytes();
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// How much a server may grow under a flood.
const GROWTH: u64 = 100 << 20;

/// A server, what it weighed before, and a client that was there first.
struct Scene {
    server: Server,
    _home: Home,
    before: u64,
    honest: Grpc,
}

impl Scene {
    fn new(settings: &[(&str, &str)]) -> Scene {
        let home = Home::of(&["versioned", "identity_fp32"]);
        let mut command = Server::command(home.path(), &home.repository());
        let server = Server::launch(command.envs(settings.iter().copied()));
        let honest = Grpc::connect(&server.grpc);
        let scene = Scene { before: 0, server, _home: home, honest };
        for _ in 0..50 {
            scene.serves();
        }
        Scene { before: resident(&scene.server), ..scene }
    }

    /// Somebody else is served, on an old connection and a new one.
    fn serves(&self) {
        let request = grpc::four("versioned", 1.0);
        assert_eq!(self.honest.infer("", &request).floats(), [4.0; 4]);
        let answer = http::infer(&self.server.http, "versioned", "", &http::four(1.0));
        assert_eq!(answer.output(0), [4.0; 4]);
    }

    fn ends_well(self) {
        self.serves();
        let grown = resident(&self.server).saturating_sub(self.before);
        assert!(grown < GROWTH, "grown by {} MB", grown >> 20);
        self.server.stop();
    }
}

/// Resident bytes of the server's process.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes << 10
}

/// Sends until all is sent, or the server takes no more; reads nothing.
fn pour(client: &mut Frames, bytes: &[u8]) {
    if let Socket::Tcp(stream) = &client.socket {
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    }
    let _ = client.socket.write_all(bytes);
}

#[test]
fn rapid_reset() {
    let scene = Scene::new(&[]);
    let message = grpc::four("versioned", 1.0).encode_to_vec();
    for _ in 0..3 {
        let mut client = Frames::connect(&scene.server.grpc);
        for _ in 0..5 {
            let mut bytes = Vec::new();
            for _ in 0..1000 {
                let (id, call) = client.frames_of(&message);
                bytes.extend(call);
                frame(&mut bytes, RST_STREAM, 0, id, &CANCEL);
            }
            pour(&mut client, &bytes);
            scene.serves();
        }
    }
    scene.ends_well();
}

/// The peer makes the server reset: streams that break the rules one after the other (CVE-2025-8671).
#[test]
fn made_you_reset() {
    let scene = Scene::new(&[]);
    let mut client = Frames::connect(&scene.server.grpc);
    let mut bytes = Vec::new();
    for i in 0..10_000u32 {
        let id = 2 * i + 1;
        frame(&mut bytes, HEADERS, END_HEADERS, id, &head());
        // A window that grows too large is an error of the stream.
        frame(&mut bytes, WINDOW_UPDATE, 0, id, &0x7fff_ffffu32.to_be_bytes());
    }
    pour(&mut client, &bytes);
    scene.serves();
    assert_eq!(client.ended(), Some(ENHANCE_YOUR_CALM));
    scene.ends_well();
}

#[test]
fn heads_that_do_not_end() {
    let scene = Scene::new(&[]);
    let mut client = Frames::connect(&scene.server.grpc);
    let mut bytes = Vec::new();
    frame(&mut bytes, HEADERS, END_STREAM, 1, &head());
    let mut more = vec![0x00, 10];
    more.extend(b"x-many-abc");
    more.push(100);
    more.extend([b'a'; 100]);
    for _ in 0..20_000 {
        frame(&mut bytes, CONTINUATION, 0, 1, &more);
    }
    pour(&mut client, &bytes);
    scene.serves();
    assert!(client.ended().is_some_and(|code| code != 0), "{:?}", client.error);

    // One head, whole, and far too large.
    let mut client = Frames::connect(&scene.server.grpc);
    let headers = [head(), more.repeat(2000)].concat();
    let (first, rest) = headers.split_at(16_000);
    client.raw(HEADERS, END_STREAM, 1, first).expect("sent");
    let parts: Vec<_> = rest.chunks(16_000).collect();
    for (at, part) in parts.iter().enumerate() {
        let last = if at + 1 == parts.len() { END_HEADERS } else { 0 };
        if client.raw(CONTINUATION, last, 1, part).is_err() {
            break;
        }
    }
    // Refused: by an answer without a message (431), or with the connection.
    let event = client.event();
    assert!(!matches!(event, Ok(Event::Answered { message: true, .. })), "{event:?}");
    scene.ends_well();
}

#[test]
fn settings_and_pings() {
    let scene = Scene::new(&[]);
    for (kind, payload) in [(SETTINGS, vec![0, 4, 0, 1, 0, 0]), (PING, vec![7; 8])] {
        let mut bytes = Vec::new();
        for _ in 0..50_000 {
            frame(&mut bytes, kind, 0, 0, &payload);
        }
        // Nothing of what comes back is read.
        let mut client = Frames::connect(&scene.server.grpc);
        pour(&mut client, &bytes);
        scene.serves();
    }
    scene.ends_well();
}

/// A message whose answer has as many bytes. Five of them fit into the windows that a connection begins with.
fn large() -> Vec<u8> {
    let raw = vec![0; 12_000];
    grpc::request("identity_fp32", &[("INPUT0", "FP32", &[3, 1000], raw)]).encode_to_vec()
}

#[test]
fn windows_that_stay_closed() {
    let scene = Scene::new(&[("ONNXD_WRITE_TIMEOUT_MS", "2000")]);
    let cut =
        || watch::metric(&scene.server, "onnxd_connections_cut_total", &["cause=\"slow_read\""]);
    let large = large();
    let mut closed: Vec<_> = (0..10)
        .map(|_| {
            let mut client = Frames::with(&scene.server.grpc, &[(INITIAL_WINDOW_SIZE, 0)]);
            for _ in 0..5 {
                // The server may have lost its patience already.
                let _ = client.call(&large);
            }
            client
        })
        .collect();
    scene.serves();
    until("those that take nothing are cut", || cut() >= 10.0);
    for client in &mut closed {
        client.ended();
    }
    // A byte at a time is as good as nothing.
    let mut tiny = Frames::with(&scene.server.grpc, &[(INITIAL_WINDOW_SIZE, 1)]);
    let id = tiny.call(&large).expect("sent");
    until("one that takes a byte at a time is cut", || {
        let _ = tiny.raw(WINDOW_UPDATE, 0, id, &1u32.to_be_bytes());
        cut() >= 11.0
    });
    scene.ends_well();
}

#[test]
fn windows_that_overflow() {
    let scene = Scene::new(&[]);
    let most = 0x7fff_ffffu32.to_be_bytes();
    let mut client = Frames::connect(&scene.server.grpc);
    client.raw(WINDOW_UPDATE, 0, 0, &most).expect("sent");
    assert_eq!(client.ended(), Some(FLOW_CONTROL_ERROR));

    let mut client = Frames::connect(&scene.server.grpc);
    client.raw(HEADERS, END_HEADERS, 1, &head()).expect("sent");
    client.raw(WINDOW_UPDATE, 0, 1, &most).expect("sent");
    let event = client.event().expect("an answer");
    assert!(matches!(event, Event::Reset { id: 1 }), "{event:?}");
    assert_eq!(client.error, Some(FLOW_CONTROL_ERROR));
    scene.ends_well();
}

#[test]
fn more_streams_than_were_allowed() {
    let scene = Scene::new(&[("ONNXD_MAX_STREAMS", "8")]);
    let mut client = Frames::connect(&scene.server.grpc);
    let message = grpc::four("versioned", 1.0).encode_to_vec();
    let id = client.call(&message).expect("sent");
    assert_eq!(client.event().expect("an answer"), Event::Answered { id, message: true });
    assert_eq!(client.settings.get(&MAX_CONCURRENT_STREAMS), Some(&8));
    // Eight that do not end, and one more.
    for i in 1..=9u32 {
        client.raw(HEADERS, END_HEADERS, 2 * i + 1, &head()).expect("sent");
    }
    assert_eq!(client.event().expect("an answer"), Event::Reset { id: 19 });
    assert_eq!(client.error, Some(REFUSED_STREAM));
    // The others are as they were.
    let data = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    client.raw(DATA, END_STREAM, 3, &data).expect("sent");
    assert_eq!(client.event().expect("an answer"), Event::Answered { id: 3, message: true });
    scene.ends_well();
}

/// A peer that never answers the ping before the last GOAWAY.
#[test]
fn a_stop_does_not_wait_for_a_peer_that_is_owed_nothing() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let mut server = Server::launch(command.env("ONNXD_DRAIN_TIMEOUT_MS", "600000"));
    let mut mute = Frames::connect(&server.grpc);
    mute.mute = true;
    let id = mute.call(&grpc::four("versioned", 1.0).encode_to_vec()).expect("sent");
    assert_eq!(mute.event().expect("an answer"), Event::Answered { id, message: true });
    let mut half = http::Http::connect(&server.http);
    half.send(b"POST /v2/models/versioned/infer HTTP/1.1\r\nhost: te");
    server.terminate();
    server.ended_well();
}

/// A connection that never says more than its preface, and one that says nothing.
#[test]
fn http2_peers_that_ask_for_nothing_are_let_go() {
    let scene =
        Scene::new(&[("ONNXD_IDLE_TIMEOUT_MS", "1500"), ("ONNXD_HEADER_TIMEOUT_MS", "1500")]);
    let mut idle = Frames::connect(&scene.server.grpc);
    idle.raw(PING, 0, 0, &[7; 8]).expect("sent");
    assert_eq!(idle.ended(), Some(0), "let go without blame");
    let mut silent = Socket::connect(&scene.server.grpc).expect("the server listens");
    assert_eq!(silent.read(&mut [0; 10]).expect("an end"), 0);
    let cut = |cause| watch::metric(&scene.server, "onnxd_connections_cut_total", &[cause]);
    assert!(cut("cause=\"idle\"") >= 1.0 && cut("cause=\"slow_head\"") >= 1.0);
    let answer = http::post(&scene.server.http, &infer_path("versioned"), "", &json!({}));
    assert_eq!(answer.status, 400);
    scene.server.stop();
}
