//! What decoding and encoding cost: gRPC, JSON and binary, for 32 floats (a row of a table) and 150,528 (an image).

use std::{hint::black_box, sync::Arc};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onnxd::{
    types::{
        datatype::Datatype,
        model::{Signature, TensorSpec},
        request::{InferResponse, OutputTensor},
        tensor::Tensor,
        text::Text,
    },
    wire::{binary, grpc, json},
};

/// Elements, with a name for the report.
const SIZES: [(usize, &str); 2] = [(32, "128 B"), (150_528, "602 KB")];

/// Values as the bench of the peers sends them: normally distributed, all digits in use. The same on every run.
fn values(count: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    std::iter::repeat_with(normal).take(count).map(|v| v as f32).collect()
}

fn raw(count: usize) -> Bytes {
    values(count).iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A length-delimited protobuf field.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

fn grpc_request(count: usize) -> Bytes {
    let mut shape = vec![1, 0x80 | (count & 0x7f) as u8, 0x80 | (count >> 7 & 0x7f) as u8];
    shape.push((count >> 14) as u8);
    let mut input = Vec::new();
    field(1, b"input", &mut input);
    field(2, b"FP32", &mut input);
    field(3, &shape, &mut input);
    let mut message = Vec::new();
    field(1, b"tabular_mlp", &mut message);
    field(3, b"42", &mut message);
    field(5, &input, &mut message);
    field(7, &raw(count), &mut message);
    // As the connection hands it over: shared already.
    BytesMut::from(message.as_slice()).freeze()
}

/// As the bench of the peers writes an array of f32s: each as the f64 of the same value, about 17 digits.
fn json_request(count: usize) -> Bytes {
    let numbers: Vec<String> = values(count).iter().map(|v| f64::from(*v).to_string()).collect();
    let data = numbers.join(",");
    format!(
        r#"{{"id": "42", "inputs": [{{"name": "input", "shape": [1, {count}], "datatype": "FP32", "data": [{data}]}}]}}"#
    )
    .into_bytes()
    .into()
}

/// The body, and how long its JSON is.
fn binary_request(count: usize) -> (Bytes, usize) {
    let mut body = format!(
        r#"{{"inputs":[{{"name":"input","shape":[1,{count}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        4 * count
    )
    .into_bytes();
    let json_len = body.len();
    body.extend_from_slice(&raw(count));
    (body.into(), json_len)
}

fn response(count: usize, binary: bool) -> InferResponse {
    let spec = TensorSpec {
        name: "output".into(),
        datatype: Datatype::Fp32,
        dims: None,
        optional: false,
        labels: None,
    };
    let dims = [1, count as i64].as_slice().into();
    let tensor = Tensor { datatype: Datatype::Fp32, dims, data: raw(count) };
    InferResponse {
        route: None,
        model: "tabular_mlp".into(),
        version: "1".into(),
        id: Text::from_static("42"),
        outputs: [OutputTensor { index: 0, binary, tensor }].into_iter().collect(),
        regions: None,
        signature: Arc::new(Signature { outputs: vec![spec], ..Signature::default() }),
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (count, name) in SIZES {
        group.throughput(Throughput::Elements(count as u64));
        let message = grpc_request(count);
        group.bench_function(format!("grpc {name}"), |b| {
            b.iter(|| grpc::decode_request(black_box(&message)).expect("a valid request"));
        });
        let (body, json_len) = binary_request(count);
        group.bench_function(format!("binary {name}"), |b| {
            b.iter(|| binary::decode_request(black_box(&body), json_len).expect("a valid request"));
        });
        let body = json_request(count);
        group.bench_function(format!("json {count} floats"), |b| {
            b.iter(|| json::decode_request(black_box(&body)).expect("a valid request"));
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (count, name) in SIZES {
        group.throughput(Throughput::Elements(count as u64));
        let answer = response(count, true);
        let mut head = BytesMut::new();
        group.bench_function(format!("grpc {name}"), |b| {
            b.iter(|| grpc::encode_response(black_box(&answer), &mut head).expect("it fits"));
        });
        group.bench_function(format!("binary {name}"), |b| {
            b.iter(|| binary::encode_response(black_box(&answer)).expect("it fits"));
        });
        let answer = response(count, false);
        let mut out = Vec::new();
        group.bench_function(format!("json {count} floats"), |b| {
            b.iter(|| {
                out.clear();
                json::encode_response(black_box(&answer), &mut out).expect("floats are JSON");
                out.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
