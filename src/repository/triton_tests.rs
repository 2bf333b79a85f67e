//! config.pbtxt as Triton's users have it: what becomes of each field, and what is refused.

use std::collections::BTreeMap;

use super::*;
use crate::{
    repository::options::Defaults,
    types::model::{Dim, Signature, TensorSpec},
};

fn read(text: &str) -> Result<ModelOptions, String> {
    super::read(text, "m/config.pbtxt", "m", &Defaults::default())
}

fn notes(options: &ModelOptions) -> &[String] {
    &options.declared.as_ref().expect("read from config.pbtxt").notes
}

/// As Triton's documentation has it, with comments and both kinds of lists.
const WHOLE: &str = r#"
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] },
  { name: "mask", data_type: TYPE_INT64, dims: -1 optional: false }
]
output { name: "y" data_type: TYPE_FP32 dims: 1000 label_filename: "labels.txt" }
version_policy: { latest { num_versions: 2 } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 2, 4 ]
  max_queue_delay_microseconds: 500
  priority_levels: 4
  default_priority_level: 3
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 2500 max_queue_size: 100 }
}
optimization {
  graph { level: 1 }
  execution_accelerators {
    cpu_execution_accelerator: [ { name: "openvino" } ]
  }
}
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value: { data_type: TYPE_FP32 dims: 3 zero_data: true } } } ]
response_cache { enable: true }
model_transaction_policy { decoupled: false }
"#;

#[test]
fn what_is_honoured() {
    let options = read(WHOLE).expect("Triton would take it");
    assert_eq!(options.versions, Versions::Latest(2));
    assert_eq!(options.batch_axis, BatchAxis::First);
    let batching = &options.batching;
    assert_eq!((batching.max_batch_size, batching.preferred_batch_size), (8, 4));
    assert_eq!((batching.max_queue_delay_us, batching.instances), (500, 2));
    assert_eq!((batching.default_priority, batching.max_queue_requests), (3, 100));
    assert_eq!(options.default_timeout_ms, 3);
    assert_eq!(options.session.optimization, Optimization::Extended);
    assert_eq!(options.session.intra_op_threads, 2);
    let providers: Vec<Provider> = options.session.providers.iter().map(|p| p.name).collect();
    assert_eq!(providers, [Provider::OpenVino]);
    assert_eq!(options.cache.max_bytes, CACHE_BYTES);
    assert!(options.warmup);
    assert_eq!(notes(&options), &[] as &[String]);
    let files = &options.declared.as_ref().expect("declared").label_files;
    assert_eq!(files, &[("y".to_owned(), "labels.txt".to_owned())]);
    assert_eq!(read("").expect("nothing is needed").batching, Defaults::default().batching);
}

#[test]
fn gpus_become_providers() {
    let options = read(
        r#"instance_group { kind: KIND_GPU gpus: [ 1 ] count: 1 }
        optimization { execution_accelerators { gpu_execution_accelerator {
          name: "tensorrt"
          parameters { key: "precision_mode" value: "FP16" }
          parameters { key: "max_workspace_size_bytes" value: "1024" }
          parameters { key: "trt_engine_cache_enable" value: "true" } } } }"#,
    )
    .expect("Triton would take it");
    let [trt, cuda] = options.session.providers.as_slice() else { panic!("two providers") };
    assert_eq!((trt.name, cuda.name, cuda.device_id), (Provider::TensorRt, Provider::Cuda, 1));
    let expected: BTreeMap<String, String> = [
        ("trt_fp16_enable", "1"),
        ("trt_max_workspace_size", "1024"),
        ("trt_engine_cache_enable", "1"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    assert_eq!(trt.options, expected);
}

#[test]
fn what_is_not_honoured_has_a_line_each() {
    let options = read(
        "metric_tags { key: \"a\" value: \"b\" }\ndynamic_batching {\n preserve_ordering: true\n\
         priority_queue_policy { key: 1 value: { max_queue_size: 1 } }\n}\n\
         optimization { cuda { graphs: true } priority: PRIORITY_MAX }\n\
         parameters { key: \"execution_mode\" value: { string_value: \"1\" } }\n\
         instance_group { rate_limiter { priority: 1 } }\ninput { name: \"x\" format: FORMAT_NCHW }\n\
         model_warmup { inputs { key: \"x\" value: { input_data_file: \"f\" } } }",
    )
    .expect("it is harmless");
    let lines = [
        "m/config.pbtxt, line 1: metric_tags is not honoured: ",
        "m/config.pbtxt, line 3: preserve_ordering is not honoured: ",
        "m/config.pbtxt, line 4: priority_queue_policy is not honoured: ",
        "m/config.pbtxt, line 6: cuda is not honoured: ",
        "m/config.pbtxt, line 6: priority is not honoured: ",
        "m/config.pbtxt, line 7: parameters is not honoured: 'execution_mode' ",
        "m/config.pbtxt, line 9: format is not honoured: ",
        "m/config.pbtxt, line 10: model_warmup is not honoured: ",
        "m/config.pbtxt, line 8: rate_limiter is not honoured: ",
    ];
    let notes = notes(&options);
    assert_eq!(notes.len(), lines.len(), "{notes:#?}");
    for (note, line) in notes.iter().zip(lines) {
        assert!(note.starts_with(line), "{note}");
    }
}

#[test]
fn what_would_make_answers_wrong_is_refused() {
    for (text, words) in [
        ("name: \"other\"", "line 1: name: 'other', in the directory of 'm'"),
        ("backend: \"python\"", "backend: 'python': expected onnxruntime"),
        ("platform: \"ensemble\"", "platform: 'ensemble'"),
        ("\nsequence_batching { }", "line 2: sequence_batching: models with state"),
        ("ensemble_scheduling { }", "ensembles"),
        ("model_transaction_policy { decoupled: true }", "one answer"),
        ("default_model_filename: \"m.onnx\"", "'m.onnx': expected model.onnx"),
        ("max_batch_size: -1", "max_batch_size: expected a number"),
        ("max_batch_size: \"8\"", "max_batch_size: expected a number"),
        ("max_batchsize: 8", "max_batchsize: unknown field of ModelConfig"),
        ("input { name: \"x\" dim: 3 }", "dim: unknown field of ModelInput"),
        ("input { dims: 3 }", "it has no 'name'"),
        ("input { name: \"x\" data_type: FP32 }", "'FP32': expected as in TYPE_FP32"),
        ("input { name: \"x\" reshape { shape: [ ] } }", "reshape"),
        ("output { name: \"y\" label_filename: \"../a\" }", "'../a'"),
        ("version_policy { specific { } }", "expected versions"),
        ("instance_group { kind: KIND_TPU }", "expected KIND_CPU"),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: \"x\" } } }",
            "'x'",
        ),
        ("name: \"m", "line 1: a string has no end"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.starts_with("m/config.pbtxt, line ") && error.contains(words), "{error}");
    }
}

#[test]
fn what_is_declared_is_held_against_the_graph() {
    let spec = |name: &str, datatype, dims: &[Dim]| TensorSpec {
        name: name.into(),
        datatype,
        dims: Some(dims.to_vec()),
        optional: false,
        labels: None,
    };
    let n = Dim::Symbol("N".into());
    let inputs = vec![spec("x", Datatype::Fp32, &[n.clone(), Dim::Fixed(3), Dim::Any])];
    let outputs = vec![spec("y", Datatype::Int64, &[n])];
    let signature = Signature { inputs, outputs, can_batch: true };
    let check = |text: &str| {
        let options = read(text).expect("well formed");
        options.declared.expect("declared").check(&signature)
    };
    for right in [
        "max_batch_size: 4 input { name: \"x\" data_type: TYPE_FP32 dims: [ 3, -1 ] } output { name: \"y\" }",
        "max_batch_size: 4 input { name: \"x\" dims: [ -1, 7 ] }",
        "input { name: \"x\" dims: [ -1, 3, -1 ] }",
    ] {
        assert_eq!(check(right), Ok(()), "{right}");
    }
    for (wrong, words) in [
        ("input { name: \"z\" }", "input 'z' is not in the graph, which has 'x'"),
        (
            "output { name: \"y\" data_type: TYPE_FP32 }",
            "output 'y' is FP32, and INT64 in the graph",
        ),
        ("max_batch_size: 4 input { name: \"x\" dims: [ 4, -1 ] }", "input 'x' has the dimensions"),
        (
            "max_batch_size: 4 input { name: \"x\" dims: [ -1, 3, -1 ] }",
            "input 'x' has the dimensions",
        ),
    ] {
        let error = check(wrong).expect_err(wrong);
        assert!(error.contains(words), "{error}");
    }
}
