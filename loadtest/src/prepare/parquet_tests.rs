//! Files that pandas and pyarrow wrote (tests/data/make.py), files that the crate writes here, and damaged ones.

use std::{fs, path::PathBuf, sync::Arc};

use ::parquet::{
    data_type::{FloatType, Int32Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A model with these inputs; it can batch where all of them begin with -1.
fn model(inputs: &[(&str, &str, &[i64])]) -> ModelMetadata {
    let tensor = |(name, datatype, shape): &(&str, &str, &[i64])| TensorMetadata {
        name: (*name).to_owned(),
        datatype: (*datatype).to_owned(),
        shape: shape.to_vec(),
    };
    let output = TensorMetadata { name: "y".into(), datatype: "FP32".into(), shape: vec![-1] };
    ModelMetadata {
        name: "m".to_owned(),
        versions: Vec::new(),
        platform: String::new(),
        inputs: inputs.iter().map(tensor).collect(),
        outputs: vec![output],
    }
}

fn entry(rows: u64) -> Entry {
    Entry { rows, ..Entry::of("m") }
}

fn values(tensor: &Tensor) -> Value {
    tensor.json().unwrap().into()
}

/// Column and shape of one input, and what the first request of it is.
fn first(file: &str, rows: u64, input: (&str, &str, &[i64])) -> (Vec<u64>, Value) {
    let requests = read(&data(file), &entry(rows), &model(&[input])).unwrap();
    (requests[0][0].shape.clone(), values(&requests[0][0]))
}

#[test]
fn a_frame_of_pandas_is_inputs_by_their_names() {
    let inputs = model(&[
        ("n", "FP32", &[-1, 1]),
        ("flag", "BOOL", &[-1]),
        ("word", "BYTES", &[-1, 1]),
        ("kind", "BYTES", &[-1]),
    ]);
    let requests = read(&data("frame.parquet"), &entry(2), &inputs).unwrap();
    assert_eq!(requests.len(), 2);
    let shown: Vec<_> = requests[1].iter().map(|t| (t.shape.clone(), values(t))).collect();
    assert_eq!(
        shown,
        [
            (vec![2, 1], json!([300.0, 4.0])),
            (vec![2], json!([true, true])),
            (vec![2, 1], json!(["grüß", "a"])),
            (vec![2], json!(["red", "red"])),
        ]
    );
    // Three rows of four are one request; the last one makes none.
    assert_eq!(read(&data("frame.parquet"), &entry(3), &inputs).unwrap().len(), 1);
    // A model that cannot batch gets a row in each request.
    let whole = read(&data("frame.parquet"), &entry(1), &model(&[("n", "INT64", &[1])])).unwrap();
    assert_eq!((whole.len(), whole[1][0].shape.clone()), (4, vec![1]));
    assert_eq!(values(&whole[1][0]), json!([-2]));
}

#[test]
fn lists_are_tensors() {
    for (input, shape, expected) in [
        // A flat list fills the axes that the model fixes.
        (
            ("pixels", "FP32", &[-1, 2, 3][..]),
            vec![1, 2, 3],
            json!([0.0, 0.125, 0.25, 0.375, 0.5, 0.625]),
        ),
        (("pixels", "FP64", &[-1, 6]), vec![1, 6], json!([0.0, 0.125, 0.25, 0.375, 0.5, 0.625])),
        (
            ("pixels", "FP16", &[-1, -1, 2]),
            vec![1, 3, 2],
            json!([0.0, 0.125, 0.25, 0.375, 0.5, 0.625]),
        ),
        (("matrix", "INT32", &[-1, 2, 3]), vec![1, 2, 3], json!([0, 1, 2, 3, 4, 5])),
        (("words", "BYTES", &[-1, 2]), vec![1, 2], json!(["w0", "é"])),
        (("halves", "FP32", &[-1, 2]), vec![1, 2], json!([0.0, 0.5])),
        (("tokens", "INT64", &[-1, -1]), vec![1, 0], json!([])),
        (("big", "UINT64", &[-1]), vec![1], json!([u64::MAX])),
        (("small", "INT16", &[-1]), vec![1], json!([250])),
    ] {
        let (came, value) = first("lists.parquet", 1, input);
        assert_eq!((came, value), (shape, expected), "{}", input.0);
    }
    // Across row groups, which have two rows each.
    let (shape, value) = first("lists.parquet", 5, ("matrix", "INT64", &[-1, 2, 3]));
    assert_eq!(shape, [5, 2, 3]);
    assert_eq!(value.as_array().unwrap()[24], 4);
    let raw = read(&data("lists.parquet"), &entry(1), &model(&[("raw", "BYTES", &[-1])])).unwrap();
    assert_eq!(raw[4][0].raw, [2, 0, 0, 0, 4, 255]);
    let (shape, _) = first("odd.parquet", 3, ("empty", "INT64", &[-1, 2, 0]));
    assert_eq!(shape, [3, 2, 0]);
    // What the entry says of a shape that the model leaves open.
    let open = model(&[("pixels", "FP32", &[-1, -1, -1])]);
    let mut said = entry(1);
    said.shapes.insert("pixels".into(), vec![3, 2]);
    assert_eq!(read(&data("lists.parquet"), &said, &open).unwrap()[0][0].shape, [1, 3, 2]);
    said.shapes.insert("pixels".into(), vec![4, 2]);
    let error = read(&data("lists.parquet"), &said, &open).unwrap_err();
    assert!(error.contains("column 'pixels', row 1: 6 values in one list do not say"), "{error}");
}

/// Reads one input from a file, and holds the error against what it should say.
#[track_caller]
fn refused(file: &str, rows: u64, input: (&str, &str, &[i64]), why: &str) {
    let error = read(&data(file), &entry(rows), &model(&[input])).unwrap_err();
    assert!(error.contains(why), "{}: {error}", input.0);
}

#[test]
fn columns_that_are_no_input_are_named() {
    let axis = &[-1, 1][..];
    for (input, datatype, why) in [
        ("z", "FP32", "the name of the input 'z' (it has x, n, flag, word, kind)"),
        ("x", "INT64", "column 'x' has floating-point numbers, the model's input is INT64"),
        ("word", "FP32", "column 'word' has texts, the model's input is FP32"),
        ("flag", "FP32", "column 'flag' has booleans"),
        ("n", "BYTES", "column 'n' has whole numbers"),
    ] {
        refused("frame.parquet", 1, (input, datatype, axis), why);
    }
    for (input, why) in [
        ("moment", "column 'moment' has values of the type Timestamp"),
        ("price", "column 'price' has values of the type Decimal"),
        ("pair", "column 'pair' is a structure of 2 columns"),
        ("table", "column 'table' is a structure"),
    ] {
        refused("odd.parquet", 1, (input, "INT64", axis), why);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.parquet");
    fs::write(&file, b"PAR1, or nearly").unwrap();
    let error = read(&file, &entry(1), &model(&[("x", "FP32", axis)])).unwrap_err();
    assert!(error.contains("no Parquet file that can be read"), "{error}");
    let error = read(&folder.path().join("none"), &entry(1), &model(&[])).unwrap_err();
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn values_that_make_no_tensor_are_said_with_column_and_row() {
    let axis = &[-1, 1][..];
    let frame = "frame.parquet";
    refused(frame, 1, ("n", "UINT8", axis), "column 'n', row 2: -2 is no UINT8");
    refused(frame, 1, ("x", "FP32", axis), "column 'x', row 4: 1e300 is no FP32");
    refused(frame, 5, ("n", "FP32", axis), "4 rows make no request of 5");
    let why = "column 'n', row 1: 1 values in one list do not say a shape of the model's axes [2]";
    refused(frame, 1, ("n", "FP32", &[-1, 2]), why);
    let why = "column 'tokens', row 2: a value of the shape [1] in one request with [0]";
    refused("lists.parquet", 2, ("tokens", "INT64", &[-1, -1]), why);
    for (input, axes, why) in [
        ("hole", axis, "row 2: a value is missing"),
        ("list_hole", axis, "row 3: a value is missing"),
        ("inner_hole", &[-1, 2], "row 2: a value is missing"),
        ("ragged", &[-1, 2, 2], "row 2: lists of 2 and of 1 stand side by side"),
    ] {
        let why = format!("column '{input}', {why}");
        refused("odd.parquet", 1, (input, "FP64", axes), &why);
    }
}

/// Columns without nulls, and a bare repeated one, as older writers have them.
#[test]
fn columns_of_every_repetition_are_read() {
    let schema = "message m { required float x; repeated int32 n; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.parquet");
    let out = fs::File::create(&file).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(out, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<FloatType>().write_batch(&[1.0, 2.0, 3.0], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let levels = (Some(&[1, 1, 0, 1][..]), Some(&[0, 1, 0, 0][..]));
    column.typed::<Int32Type>().write_batch(&[7, 8, 9], levels.0, levels.1).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let inputs = model(&[("x", "FP32", &[-1]), ("n", "INT8", &[-1, -1])]);
    let requests = read(&file, &entry(1), &inputs).unwrap();
    let shown: Vec<_> =
        requests.iter().map(|r| (values(&r[0]), r[1].shape.clone(), values(&r[1]))).collect();
    assert_eq!(
        shown,
        [
            (json!([1.0]), vec![1, 2], json!([7, 8])),
            (json!([2.0]), vec![1, 0], json!([])),
            (json!([3.0]), vec![1, 1], json!([9])),
        ]
    );
}

proptest! {
    /// A list of lists and the levels that say it, by the format's own definition.
    #[test]
    fn levels_say_the_shape(sizes in proptest::collection::vec(0u64..4, 1..4)) {
        // Every list may be missing, every element too: each depth has two levels of its own.
        let depth = sizes.len();
        let empty: Vec<i16> = (0..depth as i16).map(|at| 2 * at + 1).collect();
        let level = 2 * depth as i16 + 1;
        let (mut defined, mut repeated) = (Vec::new(), Vec::new());
        fn walk(sizes: &[u64], at: usize, repeat: i16, level: i16, out: &mut (Vec<i16>, Vec<i16>)) {
            let Some(size) = sizes.get(at) else {
                out.0.push(level);
                out.1.push(repeat);
                return;
            };
            if *size == 0 {
                out.0.push(2 * at as i16 + 1);
                out.1.push(repeat);
            }
            for element in 0..*size {
                let repeat = if element == 0 { repeat } else { at as i16 + 1 };
                walk(sizes, at + 1, repeat, level, out);
            }
        }
        let mut out = (Vec::new(), Vec::new());
        walk(&sizes, 0, 0, level, &mut out);
        defined.append(&mut out.0);
        repeated.append(&mut out.1);
        let mut expected = sizes.clone();
        // Within an empty list nothing says how long others would be.
        if let Some(none) = sizes.iter().position(|size| *size == 0) {
            expected[none..].fill(0);
        }
        prop_assert_eq!(nested(level, &empty, &defined, &repeated).unwrap(), expected);
    }

    #[test]
    fn no_levels_make_it_panic(
        levels in proptest::collection::vec((-1i16..9, -1i16..9), 0..40),
        empty in proptest::collection::vec(0i16..9, 0..4),
    ) {
        let (defined, repeated): (Vec<i16>, Vec<i16>) = levels.into_iter().unzip();
        let _ = nested(8, &empty, &defined, &repeated);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Bytes turned over anywhere: an error or other values.
    #[test]
    fn damaged_files_are_errors_or_other_values(
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        which in 0usize..2,
    ) {
        let (name, inputs) = [
            ("frame.parquet", model(&[("n", "FP32", &[-1, 1]), ("word", "BYTES", &[-1])])),
            ("lists.parquet", model(&[("matrix", "INT64", &[-1, 2, 3]), ("words", "BYTES", &[-1, 2])])),
        ][which].clone();
        let mut bytes = fs::read(data(name)).unwrap();
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.parquet");
        fs::write(&file, bytes).unwrap();
        let _ = read(&file, &entry(1), &inputs);
    }
}
