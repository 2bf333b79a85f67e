//! Shapes that fit or do not, values within their ranges.

use super::*;

fn model(inputs: &[(&str, &str, &[i64])], outputs: &[&[i64]]) -> ModelMetadata {
    let tensor = |name: &str, datatype: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
    };
    ModelMetadata {
        name: "m".to_owned(),
        versions: Vec::new(),
        platform: String::new(),
        inputs: inputs
            .iter()
            .map(|(name, datatype, shape)| tensor(name, datatype, shape))
            .collect(),
        outputs: outputs.iter().map(|shape| tensor("y", "FP32", shape)).collect(),
    }
}

#[test]
fn the_first_axis_counts_instances_where_all_have_it_open() {
    let model = model(&[("x", "FP32", &[-1, 3]), ("ids", "INT64", &[-1, -1])], &[&[-1, 2]]);
    let mut entry = Entry { rows: 4, ..Entry::of("m") };
    let error = generate(&entry, &model, 1, 0).unwrap_err();
    assert!(error.contains("input 'ids' has axes of any length, [-1]"), "{error}");
    entry.shapes.insert("ids".to_owned(), vec![7]);
    let tensors = generate(&entry, &model, 1, 0).unwrap();
    assert_eq!((&tensors[0].shape, &tensors[1].shape), (&vec![4, 3], &vec![4, 7]));
    assert_eq!((tensors[0].raw.len(), tensors[1].raw.len()), (48, 224));
    assert_eq!(tensors, generate(&entry, &model, 1, 0).unwrap());
    assert_ne!(tensors, generate(&entry, &model, 1, 1).unwrap());
    entry.shapes.insert("x".to_owned(), vec![5]);
    let error = generate(&entry, &model, 1, 0).unwrap_err();
    assert!(error.contains("the shape [5] does not fit the model's [3]"), "{error}");
}

#[test]
fn fixed_shapes_are_the_models() {
    let fixed = model(&[("x", "UINT8", &[2, 2])], &[&[2]]);
    assert_eq!(generate(&Entry::of("m"), &fixed, 1, 0).unwrap()[0].shape, [2, 2]);
    let loose = model(&[("x", "UINT8", &[-1])], &[&[1]]);
    let entry = Entry { rows: 3, ..Entry::of("m") };
    assert_eq!(generate(&entry, &loose, 1, 0).unwrap()[0].shape, [3]);
}

#[test]
fn values_keep_their_ranges() {
    let mut entry = Entry::of("m");
    entry.distinct = 1;
    for (datatype, range, inside) in [
        ("FP32", Some([-2.0, -1.0]), -2.0..=-1.0),
        ("FP64", None, 0.0..=1.0),
        ("INT32", Some([-3.0, 3.0]), -3.0..=3.0),
        ("UINT64", None, 0.0..=9.0),
    ] {
        entry.ranges.clear();
        entry.ranges.extend(range.map(|range| ("x".to_owned(), range)));
        let model = model(&[("x", datatype, &[1000])], &[]);
        let tensor = &generate(&entry, &model, 3, 0).unwrap()[0];
        let values: Vec<f64> = tensor.json().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert!(values.iter().all(|value| inside.contains(value)), "{datatype}");
        let middle = (inside.start() + inside.end()) / 2.0;
        assert!(values.iter().any(|v| *v < middle) && values.iter().any(|v| *v > middle));
    }
    for (datatype, range) in
        [("UINT8", [-1.0, 5.0]), ("INT8", [0.0, 200.0]), ("FP32", [2.0, 1.0]), ("INT8", [0.2, 0.8])]
    {
        entry.ranges.insert("x".to_owned(), range);
        let error = generate(&entry, &model(&[("x", datatype, &[1])], &[]), 3, 0).unwrap_err();
        assert!(error.starts_with("input 'x': the range"), "{error}");
    }
    entry.ranges.clear();
    let texts = &generate(&entry, &model(&[("x", "BYTES", &[2])], &[]), 3, 0).unwrap()[0];
    assert_eq!(texts.json().unwrap()[0].as_str().unwrap().len(), 16);
}
