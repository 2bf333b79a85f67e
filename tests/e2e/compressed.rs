//! Compressed bodies over real sockets: both ways, bombs, what is cut or damaged, and the memory that requests hold.

use std::io::Write;

use flate2::{
    Compress, Compression, FlushCompress,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use serde_json::json;

use crate::support::{
    files::Home,
    http::{self, Http, infer_path, request},
    server::Server,
    watch::{self, metric},
};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

fn unpacked(coding: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match coding {
        "gzip" => std::io::Read::read_to_end(&mut GzDecoder::new(data), &mut out),
        _ => std::io::Read::read_to_end(&mut ZlibDecoder::new(data), &mut out),
    };
    read.expect("what the server compressed");
    out
}

/// A gzip body that becomes so many MiB of zeros, made without compressing them all.
fn bomb(mib: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(1 << 16);
    let zeros = vec![0; 1 << 20];
    let mut raw = Compress::new(Compression::best(), false);
    // Ends on a byte, and refers to nothing before it: it may be repeated.
    raw.compress_vec(&zeros, &mut block, FlushCompress::Full).expect("in memory");
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&head[..], &block.repeat(mib)].concat()
}

/// Rows of `identity_fp32`, as JSON that shrinks well.
fn rows(count: usize) -> serde_json::Value {
    http::inputs(&[("INPUT0", "FP32", &[1, count], json!(vec![0.5; count]))])
}

#[test]
fn bodies_are_compressed_both_ways() {
    let home = Home::of(&["identity_fp32"]);
    let server = Server::start(home.path(), &home.repository());
    let path = infer_path("identity_fp32");
    let mut client = Http::connect(&server.http);
    let body = rows(4000).to_string().into_bytes();
    let plain = client.ask("POST", &path, "", &body);
    assert_eq!(plain.output(0), vec![0.5; 4000]);
    for (coding, packed) in [("gzip", gzip(&body)), ("deflate", zlib(&body))] {
        let sent = format!("content-encoding: {coding}\r\n");
        assert_eq!(client.ask("POST", &path, &sent, &packed).body, plain.body);
        let both = format!("{sent}accept-encoding: {coding};q=0.5, br\r\n");
        let answer = client.ask("POST", &path, &both, &packed);
        assert_eq!((answer.status, answer.header("content-encoding")), (200, Some(coding)));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert!(answer.body.len() < plain.body.len() / 10);
        assert_eq!(unpacked(coding, &answer.body), plain.body);
        // Refused by its weight, and too small to be worth it.
        for (accept, count) in [(format!("{coding};q=0"), 4000), (coding.to_owned(), 4)] {
            let body = rows(count).to_string().into_bytes();
            let headers = format!("accept-encoding: {accept}\r\n");
            let answer = client.ask("POST", &path, &headers, &body);
            assert_eq!(answer.header("content-encoding"), None, "{accept}");
            assert_eq!(answer.output(0), vec![0.5; count]);
        }
    }
    // The binary form: the length is that of the JSON before it was compressed, in the request as in the answer.
    let head = json!({"inputs": [{"name": "INPUT0", "shape": [1, 2000], "datatype": "FP32", "parameters": {"binary_data_size": 8000}}], "parameters": {"binary_data_output": true}});
    let head = head.to_string();
    let whole = gzip(&[head.as_bytes(), &[0; 8000]].concat());
    let headers = format!(
        "inference-header-content-length: {}\r\ncontent-encoding: gzip\r\naccept-encoding: gzip\r\n",
        head.len()
    );
    let answer = client.ask("POST", &path, &headers, &whole);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let length = answer.header("inference-header-content-length").expect("a length");
    let length: usize = length.parse().expect("a number");
    let body = unpacked("gzip", &answer.body);
    assert_eq!(body[length..], [0; 8000]);
    let json: serde_json::Value = serde_json::from_slice(&body[..length]).expect("JSON");
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 8000);
    server.stop();
}

#[test]
fn a_bomb_costs_neither_memory_nor_the_server() {
    const LIMIT: usize = 8 << 20;
    let home = Home::of(&["identity_fp32", "versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_MAX_REQUEST_BYTES", LIMIT.to_string()));
    let resident = || metric(&server, "process_resident_memory_bytes", &[]);
    let bomb = bomb(1024);
    assert!(bomb.len() < LIMIT);
    let before = resident();
    for path in [infer_path("identity_fp32"), "/v2/repository/index".to_owned()] {
        // One after the other: what one leaves behind would add up.
        for _ in 0..3 {
            let mut client = Http::connect(&server.http);
            client.send(&request("POST", &path, "content-encoding: gzip\r\n", &bomb));
            let message = client.read().error(413);
            assert!(message.contains(&LIMIT.to_string()), "{message}");
        }
    }
    let grown = resident() - before;
    assert!(grown < 64.0 * f64::from(1 << 20), "{grown} bytes more");
    watch::until("all is given back", || metric(&server, "onnxd_request_memory_bytes", &[]) == 0.0);
    assert_eq!(http::infer(&server.http, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);
    server.stop();
}

#[test]
fn what_is_cut_damaged_or_unknown_is_refused() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let path = infer_path("versioned");
    let body = http::four(1.0).to_string().into_bytes();
    let good = gzip(&body);
    let ask = |coding: &str, body: &[u8]| {
        let headers = format!("content-encoding: {coding}\r\n");
        Http::connect(&server.http).ask("POST", &path, &headers, body)
    };
    assert_eq!(ask("gzip", &good).output(0), [4.0; 4]);
    let end = good.len();
    for cut in [1, 4, 8, end / 2, end - 1, end] {
        ask("gzip", &good[..end - cut]).error(400);
    }
    for at in [0, 2, end / 2, end - 8, end - 1] {
        let mut damaged = good.clone();
        damaged[at] ^= 0x55;
        ask("gzip", &damaged).error(400);
    }
    ask("gzip", &[&good[..], b"more"].concat()).error(400);
    ask("gzip", &body).error(400);
    ask("deflate", &good).error(400);
    // Raw deflate, which has no checksum.
    let zlib = zlib(&body);
    ask("deflate", &zlib[2..zlib.len() - 4]).error(400);
    for coding in ["br", "zstd", "gzip, gzip", "gzip\r\ncontent-encoding: gzip"] {
        let answer = ask(coding, &good);
        assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate"));
        answer.error(415);
    }
    server.stop();
}

/// Asks `huge` for so many numbers, as binary data.
fn huge(server: &Server, numbers: u64) -> Http {
    let body = json!({"inputs": [{"name": "SHAPE", "shape": [1], "datatype": "INT64", "data": [numbers]}], "outputs": [{"name": "Y", "parameters": {"binary_data": true}}]});
    let mut client = Http::connect(&server.http);
    client.send(&request("POST", &infer_path("huge"), "", body.to_string().as_bytes()));
    client
}

#[test]
fn answers_count_until_they_are_read_and_may_be_too_large() {
    const MIB: u64 = 1 << 20;
    let home = Home::of(&["huge", "versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_MAX_REQUEST_BYTES", "100000");
    let server = Server::launch(command.env("ONNXD_REQUEST_MEMORY_BYTES", (40 * MIB).to_string()));
    let held = || metric(&server, "onnxd_request_memory_bytes", &[]) as u64;
    let level = || metric(&server, "onnxd_request_memory_level", &[]);
    let small = || http::infer(&server.http, "versioned", "", &http::four(1.0));

    // More than the limit, and more than any machine has.
    let refused = huge(&server, 11 * MIB).read();
    assert!(refused.header("retry-after").is_some());
    assert!(refused.error(429).contains(&(40 * MIB).to_string()));
    let absurd = huge(&server, 1 << 44).read();
    assert!((400..=599).contains(&absurd.status), "{}", absurd.status);
    assert_eq!(small().output(0), [4.0; 4]);

    // Asked for and not read: 32 MiB, four fifths of the limit.
    let mut slow = huge(&server, 8 * MIB);
    watch::until("the answer is there", || held() >= 32 * MIB);
    assert_eq!(level(), 1.0);
    let answer = small();
    assert!(answer.closes(), "memory is short: the connection ends");
    assert_eq!(answer.output(0), [4.0; 4]);
    huge(&server, 8 * MIB).read().error(429);
    assert!(slow.read().body.len() as u64 >= 32 * MIB);
    watch::until("it is given back", || held() == 0);
    assert_eq!(level(), 0.0);
    assert!(!small().closes());
    server.stop();
}
