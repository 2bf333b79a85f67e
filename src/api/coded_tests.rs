//! Compressed bodies through the layer of the routers, and gRPC's messages one by one.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use prost::Message as _;
use tower::ServiceExt;

use super::*;
use crate::api::{body::BodyLimits, fixture, http::router, proto};

const INDEX: &str = "/v2/repository/index";
const GRPC_INDEX: &str = "/inference.GRPCInferenceService/RepositoryIndex";

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(data), &mut out).unwrap();
    out
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A thousand bytes at most in a request.
fn api() -> Arc<Api> {
    let limits = BodyLimits { max_bytes: 1000, timeout: Duration::from_secs(30) };
    Arc::new(Api { limits, ..fixture::api() })
}

async fn ask(
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (http::response::Parts, Bytes) {
    let api = api();
    let mut request = http::Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Routed::from(body)).unwrap();
    let answer = router(api.clone()).oneshot(request).await.unwrap();
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    parts.headers.extend(body.trailers().cloned().unwrap_or_default());
    let bytes = body.to_bytes();
    assert_eq!(api.budget.used(), 0, "what was charged is given back");
    (parts, bytes)
}

#[tokio::test]
async fn routers_see_plain_bodies() {
    let body = br#"{"ready": true}"#;
    let coding = ("content-encoding", "gzip");
    let (parts, plain) = ask(INDEX, &[], body.to_vec()).await;
    assert_eq!(parts.status, 200);
    let (parts, answer) = ask(INDEX, &[coding], gzip(body)).await;
    assert_eq!((parts.status.as_u16(), &answer), (200, &plain));
    assert!(parts.headers.get("content-encoding").is_none(), "nobody asked for it");
    // A request without a body has nothing that could be compressed.
    assert_eq!(ask(INDEX, &[coding], vec![]).await.0.status, 200);

    let cut = gzip(body);
    for (status, coding, body) in [
        (400, "gzip", cut[..cut.len() - 1].to_vec()),
        (400, "gzip", body.to_vec()),
        (400, "gzip", gzip(b"{")),
        (400, "deflate", gzip(body)),
        (413, "gzip", gzip(&[b' '; 1001])),
        (413, "gzip", [&gzip(body)[..], &[0; 1000]].concat()),
        (415, "br", body.to_vec()),
        (415, "gzip, gzip", gzip(&gzip(body))),
    ] {
        let (parts, answer) = ask(INDEX, &[("content-encoding", coding)], body).await;
        assert_eq!(parts.status, status, "{coding}: {answer:?}");
        let error: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert!(error["error"].is_string());
        let known = parts.headers.get("accept-encoding").map(|v| v.to_str().unwrap());
        assert_eq!(known, (status == 415).then_some("gzip, deflate"));
    }
}

#[tokio::test]
async fn routers_answers_are_compressed_where_that_is_asked_for_and_worth_it() {
    let get = async |path: &str, method: &str| {
        let request = http::Request::builder().uri(path).method(method);
        let request = request.header("accept-encoding", "gzip").body(Routed::empty()).unwrap();
        router(api()).oneshot(request).await.unwrap().into_parts()
    };
    let (parts, body) = get("/openapi.json", "GET").await;
    assert_eq!(parts.headers["content-encoding"], "gzip");
    assert_eq!(parts.headers["vary"], "accept-encoding");
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.headers["content-length"], body.len().to_string());
    let document: serde_json::Value = serde_json::from_slice(&gunzip(&body)).unwrap();
    assert!(document["paths"].is_object());
    for (path, method) in [("/v2", "GET"), ("/openapi.json", "HEAD")] {
        let (parts, _) = get(path, method).await;
        assert_eq!(parts.status, 200);
        assert!(parts.headers.get("content-encoding").is_none(), "{method} {path}");
    }
}

#[tokio::test]
async fn grpcs_handlers_see_plain_messages() {
    let message = proto::RepositoryIndexRequest { ready: true, ..Default::default() };
    let message = message.encode_to_vec();
    let call = async |headers: &[(&str, &str)], body: Vec<u8>| {
        let kind = [("content-type", "application/grpc"), ("te", "trailers")];
        ask(GRPC_INDEX, &[&kind[..], headers].concat(), body).await
    };
    let packed = ("grpc-encoding", "gzip");
    let accepts = ("grpc-accept-encoding", "identity,gzip");
    let (_, plain) = call(&[accepts], framed(0, &message)).await;
    assert_eq!(plain[0], 0, "who sends plain is answered plain");
    let index = proto::RepositoryIndexResponse::decode(&plain[5..]).unwrap();
    assert_eq!(index.models.len(), 2);
    for (headers, body) in [
        (&[packed, accepts][..], framed(1, &gzip(&message))),
        (&[packed], framed(1, &gzip(&message))),
        (&[packed], framed(0, &message)),
    ] {
        let (parts, answer) = call(headers, body).await;
        assert_eq!(parts.headers["grpc-status"], "0");
        assert_eq!(parts.headers["grpc-accept-encoding"], "identity,gzip,deflate");
        assert_eq!(answer, plain, "too small to be worth it");
    }
    let cut = gzip(&message);
    for (code, headers, body) in [
        ("3", &[packed][..], framed(1, &cut[..cut.len() - 1])),
        ("3", &[packed], framed(1, &message)),
        ("3", &[packed], framed(2, &message)),
        ("3", &[], framed(1, &gzip(&message))),
        ("3", &[packed], framed(1, &gzip(&message))[..8].to_vec()),
        ("8", &[packed], framed(1, &gzip(&[0; 1001]))),
        ("8", &[], framed(0, &[0; 1001])),
        ("12", &[("grpc-encoding", "snappy")], framed(1, &message)),
    ] {
        let (parts, answer) = call(headers, body).await;
        assert_eq!(parts.headers["grpc-status"], code, "{:?}", parts.headers);
        assert_eq!(parts.status, 200);
        assert!(answer.is_empty());
        assert_eq!(parts.headers["grpc-accept-encoding"], "identity,gzip,deflate");
    }
}

#[tokio::test]
async fn large_answers_of_calls_are_packed_message_by_message() {
    let budget = Budget::new(1 << 20);
    let (small, large) = (framed(0, b"small"), framed(0, &[7; 5000]));
    let body = Full::<Bytes>::from([&small[..], &large, &small].concat());
    let reader = Reader::new(Routed::new(body), usize::MAX, Coding::Identity, &budget);
    let out = Recoded::new(reader, Coding::Gzip).collect().await.unwrap().to_bytes();
    let mut read = Reader::new(Routed::from(out.clone()), 5000, Coding::Gzip, &budget);
    for expected in [&b"small"[..], &[7; 5000], b"small"] {
        let message = read.next().await.unwrap().expect("a message").held();
        assert_eq!(message, expected);
    }
    assert!(read.next().await.unwrap().is_none());
    assert!(out.len() < 200, "the large one is packed");
    assert_eq!(out[..small.len()], small, "the small one is not");
    drop(read);
    assert_eq!(budget.used(), 0);
}

/// The charge of a message lives as long as anything that shares its bytes.
#[tokio::test]
async fn a_message_is_charged_while_its_bytes_live() {
    let budget = Budget::new(1 << 20);
    let body = Routed::from(framed(1, &gzip(&[7; 100_000])));
    let mut read = Reader::new(body, 100_000, Coding::Gzip, &budget);
    let tensor = read.next().await.unwrap().expect("a message").held().slice(50_000..50_004);
    drop(read);
    assert!(budget.used() >= 100_000, "{}", budget.used());
    drop(tensor);
    assert_eq!(budget.used(), 0);
}
