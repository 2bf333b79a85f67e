//! Files that fit the model, and those that do not.

use std::fs;

use super::*;
use crate::metadata::TensorMetadata;

fn model(shapes: &[(&str, &[i64])]) -> ModelMetadata {
    let tensor = |(name, shape): &(&str, &[i64])| TensorMetadata {
        name: (*name).to_owned(),
        datatype: "INT64".to_owned(),
        shape: shape.to_vec(),
    };
    let output = TensorMetadata { name: "y".into(), datatype: "FP32".into(), shape: vec![-1] };
    ModelMetadata {
        name: "m".to_owned(),
        versions: Vec::new(),
        platform: String::new(),
        inputs: shapes.iter().map(tensor).collect(),
        outputs: vec![output],
    }
}

fn read_as(
    name: &str,
    content: &[u8],
    rows: u64,
    model: &ModelMetadata,
) -> Result<Vec<Vec<Tensor>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, content).unwrap();
    read(&file, &Entry { rows, ..Entry::of("m") }, model)
}

fn npy(rows: u64) -> Vec<u8> {
    let head = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({rows}, 2), }}");
    let data: Vec<u8> = (0..rows as i64 * 2).flat_map(i64::to_le_bytes).collect();
    let length = (head.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], head.as_bytes(), &data].concat()
}

#[test]
fn lines_are_requests_in_either_form() {
    let model = model(&[("x", &[-1, 2])]);
    let text = "{\"x\": [[1, 2], [3, 4]]}\n\n{\"inputs\": [{\"name\": \"x\", \"shape\": [1, 2], \"datatype\": \"INT64\", \"data\": [[5, 6]]}]}\n";
    let requests = read_as("r.jsonl", text.as_bytes(), 1, &model).unwrap();
    assert_eq!(requests.len(), 2);
    assert_eq!((&requests[0][0].shape, &requests[1][0].shape), (&vec![2, 2], &vec![1, 2]));
    for (text, why) in [
        ("{\"z\": [[1, 2]]}", "line 1: the model 'm' has no input 'z' (it has x)"),
        ("{\"x\": [[1, 2, 3]]}", "request 1: 'x' has the shape [1, 3], the model's input [-1, 2]"),
        ("{\"x\": [[1.5, 2]]}", "line 1: 'x': 1.5 is no INT64"),
        ("[]", "line 1: no JSON object"),
        ("{\"inputs\": [{\"name\": \"x\"}]}", "has no datatype"),
    ] {
        let error = read_as("r.jsonl", text.as_bytes(), 1, &model).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn arrays_are_cut_into_requests() {
    let batch = model(&[("x", &[-1, 2])]);
    let requests = read_as("r.npy", &npy(5), 2, &batch).unwrap();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1][0].json().unwrap(), [4, 5, 6, 7].map(Value::from));
    assert_eq!(requests[1][0].shape, [2, 2]);
    let error = read_as("r.npy", &npy(1), 2, &batch).unwrap_err();
    assert!(error.contains("1 rows make no request of 2"), "{error}");
    let whole = read_as("r.npy", &npy(3), 1, &model(&[("x", &[3, 2])])).unwrap();
    assert_eq!(whole[0][0].shape, [3, 2]);
    let two = model(&[("x", &[-1, 2]), ("z", &[-1, 2])]);
    assert!(read_as("r.npy", &npy(1), 1, &two).unwrap_err().contains("the inputs x, z"));
    assert!(read_as("r.csv", b"", 1, &batch).unwrap_err().contains("its ending is none of"));
}
