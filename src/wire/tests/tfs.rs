//! TensorFlow Serving's and KServe's v1 bodies: their documented examples, every tensor there and back, and damage.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::sample::{any_damage, any_tensor, assert_error, f32s, framed, mutate, response, tensor};
use crate::{
    types::{
        datatype::Datatype,
        error::Code,
        model::{Dim, Signature, TensorSpec},
        request::{InferRequest, InferResponse},
        tensor::Tensor,
    },
    wire::{
        tfs::{Form, decode_examples, decode_predict},
        tfs_write::{encode_classes, encode_predict, encode_values},
    },
};

fn spec(name: &str, datatype: Datatype, rank: usize) -> TensorSpec {
    let dims = Some(vec![Dim::Any; rank]);
    TensorSpec { name: name.into(), datatype, dims, optional: false, labels: None }
}

fn takes(inputs: Vec<TensorSpec>) -> Signature {
    Signature { inputs, ..Signature::default() }
}

fn predict(
    signature: &Signature,
    body: &str,
) -> Result<(InferRequest, Form), crate::types::error::Error> {
    decode_predict(&Bytes::copy_from_slice(body.as_bytes()), signature)
}

fn inputs(request: &InferRequest) -> Vec<(String, Vec<i64>, Vec<u8>)> {
    let one = |i: &crate::types::request::InputTensor| {
        (i.name.to_string(), i.dims.to_vec(), i.data.to_vec())
    };
    request.inputs.iter().map(one).collect()
}

#[test]
fn the_documented_predictions() {
    // TensorFlow Serving's half_plus_two.
    let x = takes(vec![spec("x", Datatype::Fp32, 1)]);
    let three = f32s(&[1.0, 2.0, 5.0]);
    for body in [
        r#"{"instances": [1.0, 2.0, 5.0]}"#,
        r#"{"signature_name": "serving_default", "instances": [1, 2, 5]}"#,
        r#"{"instances": [{"x": 1.0}, {"x": 2.0}, {"x": 5.0}]}"#,
    ] {
        let (request, form) = predict(&x, body).expect("it is in the manual");
        assert_eq!(form, Form::Rows);
        assert_eq!(inputs(&request), [("x".into(), vec![3], three.clone())], "{body}");
    }
    for body in [r#"{"inputs": [1.0, 2.0, 5.0]}"#, r#"{"inputs": {"x": [1.0, 2.0, 5.0]}}"#] {
        let (request, form) = predict(&x, body).expect("it is in the manual");
        assert_eq!(form, Form::Columns);
        assert_eq!(inputs(&request), [("x".into(), vec![3], three.clone())], "{body}");
    }
    // Two named inputs, row by row and as columns.
    let two = takes(vec![spec("tag", Datatype::Bytes, 1), spec("signal", Datatype::Fp32, 2)]);
    let rows = r#"{"instances": [
        {"tag": "foo", "signal": [1, 2]}, {"signal": [3.5, -4], "tag": "bar"}], "extra": [{}]}"#;
    let columns = r#"{"inputs": {"signal": [[1, 2], [3.5, -4]], "tag": ["foo", "bar"]}}"#;
    let signal = ("signal".to_owned(), vec![2, 2], f32s(&[1.0, 2.0, 3.5, -4.0]));
    let tag = ("tag".to_owned(), vec![2], framed(&["foo", "bar"]));
    assert_eq!(inputs(&predict(&two, rows).expect("rows").0), [tag.clone(), signal.clone()]);
    assert_eq!(inputs(&predict(&two, columns).expect("columns").0), [signal, tag]);
}

#[test]
fn bytes_are_text_or_base64_and_floats_may_be_no_numbers() {
    let tags = takes(vec![spec("tag", Datatype::Bytes, 1)]);
    let expected = [("tag".to_owned(), vec![2], framed(&[&b"a"[..], b"\xff\0"]))];
    for body in [
        r#"{"instances": ["a", {"b64": "/wA="}]}"#,
        r#"{"instances": [{"b64": "YQ=="}, { "b64" : "/wA=" }]}"#,
        r#"{"inputs": {"tag": ["a", {"b64": "/wA="}]}}"#,
        r#"{"instances": [{"tag": "a"}, {"tag": {"b64": "/wA="}}]}"#,
    ] {
        assert_eq!(inputs(&predict(&tags, body).expect("bytes").0), expected, "{body}");
    }
    let body = r#"{"inputs": {"b64": "YQ=="}}"#;
    let scalar = [("tag".to_owned(), vec![], framed(&["a"]))];
    assert_eq!(inputs(&predict(&tags, body).expect("one value").0), scalar);
    assert_error(
        predict(&tags, r#"{"instances": [{"b64": "%%"}]}"#),
        Code::InvalidArgument,
        &["'tag'"],
    );

    let x = takes(vec![spec("x", Datatype::Fp32, 1)]);
    let (request, _) =
        predict(&x, r#"{"instances": [NaN, Infinity, -Infinity, "NaN"]}"#).expect("tokens");
    let read = f32s(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    assert_eq!(request.inputs[0].data, read);
}

#[test]
fn shapes_come_from_the_nesting() {
    let x = takes(vec![spec("x", Datatype::Int64, 3)]);
    let dims = |body: &str| predict(&x, body).map(|(r, _)| r.inputs[0].dims.to_vec());
    assert_eq!(dims(r#"{"inputs": [[[1, 2, 3], [4, 5, 6]]]}"#).expect("a cube"), [1, 2, 3]);
    assert_eq!(dims(r#"{"inputs": [[], []]}"#).expect("empty"), [2, 0]);
    assert!(dims(r#"{"inputs": 7}"#).expect("a scalar").is_empty());
    for ragged in [
        r#"{"inputs": [[1, 2], [3]]}"#,
        r#"{"inputs": [[1], 2]}"#,
        r#"{"inputs": [1, [2]]}"#,
        r#"{"inputs": [[], [1]]}"#,
        r#"{"inputs": [[1], [[2]]]}"#,
        r#"{"instances": [{"x": [1]}, {"x": [1, 2]}]}"#,
    ] {
        assert_error(dims(ragged), Code::InvalidArgument, &["'x'"]);
    }
    for broken in
        [r#"{"inputs": [1, ]}"#, r#"{"inputs": [1"#, r#"{"inputs": [1]]}"#, r#"{"inputs": }"#]
    {
        assert_error(dims(broken), Code::InvalidArgument, &[]);
    }
    let deep = format!(r#"{{"inputs": {}1{}}}"#, "[".repeat(65), "]".repeat(65));
    assert_error(dims(&deep), Code::InvalidArgument, &["nested"]);
}

#[test]
fn refusals_say_what_is_wrong() {
    let two = takes(vec![spec("a", Datatype::Fp32, 1), spec("b", Datatype::Fp32, 1)]);
    for (body, words) in [
        ("", &["empty"][..]),
        ("[]", &["object"]),
        ("{}", &["no 'instances' or 'inputs'"]),
        (r#"{"instances": [1], "inputs": [1]}"#, &["both"]),
        (r#"{"instances": []}"#, &["'instances' is empty"]),
        (r#"{"instances": 3}"#, &["'instances'", "array"]),
        (r#"{"instances": [1]}"#, &["'a', 'b'", "without names"]),
        (r#"{"inputs": [1]}"#, &["'a', 'b'", "without names"]),
        (r#"{"instances": [{"a": 1}]}"#, &["instances[0] has no 'b'"]),
        (r#"{"instances": [{"a": 1, "b": 1}, {"a": 1}]}"#, &["instances[1] has no 'b'"]),
        (r#"{"instances": [{"a": 1, "b": 1}, 2]}"#, &["instances[1]", "an object"]),
        (r#"{"instances": [{"a": 1, "c": 1}]}"#, &["no input 'c'"]),
        (r#"{"instances": [{"a": 1, "a": 1}]}"#, &["'a' appears twice"]),
        (r#"{"inputs": {"a": [1], "a": [1]}}"#, &["'a' appears twice"]),
        (r#"{"inputs": {"a": ["x"]}}"#, &["'a'", "FP32"]),
        (r#"{"signature_name": "train", "inputs": [1]}"#, &["'train'", "serving_default"]),
        (r#"{"inputs": [1]} x"#, &["the end of the body"]),
    ] {
        assert_error(predict(&two, body), Code::InvalidArgument, words);
    }
}

#[test]
fn examples_share_a_context() {
    let two = takes(vec![spec("a", Datatype::Fp32, 2), spec("b", Datatype::Int64, 1)]);
    let decode = |body: &str| decode_examples(&Bytes::copy_from_slice(body.as_bytes()), &two);
    let ints: Vec<u8> = [7i64, 9].iter().flat_map(|v| v.to_le_bytes()).collect();
    let expected =
        [("a".to_owned(), vec![2, 1], f32s(&[1.5, 2.5])), ("b".to_owned(), vec![2], ints)];
    // A single value and a list of one are the same feature, whichever the model takes.
    for body in [
        r#"{"examples": [{"a": 1.5}, {"a": [2.5], "b": 9}], "context": {"b": [7]}}"#,
        r#"{"context": {"b": 7}, "examples": [{"a": [1.5]}, {"a": 2.5, "b": [9]}]}"#,
    ] {
        assert_eq!(inputs(&decode(body).expect("examples")), expected, "{body}");
    }
    assert_error(decode(r#"{"examples": []}"#), Code::InvalidArgument, &["empty"]);
    assert_error(decode(r#"{"context": {}}"#), Code::InvalidArgument, &["no 'examples'"]);
    assert_error(decode(r#"{"examples": [{"a": 1}]}"#), Code::InvalidArgument, &["no 'b'"]);
    let twice = r#"{"context": {"b": 1, "b": 2}, "examples": [{"a": 1}]}"#;
    assert_error(decode(twice), Code::InvalidArgument, &["twice"]);
}

fn written(response: &InferResponse, form: Form) -> String {
    let mut out = Vec::new();
    encode_predict(response, form, &mut out).expect("it can be written");
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn named(mut response: InferResponse, names: &[&str]) -> InferResponse {
    let mut signature = Signature::clone(&response.signature);
    for (spec, name) in signature.outputs.iter_mut().zip(names) {
        spec.name = (*name).into();
    }
    response.signature = Arc::new(signature);
    response
}

#[test]
fn answers_are_nested_as_their_shapes_are() {
    let floats = tensor(Datatype::Fp32, &[2, 2], f32s(&[0.5, f32::NAN, f32::NEG_INFINITY, 2.0]));
    let texts = tensor(Datatype::Bytes, &[2], framed(&[&b"a"[..], b"\xff"]));
    let one = response("", vec![(floats.clone(), false)]);
    let nested = "[[0.5,NaN],[-Infinity,2.0]]";
    assert_eq!(written(&one, Form::Rows), format!(r#"{{"predictions":{nested}}}"#));
    assert_eq!(written(&one, Form::Columns), format!(r#"{{"outputs":{nested}}}"#));
    let two = named(response("", vec![(floats, false), (texts, false)]), &["p", "t"]);
    let rows =
        r#"{"predictions":[{"p":[0.5,NaN],"t":"a"},{"p":[-Infinity,2.0],"t":{"b64":"/w=="}}]}"#;
    assert_eq!(written(&two, Form::Rows), rows);
    let columns = format!(r#"{{"outputs":{{"p":{nested},"t":["a",{{"b64":"/w=="}}]}}}}"#);
    assert_eq!(written(&two, Form::Columns), columns);
    let image = tensor(Datatype::Bytes, &[1], framed(&["a"]));
    let image = named(response("", vec![(image, false)]), &["image_bytes"]);
    assert_eq!(written(&image, Form::Rows), r#"{"predictions":[{"b64":"YQ=="}]}"#);
    let scalar = tensor(Datatype::Int64, &[], 5i64.to_le_bytes().to_vec());
    assert_eq!(
        written(&response("", vec![(scalar.clone(), false)]), Form::Columns),
        r#"{"outputs":5}"#
    );
    let empty = tensor(Datatype::Int64, &[2, 0], Vec::new());
    assert_eq!(
        written(&response("", vec![(empty.clone(), false)]), Form::Rows),
        r#"{"predictions":[[],[]]}"#
    );

    let refused = |outputs, words: &[&str]| {
        let result = encode_predict(&response("", outputs), Form::Rows, &mut Vec::new());
        assert_error(result, Code::InvalidArgument, words);
    };
    refused(vec![(empty, false), (scalar, false)], &["'out1'", "'inputs'"]);
    let none = tensor(Datatype::Int64, &[1 << 40, 0], Vec::new());
    refused(vec![(none, false)], &["empty arrays"]);
}

#[test]
fn classes_and_values_by_example() {
    let scores = tensor(Datatype::Fp32, &[2, 3], f32s(&[0.5, 0.25, 0.25, 0.0, 1.0, 0.0]));
    let mut answer = response("", vec![(scores, false)]);
    let classes = |answer: &InferResponse| {
        let mut out = Vec::new();
        encode_classes(answer, &answer.outputs[0], &mut out)
            .map(|()| String::from_utf8(out).expect("UTF-8"))
    };
    let plain = r#"{"result":[[["0",0.5],["1",0.25],["2",0.25]],[["0",0.0],["1",1.0],["2",0.0]]]}"#;
    assert_eq!(classes(&answer).expect("scores"), plain);
    let mut signature = Signature::clone(&answer.signature);
    signature.outputs[0].labels =
        Some(vec!["cat".to_owned(), "dog".to_owned(), "\"".to_owned()].into());
    answer.signature = Arc::new(signature);
    assert!(
        classes(&answer)
            .expect("scores")
            .starts_with(r#"{"result":[[["cat",0.5],["dog",0.25],["\"",0.25]]"#)
    );

    let values = |dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        let answer = response("", vec![(tensor(Datatype::Fp64, dims, vec![0; 8 * count]), false)]);
        let mut out = Vec::new();
        encode_values(&answer, &answer.outputs[0], &mut out)
            .map(|()| String::from_utf8(out).expect("UTF-8"))
    };
    assert_eq!(values(&[2]).expect("values"), r#"{"result":[0.0,0.0]}"#);
    assert_eq!(values(&[2, 1]).expect("values"), r#"{"result":[0.0,0.0]}"#);
    assert_error(values(&[2, 2]), Code::InvalidArgument, &["'out0'", ":predict"]);
    let flat = response("", vec![(tensor(Datatype::Fp32, &[1], f32s(&[1.0])), false)]);
    assert_error(classes(&flat), Code::InvalidArgument, &["'out0'"]);
}

/// Whether both are the same, but for which NaN.
fn same(a: &Tensor, b: &[u8]) -> bool {
    let nan = |bytes: &[u8]| match a.datatype {
        Datatype::Fp32 => f32::from_le_bytes(bytes.try_into().expect("4 bytes")).is_nan(),
        Datatype::Fp64 => f64::from_le_bytes(bytes.try_into().expect("8 bytes")).is_nan(),
        Datatype::Fp16 => half::f16::from_le_bytes(bytes.try_into().expect("2 bytes")).is_nan(),
        Datatype::Bf16 => half::bf16::from_le_bytes(bytes.try_into().expect("2 bytes")).is_nan(),
        _ => false,
    };
    let size = a.datatype.size().unwrap_or(1);
    a.data.len() == b.len()
        && a.data.chunks(size).zip(b.chunks(size)).all(|(a, b)| a == b || nan(a) && nan(b))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(tensors in prop::collection::vec(any_tensor(), 1..3)) {
        // An answer in columns is a request in columns, once its key is.
        let outputs = tensors.iter().cloned().map(|t| (t, false)).collect();
        let answer = response("", outputs);
        let text = written(&answer, Form::Columns).replacen("outputs", "inputs", 1);
        let specs = tensors.iter().enumerate().map(|(n, t)| {
            spec(&format!("out{n}"), t.datatype, t.dims.len())
        });
        let (request, form) = predict(&takes(specs.collect()), &text).expect("our own");
        prop_assert_eq!(form, Form::Columns);
        for (read, tensor) in request.inputs.iter().zip(&tensors) {
            // Behind a dimension of nothing the nesting has no more to say.
            let told = tensor.dims.iter().position(|dim| *dim == 0).map_or(tensor.dims.len(), |n| n + 1);
            prop_assert_eq!(&read.dims[..], &tensor.dims[..told]);
            prop_assert!(same(tensor, &read.data), "{} {:?}", text, read.data);
        }
    }

    #[test]
    fn damage_is_refused_or_read((changes, cut) in any_damage(), which in 0usize..4) {
        let bodies = [
            r#"{"instances": [{"a": "x", "b": [1, 2]}, {"a": {"b64": "YQ=="}, "b": [3, NaN]}]}"#,
            r#"{"inputs": {"a": ["x", "y"], "b": [[1.5, 2], [3, -4e2]]}}"#,
            r#"{"examples": [{"a": "x"}], "context": {"b": [1, 2]}, "signature_name": ""}"#,
            r#"{"instances": [[1, 2], [3, 4]]}"#,
        ];
        let mut bytes = bodies[which].as_bytes().to_vec();
        mutate(&mut bytes, &changes, cut);
        let body = Bytes::from(bytes);
        let two = takes(vec![spec("a", Datatype::Bytes, 1), spec("b", Datatype::Fp32, 2)]);
        let one = takes(vec![spec("b", Datatype::Fp32, 2)]);
        for signature in [&two, &one] {
            let read = decode_predict(&body, signature).map(|(request, _)| request);
            for request in [read, decode_examples(&body, signature)].into_iter().flatten() {
                for input in &request.inputs {
                    prop_assert!(crate::wire::check::data(
                        &input.name, input.datatype, &input.dims, &input.data).is_ok());
                }
            }
        }
    }
}
