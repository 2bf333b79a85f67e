//! What the fuzzers call: one function a target, any bytes in. Each holds more than "no panic": what was let through is
//! what the rest of the server relies on. `tests/fuzz.rs` calls them too.

use bytes::Bytes;
use onnxd::{
    api::{framing::Framing, path},
    config::Config,
    repository::{
        options::{Defaults, ModelOptions, parse_yaml},
        triton,
    },
    runtime::graph::Graph,
    types::{
        datatype::Datatype,
        error::{Code, Error},
        model::{Dim, Signature, TensorSpec},
        request::InferRequest,
        tensor::{bytes_elements, element_count},
    },
    wire::{
        binary,
        flate::{Coding, Deflate, Inflate},
        grpc, json, tfs,
    },
};
use prost::Message;

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 10] = [
    ("grpc", grpc_request),
    ("json", json_request),
    ("binary", binary_request),
    ("graph", graph),
    ("yaml", yaml),
    ("path", segment),
    ("flate", flate),
    ("head", head),
    ("tfs", tfs_request),
    ("pbtxt", pbtxt),
];

/// What every decoder promises of what it lets through: bytes that fit shape and datatype, and values that are some.
fn sound(request: &InferRequest) {
    for input in &request.inputs {
        let count =
            element_count(&input.dims).expect("dimensions without sign, their product in range");
        match input.datatype {
            Datatype::Bytes => {
                let elements: Vec<_> = bytes_elements(&input.data).collect();
                assert_eq!(elements.len(), count);
                assert!(elements.iter().all(Option::is_some), "framing is whole");
            }
            other => assert_eq!(Some(input.data.len()), other.size().map(|size| size * count)),
        }
        if input.datatype == Datatype::Bool {
            assert!(input.data.iter().all(|b| *b < 2), "0 or 1");
        }
        assert!(!input.name.is_empty());
    }
    assert!(request.outputs.iter().all(|output| !output.name.is_empty()));
}

/// A refusal blames the client, in one line without control characters.
fn refusal(error: &Error) {
    assert!(matches!(error.code, Code::InvalidArgument | Code::Unimplemented), "{error:?}");
    assert!(!error.message.is_empty() && error.message.len() < 2_000, "{}", error.message.len());
    assert!(!error.message.chars().any(char::is_control), "{:?}", error.message);
}

pub fn grpc_request(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    match grpc::decode_request(&message) {
        Ok(request) => {
            sound(&request);
            // What we take, protoc's own reading takes, and understands in the same way.
            let theirs = onnxd::api::proto::ModelInferRequest::decode(data).expect("a message");
            assert_eq!(*request.model, *theirs.model_name);
            assert_eq!(*request.version, *theirs.model_version);
            assert_eq!(*request.id, *theirs.id);
            assert_eq!(request.parameters.len(), theirs.parameters.len());
            assert_eq!(request.outputs.len(), theirs.outputs.len());
            assert_eq!(request.inputs.len(), theirs.inputs.len());
            for (ours, theirs) in request.inputs.iter().zip(&theirs.inputs) {
                assert_eq!(*ours.name, *theirs.name);
                assert_eq!(ours.datatype.name(), theirs.datatype);
                assert_eq!(ours.dims.as_slice(), theirs.shape);
            }
            for (ours, theirs) in request.inputs.iter().zip(&theirs.raw_input_contents) {
                assert_eq!(ours.data[..], theirs[..]);
            }
        }
        Err(error) => refusal(&error),
    }
}

pub fn json_request(data: &[u8]) {
    match json::decode_request(&Bytes::copy_from_slice(data)) {
        Ok(request) => {
            sound(&request);
            assert!(std::str::from_utf8(data).is_ok(), "JSON is UTF-8");
            // Bare NaN and Infinity are the one thing beyond JSON that we take.
            let text = String::from_utf8_lossy(data);
            if !text.contains("NaN") && !text.contains("Infinity") {
                let value: serde_json::Result<serde::de::IgnoredAny> = serde_json::from_slice(data);
                assert!(value.is_ok(), "{value:?}");
            }
        }
        Err(error) => refusal(&error),
    }
}

/// The first byte says of what kind the body is, and for which of two models.
pub fn tfs_request(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let spec = |name: &str, datatype, rank| TensorSpec {
        name: name.into(),
        datatype,
        dims: Some(vec![Dim::Any; rank]),
        optional: kind & 4 != 0,
        labels: None,
    };
    let mut inputs = vec![spec("b", Datatype::Fp32, 2)];
    if kind & 2 != 0 {
        inputs.push(spec("a", Datatype::Bytes, 1));
    }
    let signature = Signature { inputs, ..Signature::default() };
    let body = Bytes::copy_from_slice(body);
    let request = match kind & 1 {
        0 => tfs::decode_predict(&body, &signature).map(|(request, _)| request),
        _ => tfs::decode_examples(&body, &signature),
    };
    match request {
        Ok(request) => {
            sound(&request);
            assert!(request.inputs.len() <= signature.inputs.len());
        }
        Err(error) => refusal(&error),
    }
}

/// The first two bytes are how long the JSON is.
pub fn binary_request(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length));
    match binary::decode_request(&Bytes::copy_from_slice(body), length) {
        // A raw request has no name, shape or datatype before the signature gives them.
        Ok(request) if request.raw_binary => assert_eq!(request.inputs[0].data, body),
        Ok(request) => sound(&request),
        Err(error) => refusal(&error),
    }
}

/// A model file, read without a runtime.
pub fn graph(data: &[u8]) {
    match Graph::parse(data) {
        Ok(graph) => {
            assert!(graph.initializer_bytes <= data.len() as u64);
            assert!(graph.nodes <= data.len());
            let mut outputs = graph.outputs.clone();
            graph.attach_labels(&mut outputs);
            assert_eq!(outputs.len(), graph.outputs.len());
        }
        Err(error) => assert!(error.len() < 2_000, "{}", error.len()),
    }
}

/// model.yaml and the server's configuration.
pub fn yaml(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = ModelOptions::read(&text, "m/model.yaml", &Defaults::default()) {
        assert!(error.starts_with("m/model.yaml"), "{error}");
    }
    if let Ok(config) = parse_yaml::<Config>(&text) {
        let _ = config.repository().check();
    }
}

/// config.pbtxt.
pub fn pbtxt(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match triton::read(&text, "m/config.pbtxt", "m", &Defaults::default()) {
        Ok(options) => assert!(options.declared.is_some()),
        Err(error) => {
            assert!(error.starts_with("m/config.pbtxt, line "), "{error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
    }
}

/// A model's name or version in a path, percent-encoded.
pub fn segment(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match path::decode(text) {
        Ok(decoded) => {
            assert!(decoded.len() <= text.len());
            let encoded: String = decoded.bytes().map(|b| format!("%{b:02X}")).collect();
            assert_eq!(*path::decode(&encoded).expect("it is well formed"), *decoded);
        }
        Err(error) => refusal(&error),
    }
}

/// Compressed bytes: the first says which coding, the second how many come at a time. Then the same bytes there and back.
pub fn flate(data: &[u8]) {
    let [kind, pace, input @ ..] = data else { return };
    let coding = if kind % 2 == 0 { Coding::Gzip } else { Coding::Deflate };
    if let Err(error) = inflated(coding, input, usize::from(*pace) + 1, 1 << 17) {
        refusal(&error);
    }
    let mut deflate = Deflate::new(coding);
    let (mut packed, mut at) = (Vec::new(), 0);
    while !deflate.ended() {
        packed.reserve(1 << 10);
        at += deflate.step(&input[at..], true, &mut packed).expect("it compresses anything");
    }
    let whole = inflated(coding, &packed, usize::from(*pace) + 1, usize::MAX);
    assert_eq!(whole.expect("what was compressed"), input);
}

/// What comes out of `input`, of which `pace` bytes come at a time; no more than about `most`.
fn inflated(coding: Coding, input: &[u8], pace: usize, most: usize) -> Result<Vec<u8>, Error> {
    let mut inflate = Inflate::new(coding);
    let (mut out, mut room) = (Vec::new(), [0; 1 << 10]);
    for mut part in input.chunks(pace) {
        loop {
            let step = inflate.step(part, &mut room)?;
            assert!(step.taken <= part.len() && step.given <= room.len());
            out.extend_from_slice(&room[..step.given]);
            part = &part[step.taken..];
            if out.len() > most {
                return Ok(out);
            }
            // Room that was filled may not have been enough; input that is left is to be taken.
            if part.is_empty() && step.given < room.len() {
                break;
            }
            assert!(step.taken > 0 || step.given > 0, "it goes on");
        }
    }
    inflate.finish()?;
    Ok(out)
}

/// What follows the first line of an HTTP/1.1 request: what is wrong with it hangs on no cut between two reads.
pub fn head(data: &[u8]) {
    let head = [b"POST /v2/models/m/infer HTTP/1.1\r\n", data].concat();
    let whole = Framing::new(1 << 10).look(&head);
    for pace in [1, 7] {
        let mut framing = Framing::new(1 << 10);
        let parts = head.chunks(pace).find_map(|part| framing.look(part));
        assert_eq!(parts, whole, "{pace} bytes at a time");
    }
}
