//! What is encoded is what the protocol says, read back by other means.

use std::time::Duration;

use super::*;
use crate::{
    plan::{Address, Tls},
    prepare::tensor::Datatype,
};

fn target(protocol: Protocol) -> Target {
    let address = Address::Tcp { host: "h".to_owned(), port: 1 };
    Target { protocol, address, tls: None, authority: "h:1".to_owned() }
}

fn tensors() -> Vec<Tensor> {
    let tensor = |name: &str, datatype, shape: &[u64], raw: &[u8]| Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        raw: raw.to_vec(),
    };
    vec![
        tensor("x", Datatype::Fp32, &[1, 2], &[0, 0, 0, 63, 0, 0, 128, 191]),
        tensor("t", Datatype::Bytes, &[1], b"\x02\x00\x00\x00hi"),
    ]
}

fn entry() -> Entry {
    let mut entry = Entry { version: Some("3".to_owned()), ..Entry::of("a b") };
    entry.priority = Some(2);
    entry.deadline = Some(Span(Duration::from_millis(20)));
    entry.headers.insert("X-Key".to_owned(), "k".to_owned());
    entry
}

fn parts(wire: &Wire) -> (String, Vec<u8>) {
    let Wire::Http(bytes) = wire else { panic!("not HTTP") };
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    (String::from_utf8(bytes[..at].to_vec()).unwrap(), bytes[at + 4..].to_vec())
}

#[test]
fn json_has_its_tensors_inside() {
    let (head, body) = parts(&infer(&target(Protocol::Json), &entry(), &tensors(), None).unwrap());
    assert!(head.starts_with("POST /v2/models/a%20b/versions/3/infer HTTP/1.1\r\nhost: h:1\r\n"));
    assert!(
        head.contains("X-Key: k\r\n") && head.contains(&format!("content-length: {}", body.len()))
    );
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body,
        json!({
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1.0]},
                {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["hi"]},
            ],
            "parameters": {"priority": 2, "timeout": 20_000},
        })
    );
}

#[test]
fn binary_has_them_behind() {
    let (head, body) =
        parts(&infer(&target(Protocol::Binary), &entry(), &tensors(), None).unwrap());
    let line = head.lines().find_map(|l| l.strip_prefix("inference-header-content-length: "));
    let (json, raw) = body.split_at(line.unwrap().parse().unwrap());
    let json: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["inputs"][0]["parameters"]["binary_data_size"], 8);
    assert_eq!(json["parameters"]["binary_data_output"], true);
    assert_eq!(raw, [tensors()[0].raw.clone(), tensors()[1].raw.clone()].concat());
}

#[test]
fn calls_are_messages_behind_their_lengths() {
    let mut secure = target(Protocol::Grpc);
    secure.tls = Some(Tls::default());
    let Wire::Grpc { headers, message } = infer(&secure, &entry(), &tensors(), None).unwrap()
    else {
        panic!("not gRPC")
    };
    assert_eq!(message[..5], [&[0][..], &(message.len() as u32 - 5).to_be_bytes()].concat());
    let request = ModelInferRequest::decode(&message[5..]).unwrap();
    assert_eq!((request.model_name.as_str(), request.model_version.as_str()), ("a b", "3"));
    assert_eq!(request.inputs[0].shape, [1, 2]);
    assert_eq!(request.raw_input_contents[1], tensors()[1].raw);
    assert_eq!(request.parameters["priority"].choice, Some(Choice::Uint64(2)));
    let mut decoder = loona_hpack::Decoder::new();
    let pairs = decoder.decode(&headers).unwrap();
    let value = |name: &str| {
        let found = pairs.iter().find(|(n, _)| n == name.as_bytes());
        found.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).unwrap_or_default()
    };
    assert_eq!(value(":path"), "/inference.GRPCInferenceService/ModelInfer");
    assert_eq!((value(":scheme"), value("x-key")), ("https".to_owned(), "k".to_owned()));
    assert_eq!((value("grpc-timeout"), value("te")), ("20000u".to_owned(), "trailers".to_owned()));
    assert_eq!(grpc_timeout(Span(Duration::from_secs(7200))), "7200000m");
    assert_eq!(grpc_timeout(Span(Duration::ZERO)), "1u");
}

#[test]
fn what_would_break_the_head_is_refused() {
    for (name, value) in [("a b", "x"), ("", "x"), ("a", "x\r\ny: z"), ("a:", "x")] {
        let mut entry = Entry::of("m");
        entry.headers.insert(name.to_owned(), value.to_owned());
        let error = infer(&target(Protocol::Json), &entry, &[], None).unwrap_err();
        assert!(error.ends_with("is no header"), "{error}");
    }
}

/// The protocol's own id, and the parameter that onnxd looks for.
#[test]
fn what_is_asked_again_says_so_in_every_form() {
    let again = Some(Again { id: Some("a 1") });
    for protocol in [Protocol::Json, Protocol::Binary] {
        let wire = infer(&target(protocol), &Entry::of("m"), &tensors(), again).unwrap();
        let (head, body) = parts(&wire);
        let length = head.lines().find_map(|l| l.strip_prefix("inference-header-content-length: "));
        let length = length.map_or(body.len(), |length| length.parse().unwrap());
        let body: Value = serde_json::from_slice(&body[..length]).unwrap();
        assert_eq!((&body["id"], &body["parameters"]["replay"]), (&json!("a 1"), &json!(true)));
    }
    let wire = infer(&target(Protocol::Grpc), &Entry::of("m"), &tensors(), again).unwrap();
    let Wire::Grpc { message, .. } = wire else { panic!("not gRPC") };
    let request = ModelInferRequest::decode(&message[5..]).unwrap();
    assert_eq!(request.id, "a 1");
    assert_eq!(request.parameters[REPLAY].choice, Some(Choice::Bool(true)));
}
