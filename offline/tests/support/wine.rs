//! A log of the example model wine, version 1: its own answers, so that a replay of it has to be the same.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray, types::Float32Type,
};
use arrow_schema::{Field, Schema};
use onnxd::{cli::settings::Settings, predlog::value::Value};
use onnxd_offline::replay::{Target, local::Local};
use serde_json::json;

use crate::log_files::{NINE, write_at};

/// The example models.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

/// What a typical wine measures.
const MEANS: [f64; 13] = [13.0, 2.3, 2.4, 19.5, 100.0, 2.3, 2.0, 0.36, 1.6, 5.0, 0.96, 2.6, 750.0];

/// Feature `at` of row `n`: within a half of what is typical.
fn feature(n: usize, at: usize) -> f32 {
    let noise = ((n * 13 + at) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (MEANS[at] * (0.5 + noise as f64 / (1 << 24) as f64)) as f32
}

/// The example model's first version, in this process.
pub fn first() -> Local {
    let settings = Settings { models: models().to_str().map(str::to_owned), ..Settings::default() };
    Local::open(&settings, "wine", Some(1)).expect("the example model opens")
}

/// Rows of a file.
const FILE: usize = 100;

/// Writes a log of `count` rows, with what version 1 answers.
pub fn write(root: &Path, count: usize) {
    let mut local = first();
    let (mut labels, mut shares): (Vec<i64>, Vec<Vec<Option<f32>>>) = (Vec::new(), Vec::new());
    for n in 0..count {
        let data: Vec<f32> = (0..13).map(|at| feature(n, at)).collect();
        let body = json!({"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 13], "data": data}]});
        for output in local.ask(&body).expect("it answers") {
            match output.values.as_slice() {
                [Value::Int(label)] => labels.push(*label),
                many => shares.push(many.iter().map(|v| v.number().map(|v| v as f32)).collect()),
            }
        }
    }
    assert_eq!((labels.len(), shares.len()), (count, count));
    let text = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new((0..count).map(|n| Some(of(n))).collect::<StringArray>())
    };
    let times: TimestampMicrosecondArray =
        (0..count).map(|n| Some(NINE + n as i64 * 1000)).collect();
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("event_id".into(), text(&|n| format!("019c0000-0000-7000-8000-{n:012x}"))),
        ("request_id".into(), text(&|n| format!("r{n}"))),
        ("row".into(), Arc::new((0..count).map(|_| Some(0)).collect::<Int32Array>())),
        ("label_key".into(), text(&|n| format!("r{n}:0"))),
        ("ts".into(), Arc::new(times.with_timezone("UTC"))),
        ("model_name".into(), text(&|_| "wine".into())),
        ("model_version".into(), text(&|_| "1".into())),
        ("route".into(), text(&|_| "primary".into())),
        ("status".into(), Arc::new((0..count).map(|_| Some(200)).collect::<Int32Array>())),
        ("sample_p".into(), Arc::new((0..count).map(|_| Some(1.0)).collect::<Float64Array>())),
    ];
    let mut roles: Vec<String> =
        columns.iter().map(|(name, _)| format!(r#"{{"name":"{name}","role":"meta"}}"#)).collect();
    for at in 0..13 {
        let values: Float32Array = (0..count).map(|n| Some(feature(n, at))).collect();
        columns.push((format!("in_f{at}"), Arc::new(values)));
        roles.push(format!(
            r#"{{"name":"in_f{at}","role":"feature","tensor":"features","index":{at},"datatype":"FP32","part":"value"}}"#
        ));
    }
    columns.push(("out_label".into(), Arc::new(Int64Array::from(labels))));
    let shares = ListArray::from_iter_primitive::<Float32Type, _, _>(shares.into_iter().map(Some));
    columns.push(("out_probabilities".into(), Arc::new(shares)));
    for (name, tensor) in [("out_label", "label"), ("out_probabilities", "probabilities")] {
        roles.push(format!(
            r#"{{"name":"{name}","role":"prediction","tensor":"{tensor}","part":"value"}}"#
        ));
    }
    let footer = format!(
        r#"{{"format":1,"schema_id":"s","model":"wine","version":"1","layout":"table","signature_digest":"x","columns":[{}]}}"#,
        roles.join(",")
    );
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
    let dir = root.join("log/v1/model=wine/version=1/date=2026-01-31/hour=9");
    std::fs::create_dir_all(&dir).expect("a directory");
    for from in (0..count).step_by(FILE) {
        let rows = batch.slice(from, FILE.min(count - from));
        let name = format!("part-n-b-{}.parquet", from / FILE);
        write_at(&dir.join(name), &rows, Some(footer.clone()));
    }
}
