//! Tests of the gRPC codec against prost.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::{
    proto,
    sample::{any_damage, any_tensor, assert_error, f32s, framed, mutate, response, tensor},
};
use crate::{
    types::{
        datatype::Datatype,
        error::{Code, Error},
        request::{InferRequest, Parameter, Region},
        tensor::Tensor,
    },
    wire::grpc::{decode_request, encode_response},
};

/// A request with these inputs, raw, called `in0`, `in1`, ….
fn raw_request(tensors: &[Tensor]) -> proto::ModelInferRequest {
    proto::ModelInferRequest {
        model_name: "mlp".into(),
        model_version: "7".into(),
        id: "r-1".into(),
        inputs: tensors
            .iter()
            .enumerate()
            .map(|(n, t)| proto::InputTensor {
                name: format!("in{n}"),
                datatype: t.datatype.name().into(),
                shape: t.dims.to_vec(),
                ..Default::default()
            })
            .collect(),
        raw_input_contents: tensors.iter().map(|t| t.data.to_vec()).collect(),
        ..Default::default()
    }
}

fn fp32(values: &[f32]) -> Tensor {
    tensor(Datatype::Fp32, &[1, values.len() as i64], f32s(values))
}

fn decode(request: &proto::ModelInferRequest) -> Result<InferRequest, Error> {
    decode_request(&Bytes::from(request.encode_to_vec()))
}

/// Decodes one simple request after a change to it.
fn changed(change: impl FnOnce(&mut proto::ModelInferRequest)) -> Result<InferRequest, Error> {
    let mut request = raw_request(&[fp32(&[1.0, 2.0]), fp32(&[3.0, 4.0])]);
    change(&mut request);
    decode(&request)
}

#[track_caller]
fn refused(change: impl FnOnce(&mut proto::ModelInferRequest), words: &[&str]) {
    assert_error(changed(change), Code::InvalidArgument, words);
}

#[test]
fn reads_every_field() {
    let request = changed(|r| {
        r.parameters.insert("timeout".into(), proto::Choice::Int64(-5).into());
        r.parameters.insert("priority".into(), proto::Choice::Uint64(u64::MAX).into());
        r.parameters.insert("on".into(), proto::Choice::Bool(true).into());
        r.parameters.insert("x".into(), proto::Choice::Double(-0.5).into());
        r.parameters.insert("s".into(), proto::Choice::String("ü".into()).into());
        let mut output = proto::RequestedOutput { name: "y".into(), ..Default::default() };
        output.parameters.insert("classification".into(), proto::Choice::Int64(3).into());
        output.parameters.insert("other".into(), proto::Choice::Bool(true).into());
        r.outputs.push(output);
        r.outputs.push(proto::RequestedOutput { name: "z".into(), ..Default::default() });
    })
    .unwrap();
    assert_eq!((&*request.model, &*request.version, &*request.id), ("mlp", "7", "r-1"));
    let mut parameters = request.parameters.clone();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("on", Parameter::Bool(true)),
        ("priority", Parameter::Uint64(u64::MAX)),
        ("s", Parameter::String("ü".into())),
        ("timeout", Parameter::Int64(-5)),
        ("x", Parameter::Double(-0.5)),
    ];
    assert_eq!(parameters, expected.map(|(k, v)| (k.into(), v)));
    assert_eq!(&*request.inputs[1].name, "in1");
    assert_eq!(request.inputs[1].dims.as_slice(), [1, 2]);
    assert_eq!(request.inputs[1].data, f32s(&[3.0, 4.0]));
    assert_eq!((&*request.outputs[0].name, request.outputs[0].classification), ("y", 3));
    assert_eq!((&*request.outputs[1].name, request.outputs[1].classification), ("z", 0));
    assert!(request.binary_output && !request.raw_binary);
}

#[test]
fn copies_no_raw_contents() {
    let message = Bytes::from(raw_request(&[fp32(&[1.0, 2.0])]).encode_to_vec());
    let request = decode_request(&message).unwrap();
    let inside = message.as_ptr_range();
    assert!(inside.contains(&request.inputs[0].data.as_ptr()));
    assert!(inside.contains(&request.inputs[0].name.as_ptr()));
    assert!(inside.contains(&request.model.as_ptr()));
}

#[test]
fn an_empty_message_is_an_empty_request() {
    let request = decode_request(&Bytes::new()).unwrap();
    assert!(request.model.is_empty() && request.inputs.is_empty());
}

#[test]
fn refuses_inputs_that_do_not_fit() {
    refused(|r| r.inputs[0].datatype = "NOPE".into(), &["in0", "NOPE", "FP32"]);
    refused(|r| r.inputs[0].datatype = "fp32".into(), &["in0", "fp32"]);
    refused(|r| r.inputs[0].datatype.clear(), &["in0", "datatype"]);
    refused(|r| r.inputs[1].name.clear(), &["inputs[1]", "name"]);
    refused(|r| r.inputs[0].shape = vec![1, 3], &["in0", "[1, 3]", "12 bytes", "got 8"]);
    refused(|r| r.inputs[0].shape = vec![-1, 2], &["in0", "[-1, 2]", "negative"]);
    refused(|r| r.inputs[0].shape = vec![1 << 62, 16], &["in0", "more elements"]);
    refused(|r| r.inputs[0].shape = vec![1 << 32, 1 << 32], &["in0", "more elements"]);
    refused(|r| r.inputs[0].shape = vec![i64::MAX], &["in0", "more elements"]);
    refused(|r| r.inputs[0].shape = vec![], &["in0", "4 bytes", "got 8"]);
    refused(|r| r.inputs[0].shape = vec![1; 5000], &["in0", "64"]);
    refused(|r| drop(r.raw_input_contents.pop()), &["raw_input_contents", "1", "2"]);
    refused(|r| r.raw_input_contents.push(vec![1]), &["raw_input_contents", "3", "2"]);
    refused(|r| r.raw_input_contents[0].truncate(7), &["in0", "8 bytes", "got 7"]);
    refused(|r| r.raw_input_contents[0].push(0), &["in0", "8 bytes", "got 9"]);
    refused(|r| r.raw_input_contents.clear(), &["in0", "no data"]);
    refused(
        |r| {
            let fp32s = vec![1.0, 2.0];
            r.inputs[1].contents = Some(proto::Contents { fp32s, ..Default::default() });
        },
        &["in1", "typed contents", "raw_input_contents"],
    );
    refused(
        |r| {
            r.inputs[0].datatype = "BOOL".into();
            r.inputs[0].shape = vec![8];
            r.raw_input_contents[0] = vec![0, 1, 1, 2, 0, 0, 0, 0];
        },
        &["in0", "element 3", "2", "BOOL"],
    );
}

#[test]
fn empty_contents_beside_raw_ones_are_no_contents() {
    let request = changed(|r| r.inputs[0].contents = Some(proto::Contents::default())).unwrap();
    assert_eq!(request.inputs[0].data, f32s(&[1.0, 2.0]));
}

#[test]
fn holds_bytes_framing_against_the_shape() {
    let with = |raw: &[u8]| {
        decode(&raw_request(&[tensor(Datatype::Bytes, &[2], Bytes::copy_from_slice(raw))]))
    };
    assert!(with(&framed(&[b"ab".as_slice(), b""])).is_ok());
    let bad = [
        (b"".to_vec(), "got 0"),
        (b"\x01\0".to_vec(), "element 0"),
        (framed(&[b"a", b"b"])[..9].to_vec(), "element 1"),
        (b"\xff\xff\xff\xff\0\0\0\0".to_vec(), "element 0"),
        (framed(&["a"]), "got 1"),
        (framed(&["a", "b", "c"]), "got 3"),
    ];
    for (raw, word) in bad {
        assert_error(with(&raw), Code::InvalidArgument, &["in0", word]);
    }
}

#[test]
fn reads_places_in_shared_memory() {
    use proto::Choice::{Int64, String as Name};
    let place = |parameters: &mut std::collections::HashMap<String, proto::InferParameter>| {
        parameters.insert("shared_memory_region".into(), Name("r".into()).into());
        parameters.insert("shared_memory_byte_size".into(), Int64(8).into());
        parameters.insert("shared_memory_offset".into(), Int64(4).into());
    };
    let region = Region { name: "r".into(), offset: 4, byte_size: 8 };
    // Only what is not elsewhere has raw contents.
    let request = changed(|r| {
        place(&mut r.inputs[0].parameters);
        r.raw_input_contents.remove(0);
        let mut output = proto::RequestedOutput { name: "y".into(), ..Default::default() };
        place(&mut output.parameters);
        r.outputs.push(output);
    })
    .expect("one lies elsewhere");
    assert_eq!(request.inputs[1].data, f32s(&[3.0, 4.0]));
    let regions = request.regions.expect("regions");
    assert_eq!(regions.inputs, [(0, region.clone())]);
    assert_eq!(regions.outputs, [("y".into(), region)]);
    refused(|r| place(&mut r.inputs[0].parameters), &["raw_input_contents has 2", "the 1 inputs"]);
    refused(
        |r| {
            r.raw_input_contents.remove(0);
            let name = Name("r".into()).into();
            r.inputs[0].parameters.insert("shared_memory_region".into(), name);
        },
        &["inputs[0]", "no 'shared_memory_byte_size'"],
    );
}

#[test]
fn says_where_outputs_went() {
    let mut answer = response("", vec![(tensor(Datatype::Fp32, &[2], Vec::new()), true)]);
    let region = Region { name: "r".into(), offset: 4, byte_size: 300 };
    answer.regions = Some(Box::new(vec![(0, region)]));
    let chunks = encode_response(&answer, &mut BytesMut::new()).expect("it fits");
    let message: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
    let read = proto::ModelInferResponse::decode(&message[5..]).expect("a message");
    let parameter = |key: &str| read.outputs[0].parameters[key].choice.clone();
    assert_eq!(parameter("shared_memory_region"), Some(proto::Choice::String("r".into())));
    assert_eq!(parameter("shared_memory_byte_size"), Some(proto::Choice::Int64(300)));
    assert_eq!(parameter("shared_memory_offset"), Some(proto::Choice::Int64(4)));
    assert_eq!(read.outputs[0].shape, [2]);
    // As many as there are outputs: clients find an output's bytes by its place.
    assert_eq!(read.raw_output_contents, [Vec::<u8>::new()]);
}

#[test]
fn reserved_parameters_have_their_types() {
    use proto::Choice::{Bool, Double, Int64, String, Uint64};
    let final_response = "triton_enable_empty_final_response";
    for (name, choice) in [
        ("sequence_id", Int64(-1)),
        ("sequence_id", String("a".into())),
        ("sequence_start", Bool(true)),
        ("priority", Uint64(u64::MAX)),
        ("priority", Int64(0)),
        (final_response, Bool(true)),
        ("mine", Double(1.5)),
    ] {
        let taken = changed(|r| drop(r.parameters.insert(name.into(), choice.into())));
        assert_eq!(taken.expect(name).parameters.len(), 1);
    }
    for (name, choice) in [
        ("sequence_id", Bool(true)),
        ("sequence_start", Int64(1)),
        ("sequence_end", String("true".into())),
        ("priority", Int64(-1)),
        ("priority", Double(1.0)),
        (final_response, Int64(1)),
        ("triton_final_response", Bool(true)),
        ("triton_", Bool(true)),
    ] {
        refused(|r| drop(r.parameters.insert(name.into(), choice.into())), &[name]);
    }
}

#[test]
fn refuses_parameters_that_are_none() {
    refused(|r| drop(r.parameters.insert("p".into(), proto::InferParameter::default())), &["'p'"]);
    refused(
        |r| {
            for n in 0..257 {
                r.parameters.insert(n.to_string(), proto::Choice::Bool(true).into());
            }
        },
        &["256 parameters"],
    );
    refused(
        |r| drop(r.parameters.insert("k".repeat(257), proto::Choice::Bool(true).into())),
        &["kkk...", "257 bytes", "256"],
    );
    let negative = changed(|r| {
        let mut output = proto::RequestedOutput { name: "y".into(), ..Default::default() };
        output.parameters.insert("classification".into(), proto::Choice::Int64(-1).into());
        r.outputs.push(output);
    });
    assert_error(negative, Code::InvalidArgument, &["outputs[0]", "classification", "-1"]);
}

#[test]
fn refuses_what_is_no_protobuf() {
    let all: Vec<u8> = (0..=255).collect();
    let cases: [(&[u8], &str); 12] = [
        (&[0xff; 64], "varint"),
        (b"\x0a\xff\xff\xff\xff\x0f", "past the end"),
        (b"\x08", "field 1 of ModelInferRequest"),
        (b"\x78", "cut short"),
        (&all, "field number"),
        (b"\x2a\x80\x80\x80\x80\x10", "past the end"),
        (b"\x08\x01", "field 1 of ModelInferRequest"),
        (b"\x0b\x0c", "groups"),
        (b"\x0f", "wire type"),
        (b"\x0a\x01\xff", "UTF-8"),
        (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f", "64 bits"),
        (b"\x7d\x01\x02", "cut short"),
    ];
    for (message, word) in cases {
        assert_error(
            decode_request(&Bytes::copy_from_slice(message)),
            Code::InvalidArgument,
            &["malformed protobuf", word],
        );
    }
}

#[test]
fn skips_unknown_fields_and_takes_the_last_of_duplicates() {
    let mut message = raw_request(&[fp32(&[1.0])]).encode_to_vec();
    message.extend_from_slice(b"\x78\x96\x01\x79ABCDEFGH\x7a\x03abc\x7dABCD");
    message.extend_from_slice(b"\x0a\x03new");
    for value in [b"\x22\x07\x0a\x01k\x12\x02\x10\x01", b"\x22\x07\x0a\x01k\x12\x02\x10\x02"] {
        message.extend_from_slice(value);
    }
    let request = decode_request(&message.into()).unwrap();
    assert_eq!(&*request.model, "new");
    assert_eq!(request.parameters, [("k".into(), Parameter::Int64(2))]);
}

#[test]
fn caps_how_many_inputs_there_are() {
    let one = b"\x2a\x09\x0a\x01a\x12\x04BOOL";
    let message: Vec<u8> = one.iter().copied().cycle().take(one.len() * 65_537).collect();
    assert_error(decode_request(&message.into()), Code::InvalidArgument, &["65536 inputs"]);
    let message = b"\x3a\x00".repeat(65_537);
    assert_error(decode_request(&message.into()), Code::InvalidArgument, &["65536"]);
}

fn joined(chunks: &[Bytes]) -> Vec<u8> {
    chunks.concat()
}

#[test]
fn small_answers_are_one_chunk() {
    let answer = response(
        "id",
        vec![(fp32(&[1.0]), true), (tensor(Datatype::Bytes, &[1], framed(&["x"])), false)],
    );
    let chunks = encode_response(&answer, &mut BytesMut::new()).unwrap();
    assert_eq!(chunks.len(), 1);
    let bytes = joined(&chunks);
    assert_eq!(bytes[0], 0);
    assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
    let read = proto::ModelInferResponse::decode(&bytes[5..]).unwrap();
    assert_eq!((&*read.model_name, &*read.model_version, &*read.id), ("m", "3", "id"));
    assert_eq!((&*read.outputs[1].name, &*read.outputs[1].datatype), ("out1", "BYTES"));
    assert_eq!(read.outputs[0].shape, [1, 1]);
    assert_eq!(read.raw_output_contents, [f32s(&[1.0]), framed(&["x"])]);
}

#[test]
fn large_tensors_are_not_copied() {
    let (large, small) = (fp32(&[0.5; 5000]), fp32(&[2.0]));
    let answer = response(
        "",
        vec![(large.clone(), true), (small.clone(), true), (large.clone(), true), (small, true)],
    );
    let chunks = encode_response(&answer, &mut BytesMut::new()).unwrap();
    assert_eq!(chunks.len(), 5);
    assert_eq!(chunks[1].as_ptr(), large.data.as_ptr());
    assert_eq!(chunks[3].as_ptr(), large.data.as_ptr());
    let read = proto::ModelInferResponse::decode(&joined(&chunks)[5..]).unwrap();
    let sizes: Vec<usize> = read.raw_output_contents.iter().map(Vec::len).collect();
    assert_eq!(sizes, [20_000, 4, 20_000, 4]);
}

#[test]
fn scratch_space_is_reused_without_leaking_into_the_next_answer() {
    let mut head = BytesMut::new();
    let answer = response("", vec![(fp32(&[1.0]), true)]);
    let first = joined(&encode_response(&answer, &mut head).unwrap());
    head.extend_from_slice(b"left over");
    assert_eq!(joined(&encode_response(&answer, &mut head).unwrap()), first);
}

proptest! {
    #[test]
    fn requests_round_trip(tensors in vec(any_tensor(), 0..4)) {
        let request = decode(&raw_request(&tensors)).unwrap();
        prop_assert_eq!(request.inputs.len(), tensors.len());
        for (input, sent) in request.inputs.iter().zip(&tensors) {
            prop_assert_eq!(input.datatype, sent.datatype);
            prop_assert_eq!(&input.dims, &sent.dims);
            prop_assert_eq!(&input.data, &sent.data);
        }
    }

    #[test]
    fn answers_round_trip(tensors in vec(any_tensor(), 0..4), id in ".*") {
        let answer = response(&id, tensors.iter().map(|t| (t.clone(), true)).collect());
        let bytes = joined(&encode_response(&answer, &mut BytesMut::new()).unwrap());
        let read = proto::ModelInferResponse::decode(&bytes[5..]).unwrap();
        prop_assert_eq!(&*read.id, &*id);
        prop_assert_eq!(read.outputs.len(), tensors.len());
        for (n, sent) in tensors.iter().enumerate() {
            prop_assert_eq!(&*read.outputs[n].datatype, sent.datatype.name());
            prop_assert_eq!(&*read.outputs[n].shape, sent.dims.as_slice());
            prop_assert_eq!(&*read.raw_output_contents[n], &*sent.data);
        }
    }

    #[test]
    fn damaged_messages_never_panic(
        tensors in vec(any_tensor(), 0..3),
        (changes, cut) in any_damage(),
        typed in any::<bool>(),
    ) {
        let mut request = raw_request(&tensors);
        request.parameters.insert("p".into(), proto::Choice::Double(1.0).into());
        if typed {
            request.raw_input_contents.clear();
            for input in &mut request.inputs {
                let contents = proto::Contents {
                    fp32s: vec![1.0; 4],
                    ints: vec![-1, 300],
                    bytes: vec![vec![1, 2]],
                    ..Default::default()
                };
                input.contents = Some(contents);
            }
        }
        let mut message = request.encode_to_vec();
        mutate(&mut message, &changes, cut);
        if let Err(error) = decode_request(&message.into()) {
            prop_assert!(matches!(error.code, Code::InvalidArgument | Code::Unimplemented));
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_request(&bytes.into());
    }
}
