//! Tests of the binary form over HTTP.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::sample::{any_damage, any_tensor, assert_error, f32s, framed, mutate, response, tensor};
use crate::{
    types::{
        datatype::Datatype,
        error::{Code, Error},
        request::InferRequest,
        tensor::Tensor,
    },
    wire::binary::{decode_request, encode_response},
};

fn decode(json: &str, tail: &[u8]) -> Result<InferRequest, Error> {
    decode_request(&[json.as_bytes(), tail].concat().into(), json.len())
}

#[track_caller]
fn refused(json: &str, tail: &[u8], words: &[&str]) {
    assert_error(decode(json, tail), Code::InvalidArgument, words);
}

const MIXED: &str = concat!(
    r#"{"id":"1","inputs":[{"name":"a","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}},"#,
    r#"{"name":"b","shape":[2],"datatype":"INT8","data":[1,-1]},"#,
    r#"{"name":"c","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6,"other":[]}}],"#,
    r#""parameters":{"binary_data_output":true}}"#
);

fn tail() -> Vec<u8> {
    [f32s(&[1.0, 2.0]), framed(&["hi"])].concat()
}

#[test]
fn reads_binary_and_json_inputs_together() {
    let body = Bytes::from([MIXED.as_bytes(), &tail()].concat());
    let request = decode_request(&body, MIXED.len()).unwrap();
    assert_eq!(request.inputs[0].data, f32s(&[1.0, 2.0]));
    assert_eq!(request.inputs[1].data, [1u8, 255].as_slice());
    assert_eq!(request.inputs[2].data, framed(&["hi"]));
    assert!(request.binary_output && !request.raw_binary);
    assert!(body.as_ptr_range().contains(&request.inputs[0].data.as_ptr()));
}

#[test]
fn sizes_must_add_up() {
    let short = &tail()[..13];
    refused(MIXED, short, &["'c'", "6", "5 bytes left"]);
    refused(MIXED, &[tail(), vec![0]].concat(), &["14 bytes", "15"]);
    refused(MIXED, b"", &["'a'", "8", "0 bytes left"]);
    let wrong = MIXED.replace(":8}", ":7}");
    refused(&wrong, &tail()[..13], &["'a'", "8 bytes", "got 7"]);
    let huge = MIXED.replace(":8}", ":18446744073709551615}");
    refused(&huge, &tail(), &["'a'"]);
    for bad in [":-1}", ":8.0}", ":\"8\"}", ":18446744073709551616}"] {
        refused(&MIXED.replace(":8}", bad), &tail(), &["inputs[0]", "binary_data_size"]);
    }
}

#[test]
fn holds_the_tensors_against_their_datatype() {
    let mut tail = tail();
    tail[8] = 9;
    refused(MIXED, &tail, &["'c'", "element 0"]);
    let bools = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}}]}"#;
    assert!(decode(bools, &[0, 1]).is_ok());
    refused(bools, &[0, 2], &["'a'", "element 1", "BOOL"]);
}

#[test]
fn data_and_binary_data_exclude_each_other() {
    for keys in [
        r#""parameters":{"binary_data_size":4},"data":[1]"#,
        r#""data":[1],"parameters":{"binary_data_size":4}"#,
    ] {
        let json = format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"FP32",{keys}}}]}}"#);
        refused(&json, &[0; 4], &["'a'", "both"]);
        let json = format!(r#"{{"inputs":[{{{keys},"name":"a","shape":[1],"datatype":"FP32"}}]}}"#);
        refused(&json, &[0; 4], &["'a'", "both"]);
    }
}

#[test]
fn the_header_must_lie_in_the_body() {
    let body = Bytes::from_static(b"{}");
    assert_error(decode_request(&body, 3), Code::InvalidArgument, &["3", "2 bytes"]);
    assert_error(decode_request(&body, usize::MAX), Code::InvalidArgument, &["2 bytes"]);
    assert_error(decode_request(&body, 1), Code::InvalidArgument, &["malformed JSON"]);
    // A header that ends inside the JSON does not read on.
    let body = Bytes::from([MIXED.as_bytes(), &tail()].concat());
    assert!(decode_request(&body, MIXED.len() - 1).is_err());
}

#[test]
fn a_header_of_zero_makes_the_body_the_input() {
    let body = Bytes::from_static(b"{raw}");
    let request = decode_request(&body, 0).unwrap();
    assert!(request.raw_binary && request.binary_output);
    assert_eq!(request.inputs.len(), 1);
    assert_eq!(request.inputs[0].data.as_ptr(), body.as_ptr());
    assert!(request.inputs[0].name.is_empty());
    assert!(decode_request(&Bytes::new(), 0).unwrap().inputs[0].data.is_empty());
}

fn fp32(count: usize) -> Tensor {
    tensor(Datatype::Fp32, &[count as i64], f32s(&vec![0.5; count]))
}

#[test]
fn writes_each_output_as_it_is_to_be() {
    let answer = response("", vec![(fp32(1), true), (fp32(2), false), (fp32(3), true)]);
    let encoded = encode_response(&answer).unwrap();
    assert_eq!(encoded.chunks.len(), 1);
    let (json, rest) = encoded.chunks[0].split_at(encoded.json_len.unwrap());
    let expected = concat!(
        r#"{"model_name":"m","model_version":"3","outputs":["#,
        r#"{"name":"out0","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},"#,
        r#"{"name":"out1","datatype":"FP32","shape":[2],"data":[0.5,0.5]},"#,
        r#"{"name":"out2","datatype":"FP32","shape":[3],"parameters":{"binary_data_size":12}}]}"#
    );
    assert_eq!(std::str::from_utf8(json).unwrap(), expected);
    assert_eq!(rest, f32s(&[0.5; 4]));
}

#[test]
fn without_a_binary_output_it_is_plain_json() {
    let encoded = encode_response(&response("", vec![(fp32(2), false)])).unwrap();
    assert_eq!((encoded.json_len, encoded.chunks.len()), (None, 1));
    assert!(encoded.chunks[0].ends_with(b"[0.5,0.5]}]}"));
}

#[test]
fn large_outputs_are_not_copied() {
    let (large, small) = (fp32(5000), fp32(1));
    let answer =
        response("", vec![(small.clone(), true), (large.clone(), true), (small.clone(), true)]);
    let encoded = encode_response(&answer).unwrap();
    assert_eq!(encoded.chunks.len(), 3);
    assert_eq!(encoded.chunks[1].as_ptr(), large.data.as_ptr());
    assert_eq!(encoded.chunks[0].len(), encoded.json_len.unwrap() + 4);
    // One byte between two large ones, and none.
    let byte = tensor(Datatype::Uint8, &[1], vec![7]);
    let outputs = [&large, &byte, &large, &large].map(|t| (t.clone(), true)).to_vec();
    let chunks = encode_response(&response("", outputs)).unwrap().chunks;
    let sizes: Vec<usize> = chunks[1..].iter().map(Bytes::len).collect();
    assert_eq!(sizes, [20_000, 1, 20_000, 20_000]);
    let last = response("", vec![(large.clone(), true)]);
    assert_eq!(encode_response(&last).unwrap().chunks.len(), 2);
}

#[test]
fn bytes_that_are_no_text_travel_as_binary() {
    let bytes = || tensor(Datatype::Bytes, &[1], framed(&[b"\xff"]));
    assert!(encode_response(&response("", vec![(bytes(), true)])).is_ok());
    assert_error(
        encode_response(&response("", vec![(bytes(), false)])),
        Code::InvalidArgument,
        &["out0", "binary"],
    );
}

proptest! {
    /// An answer is, but for a key, a request: reading it back gives the same tensors.
    #[test]
    fn round_trips(tensors in vec(any_tensor(), 1..4), damage in any_damage()) {
        let answer = response("id", tensors.iter().map(|t| (t.clone(), true)).collect());
        let encoded = encode_response(&answer).unwrap();
        let body = encoded.chunks.concat();
        let (json, tail) = body.split_at(encoded.json_len.unwrap());
        let json = std::str::from_utf8(json).unwrap().replace("\"outputs\"", "\"inputs\"");
        let request = decode(&json, tail).unwrap();
        for (input, sent) in request.inputs.iter().zip(&tensors) {
            prop_assert_eq!(input.datatype, sent.datatype);
            prop_assert_eq!(&input.dims, &sent.dims);
            prop_assert_eq!(&input.data, &sent.data);
        }
        let mut body = [json.as_bytes(), tail].concat();
        mutate(&mut body, &damage.0, damage.1);
        if let Err(error) = decode_request(&body.into(), json.len()) {
            prop_assert_eq!(error.code, Code::InvalidArgument);
        }
    }
}
