//! Tests of typed contents: every datatype, packed and not, in range and out of it.

use bytes::Bytes;
use prost::Message;

use super::{
    proto::{self, Contents, Unpacked},
    sample::{assert_error, f32s, framed},
};
use crate::{
    types::{
        datatype::Datatype,
        error::{Code, Error},
    },
    wire::grpc::decode_request,
};

/// The message of one input `x` with these encoded contents, several of which merge.
fn message(datatype: &str, shape: &[i64], contents: &[Vec<u8>]) -> Bytes {
    let input = proto::InputTensor {
        name: "x".into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    };
    let mut bytes = input.encode_to_vec();
    for part in contents {
        bytes.push(0x2a);
        prost::encoding::encode_varint(part.len() as u64, &mut bytes);
        bytes.extend_from_slice(part);
    }
    let mut message = vec![0x2a];
    prost::encoding::encode_varint(bytes.len() as u64, &mut message);
    message.extend_from_slice(&bytes);
    message.into()
}

fn decode(datatype: &str, shape: &[i64], contents: &Contents) -> Result<Bytes, Error> {
    let message = message(datatype, shape, &[contents.encode_to_vec()]);
    Ok(decode_request(&message)?.inputs[0].data.clone())
}

#[test]
fn converts_every_datatype() {
    let none = Contents::default;
    let cases: Vec<(&str, Contents, Vec<u8>)> = vec![
        ("BOOL", Contents { bools: vec![true, false], ..none() }, vec![1, 0]),
        ("INT8", Contents { ints: vec![-128, 127], ..none() }, vec![0x80, 0x7f]),
        ("INT16", Contents { ints: vec![-2, 300], ..none() }, vec![0xfe, 0xff, 0x2c, 1]),
        ("INT32", Contents { ints: vec![i32::MIN, 1], ..none() }, vec![0, 0, 0, 0x80, 1, 0, 0, 0]),
        (
            "INT64",
            Contents { int64s: vec![-1, i64::MAX], ..none() },
            [(-1i64).to_le_bytes(), i64::MAX.to_le_bytes()].concat(),
        ),
        ("UINT8", Contents { uints: vec![0, 255], ..none() }, vec![0, 255]),
        ("UINT16", Contents { uints: vec![1, 65_535], ..none() }, vec![1, 0, 255, 255]),
        (
            "UINT32",
            Contents { uints: vec![7, u32::MAX], ..none() },
            vec![7, 0, 0, 0, 255, 255, 255, 255],
        ),
        (
            "UINT64",
            Contents { uint64s: vec![0, u64::MAX], ..none() },
            [0u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat(),
        ),
        ("FP32", Contents { fp32s: vec![f32::NAN, -0.0], ..none() }, f32s(&[f32::NAN, -0.0])),
        (
            "FP64",
            Contents { fp64s: vec![0.1, -1e300], ..none() },
            [0.1f64.to_le_bytes(), (-1e300f64).to_le_bytes()].concat(),
        ),
        (
            "BYTES",
            Contents { bytes: vec![vec![], vec![0, 255]], ..none() },
            framed(&[b"".as_slice(), b"\0\xff"]),
        ),
    ];
    for (datatype, contents, expected) in cases {
        assert_eq!(decode(datatype, &[2], &contents).unwrap(), expected, "{datatype}");
        assert_error(
            decode(datatype, &[3], &contents),
            Code::InvalidArgument,
            &["'x'", "3 elements", "got 2"],
        );
        assert_error(
            decode(datatype, &[1], &contents),
            Code::InvalidArgument,
            &["'x'", "1 elements", "got 2"],
        );
    }
}

#[test]
fn reads_unpacked_and_merges() {
    let unpacked = Unpacked { ints: vec![-1, 5], ..Default::default() }.encode_to_vec();
    let packed = Contents { ints: vec![7], ..Default::default() }.encode_to_vec();
    let message_ = message("INT16", &[3], &[unpacked, packed, vec![]]);
    assert_eq!(
        decode_request(&message_).unwrap().inputs[0].data,
        [255u8, 255, 5, 0, 7, 0].as_slice()
    );
    let unpacked = Unpacked { fp32s: vec![1.5, -2.0], ..Default::default() }.encode_to_vec();
    let message_ = message("FP32", &[2], &[unpacked]);
    assert_eq!(decode_request(&message_).unwrap().inputs[0].data, f32s(&[1.5, -2.0]));
    let unpacked = Unpacked { bools: vec![true, false], ..Default::default() }.encode_to_vec();
    let message_ = message("BOOL", &[2], &[unpacked]);
    assert_eq!(decode_request(&message_).unwrap().inputs[0].data, [1u8, 0].as_slice());
}

#[test]
fn packed_floats_are_not_copied() {
    let contents = Contents { fp32s: vec![1.0; 8], ..Default::default() }.encode_to_vec();
    let message = message("FP32", &[8], &[contents]);
    let request = decode_request(&message).unwrap();
    assert!(message.as_ptr_range().contains(&request.inputs[0].data.as_ptr()));
}

#[test]
fn narrow_integers_never_wrap() {
    let ints = |n| Contents { ints: vec![0, n], ..Default::default() };
    let uints = |n| Contents { uints: vec![0, n], ..Default::default() };
    let cases = [
        ("INT8", ints(128), "128"),
        ("INT8", ints(-129), "-129"),
        ("INT16", ints(40_000), "40000"),
        ("UINT8", uints(256), "256"),
        ("UINT16", uints(70_000), "70000"),
    ];
    for (datatype, contents, word) in cases {
        assert_error(
            decode(datatype, &[2], &contents),
            Code::InvalidArgument,
            &["'x'", "element 1", word, datatype],
        );
    }
    // Wider on the wire than the field is.
    let wide = Contents { int64s: vec![1 << 40], ..Default::default() }.encode_to_vec();
    let mut as_int = wide.clone();
    as_int[0] = 0x12;
    assert_error(
        decode_request(&message("INT32", &[1], &[as_int])),
        Code::InvalidArgument,
        &["element 0", "1099511627776"],
    );
}

#[test]
fn the_field_must_be_the_datatypes() {
    let fp32s = Contents { fp32s: vec![1.0], ..Default::default() };
    assert_error(
        decode("INT32", &[1], &fp32s),
        Code::InvalidArgument,
        &["'x'", "int_contents", "fp32_contents"],
    );
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        assert_error(
            decode(datatype.name(), &[1], &fp32s),
            Code::InvalidArgument,
            &["'x'", datatype.name(), "raw_input_contents"],
        );
    }
    let both = Contents { fp32s: vec![1.0], ints: vec![1], ..Default::default() };
    assert_error(decode("FP32", &[1], &both), Code::InvalidArgument, &["int_contents"]);
}

#[test]
fn an_empty_tensor_needs_no_contents() {
    assert!(decode("FP32", &[1, 0], &Contents::default()).unwrap().is_empty());
    assert!(decode_request(&message("FP16", &[0], &[])).unwrap().inputs[0].data.is_empty());
    assert_error(
        decode_request(&message("FP32", &[1], &[vec![]])),
        Code::InvalidArgument,
        &["'x'", "no data"],
    );
}

#[test]
fn refuses_contents_cut_short() {
    let cases: [(&str, &[u8]); 3] =
        [("FP32", b"\x32\x03abc"), ("INT32", b"\x12\x02\x01\x80"), ("FP64", b"\x39abcd")];
    for (datatype, contents) in cases {
        assert_error(
            decode_request(&message(datatype, &[1], &[contents.to_vec()])),
            Code::InvalidArgument,
            &["malformed protobuf", "cut short"],
        );
    }
}
