//! Everything wrong that a gRPC call can be: each is refused with its code and a message that says what was expected and what
//! came, and the server answers the next one.

use bytes::Bytes;
use onnxd::api::{
    path,
    proto::{
        InferParameter, InferTensorContents, ModelInferRequest, infer_parameter::ParameterChoice,
        model_infer_request::InferRequestedOutputTensor,
    },
};
use prost::Message;

use super::bad_input::Complaints;
use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    server::Server,
};

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;

/// A server, a connection to it, and what is wrong so far.
struct Case {
    _home: Home,
    server: Server,
    calls: Grpc,
    complaints: Complaints,
}

impl Case {
    fn new() -> Case {
        let home = Home::of(&["versioned"]);
        let server = Server::start(home.path(), &home.repository());
        let calls = Grpc::connect(&server.grpc);
        Case { _home: home, server, calls, complaints: Complaints::default() }
    }

    /// Sends a message that is to be refused, and then one that is not.
    fn refused(&mut self, message: &[u8], codes: &[i32], parts: &[&str]) {
        let called = self.calls.call("ModelInfer", "", message);
        // `grpc-message` is percent-encoded.
        let text = path::decode(&called.message).expect("percent-encoded UTF-8").to_string();
        let right = codes.contains(&called.code);
        self.complaints.that(right, || format!("{parts:?}: {} {text}", called.code));
        self.complaints.refused(&text, parts, &message.escape_ascii().to_string());
        assert_eq!(self.calls.infer("", &good()).floats(), [4.0; 4], "after {parts:?}");
    }

    /// A good request with a change.
    fn changed(&mut self, parts: &[&str], change: impl FnOnce(&mut ModelInferRequest)) {
        let mut request = good();
        change(&mut request);
        self.refused(&request.encode_to_vec(), &[INVALID_ARGUMENT], parts);
    }

    /// A good request with typed contents in place of raw ones.
    fn typed(&mut self, datatype: &str, contents: InferTensorContents, parts: &[&str]) {
        self.changed(parts, |r| {
            r.raw_input_contents.clear();
            r.inputs[0].datatype = datatype.to_owned();
            r.inputs[0].contents = Some(contents);
        });
    }

    fn end(self) {
        self.complaints.settle();
        self.server.stop();
    }
}

fn good() -> ModelInferRequest {
    grpc::four("versioned", 1.0)
}

#[test]
fn inputs_that_do_not_fit() {
    let mut case = Case::new();
    case.changed(&["raw_input_contents", "1", "0"], |r| r.inputs.clear());
    case.changed(&["'X'", "missing", "FP32"], |r| {
        r.inputs.clear();
        r.raw_input_contents.clear();
    });
    case.changed(&["'X'", "twice"], |r| {
        r.inputs.extend_from_within(..);
        r.raw_input_contents.extend_from_within(..);
    });
    case.changed(&["inputs[0]", "name"], |r| r.inputs[0].name.clear());
    case.changed(&["'Z'", "'X'"], |r| r.inputs[0].name = "Z".to_owned());
    case.changed(&["'X'", "datatype"], |r| r.inputs[0].datatype.clear());
    for wrong in ["FLOAT", "fp32", "INT32"] {
        case.changed(&["'X'", wrong, "FP32"], |r| r.inputs[0].datatype = wrong.to_owned());
    }
    let shapes: [(&[i64], &[&str]); 7] = [
        (&[-1, 4], &["negative", "-1"]),
        (&[i64::MIN], &["negative"]),
        (&[i64::MAX, i64::MAX], &["memory"]),
        (&[1 << 32, 1 << 32, 0], &["memory"]),
        (&[1; 65], &["64"]),
        (&[1, 5], &["20 bytes", "16"]),
        (&[4], &["[4]"]),
    ];
    for (shape, parts) in shapes {
        case.changed(&[&["'X'"], parts].concat(), |r| r.inputs[0].shape = shape.to_vec());
    }
    case.changed(&["'X'", "16 bytes", "15"], |r| {
        r.raw_input_contents[0] = Bytes::from_static(&[0; 15]);
    });
    case.changed(&["raw_input_contents", "2", "1"], |r| {
        r.raw_input_contents.push(Bytes::new());
    });
    case.changed(&["'X'", "no data"], |r| r.raw_input_contents.clear());
    case.changed(&["'X'", "one of the two"], |r| {
        let contents = InferTensorContents { fp32_contents: vec![1.0; 4], ..Default::default() };
        r.inputs[0].contents = Some(contents);
    });
    let floats = |n| InferTensorContents { fp32_contents: vec![1.0; n], ..Default::default() };
    let ints =
        |all: [i32; 4]| InferTensorContents { int_contents: all.into(), ..Default::default() };
    case.typed("FP32", floats(3), &["'X'", "4", "3"]);
    case.typed("FP32", ints([1; 4]), &["'X'", "fp32_contents"]);
    case.typed("FP16", floats(4), &["'X'", "FP16", "raw_input_contents"]);
    case.typed("INT8", ints([0, 1, 2, 128]), &["'X'", "128", "INT8"]);
    case.typed("INT16", ints([0, 1, 2, -32_769]), &["'X'", "-32769", "INT16"]);
    let wide = InferTensorContents { uint_contents: vec![0, 1, 2, 65_536], ..Default::default() };
    case.typed("UINT16", wide, &["'X'", "65536", "UINT16"]);
    case.end();
}

#[test]
fn outputs_parameters_and_models_that_are_none() {
    let mut case = Case::new();
    let output =
        |name: &str| InferRequestedOutputTensor { name: name.to_owned(), ..Default::default() };
    case.changed(&["'nope'", "'Y'"], |r| r.outputs.push(output("nope")));
    case.changed(&["'Y'", "twice"], |r| r.outputs.extend([output("Y"), output("Y")]));
    case.changed(&["outputs[0]", "name"], |r| r.outputs.push(output("")));
    for value in [ParameterChoice::Int64Param(-1), ParameterChoice::StringParam("soon".to_owned())]
    {
        case.changed(&["timeout"], |r| {
            let value = InferParameter { parameter_choice: Some(value) };
            r.parameters.insert("timeout".to_owned(), value);
        });
    }
    let long = "k".repeat(10_000);
    case.changed(&["kkk", "256"], |r| {
        let value = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
        r.parameters.insert(long.clone(), value);
    });
    for (model, version) in [
        ("nonesuch", ""),
        ("versioned", "9"),
        ("versioned", "x"),
        ("versioned", "99999999999999999999"),
        ("versioned", "../1"),
        ("../versioned", ""),
        ("/etc/passwd", ""),
        ("versioned\0", ""),
        ("a\r\nb", ""),
        ("", ""),
        (&long, ""),
    ] {
        let request = ModelInferRequest {
            model_name: model.to_owned(),
            model_version: version.to_owned(),
            ..good()
        };
        case.refused(&request.encode_to_vec(), &[NOT_FOUND, INVALID_ARGUMENT], &[]);
    }
    case.end();
}

/// Bytes that no client library writes.
#[test]
fn messages_that_are_no_protobuf() {
    let mut case = Case::new();
    let whole = good().encode_to_vec();
    let after = |bytes: &[u8]| [&whole[..], bytes].concat();
    let input = |inner: &[u8]| after(&[&[0x2a, inner.len() as u8], inner].concat());
    let messages: [(Vec<u8>, &[&str]); 13] = [
        (whole[..whole.len() - 1].to_vec(), &["malformed"]),
        (after(b"\x0b\x0c"), &["malformed", "groups"]),
        (after(b"\x0f"), &["malformed", "wire type"]),
        (after(b"\x08\x01"), &["malformed", "field 1"]),
        (after(b"\x3d\0\0\0\0"), &["malformed", "field 7"]),
        (after(b"\x00\x01"), &["malformed", "field number"]),
        (after(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), &["malformed"]),
        (after(b"\x3a\xff\xff\xff\xff\x0f"), &["malformed"]),
        (after(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), &["malformed"]),
        (b"\x0a\x02\xff\xfe".to_vec(), &["model_name", "UTF-8"]),
        (input(b"\x1a\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), &["malformed"]),
        (input(b"\x2a\x7f"), &["malformed"]),
        (vec![0x2a; 1000], &["malformed"]),
    ];
    for (message, parts) in messages {
        case.refused(&message, &[INVALID_ARGUMENT], parts);
    }
    // What is unknown is skipped, and of what stands twice the last counts, as the format asks.
    let unknown = after(b"\xf8\x01\x07\xfa\x01\x03abc\xfd\x01\0\0\0\0\xf9\x01\0\0\0\0\0\0\0\0");
    assert_eq!(case.calls.call("ModelInfer", "", &unknown).floats(), [4.0; 4]);
    let twice = [b"\x0a\x08nonesuch", &whole[..]].concat();
    assert_eq!(case.calls.call("ModelInfer", "", &twice).floats(), [4.0; 4]);
    case.end();
}
