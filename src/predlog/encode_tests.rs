//! Records to columns and back, value by value.

use arrow_array::{
    Array, Float32Array, ListArray, StringArray,
    cast::AsArray,
    types::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType},
};

use super::*;
use crate::{
    predlog::{
        large::Larges,
        options::LogOptions,
        redact::Rule,
        testing::{bare, classified, classifier, floats, spec, subject, tensor},
    },
    types::{
        datatype::Datatype,
        error::Code,
        model::{Signature, TensorSpec},
    },
};

const ANCHOR: Anchor = Anchor { tick: Tick(2_000_000), wall_us: 1_700_000_000_000_000 };

fn encoded(records: &[Record]) -> RecordBatch {
    encode(records, &Larges::of(records, ANCHOR), &mut Ids::new(1), ANCHOR).expect("encoded")
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).unwrap_or_else(|| panic!("no {name}"))
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Vec<Option<&'a str>> {
    let array: &StringArray = column(batch, name).as_string();
    array.iter().collect()
}

#[test]
fn a_request_of_two_rows_becomes_two() {
    let subject = subject(&classifier(), &LogOptions::default());
    let mut record = bare(&subject, "q", 2);
    record.hold(
        0,
        &tensor(Datatype::Fp32, &[2, 3], floats(&[1.0, 2.0, f32::NAN, 4.0, f32::INFINITY, -0.0])),
    );
    record.hold(
        1,
        &tensor(
            Datatype::Int64,
            &[2],
            [7i64, i64::MIN].iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
    );
    record.hold(2, &tensor(Datatype::Fp32, &[2, 2], floats(&[0.1, 0.9, 0.8, 0.2])));
    let batch = encoded(&[record]);
    assert_eq!(batch.num_rows(), 2);
    assert_eq!(column(&batch, "row").as_primitive::<Int32Type>().values(), &[0, 1]);
    assert_eq!(texts(&batch, "label_key"), [Some("q:0"), Some("q:1")]);
    let times = column(&batch, "ts").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &[1_699_999_999_999_000; 2], "a millisecond before the anchor");
    let x: &ListArray = column(&batch, "in_x").as_list();
    let second = x.value(1);
    let second: &Float32Array = second.as_primitive::<Float32Type>();
    assert_eq!((second.value(0), second.value(1)), (4.0, f32::INFINITY));
    assert!(second.value(2).is_sign_negative());
    let labels = column(&batch, "out_label").as_primitive::<Int64Type>();
    assert_eq!(labels.values(), &[7, i64::MIN]);
    assert_eq!(texts(&batch, "pred_label"), [Some("7"), Some("-9223372036854775808")]);
    let scores = column(&batch, "pred_score").as_primitive::<arrow_array::types::Float64Type>();
    assert_eq!(scores.value(1), f64::from(0.8f32));
    let ids = texts(&batch, "event_id");
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().flatten().all(|id| id.len() == 36 && id.as_bytes()[14] == b'7'), "{ids:?}");
}

#[test]
fn failures_are_rows_without_answers() {
    let subject = subject(&classifier(), &LogOptions::default());
    let mut failed = bare(&subject, "f", 1);
    (failed.code, failed.batch) = (Some(Code::DeadlineExceeded), None);
    let batch = encoded(&[failed, classified(&subject, 3.0)]);
    let statuses = column(&batch, "status").as_primitive::<Int32Type>();
    assert_eq!(statuses.values(), &[504, 200]);
    assert_eq!(texts(&batch, "error_code"), [Some("deadline_exceeded"), None]);
    assert_eq!(texts(&batch, "pred_label"), [None, Some("3")]);
    assert!(column(&batch, "in_x").is_null(0) && column(&batch, "queue_us").is_null(0));
}

/// Every datatype, with its extremes.
#[test]
fn every_datatype_has_its_column() {
    let all: [(Datatype, Vec<u8>, &str, &str); 11] = [
        (Datatype::Bool, vec![1], "bool", "true"),
        (Datatype::Int8, vec![0x80], "int32", "-128"),
        (Datatype::Uint8, vec![0xff], "int32", "255"),
        (Datatype::Int16, i16::MIN.to_le_bytes().into(), "int32", "-32768"),
        (Datatype::Uint16, vec![0xff; 2], "int32", "65535"),
        (Datatype::Int32, i32::MIN.to_le_bytes().into(), "int32", "-2147483648"),
        (Datatype::Uint32, vec![0xff; 4], "int64", "4294967295"),
        (Datatype::Int64, i64::MAX.to_le_bytes().into(), "int64", "9223372036854775807"),
        (Datatype::Uint64, vec![0xff; 8], "string", "18446744073709551615"),
        (Datatype::Fp16, vec![0x00, 0x3c], "float", "1"),
        (Datatype::Bytes, [&[3, 0, 0, 0][..], b"abc"].concat(), "string", "abc"),
    ];
    let inputs: Vec<TensorSpec> =
        all.iter().map(|(datatype, ..)| spec(datatype.name(), *datatype, &[-1, 1])).collect();
    let outputs = vec![spec("y", Datatype::Fp64, &[-1])];
    let signature = Arc::new(Signature { can_batch: true, inputs, outputs });
    let subject = subject(&signature, &LogOptions { text: true, ..LogOptions::default() });
    let mut record = bare(&subject, "d", 1);
    for (at, (datatype, bytes, ..)) in all.iter().enumerate() {
        record.hold(at, &tensor(*datatype, &[1, 1], bytes.clone()));
    }
    record.hold(all.len(), &tensor(Datatype::Fp64, &[1], f64::MIN_POSITIVE.to_le_bytes().into()));
    let batch = encoded(&[record]);
    for (datatype, _, kind, text) in &all {
        let name = format!("in_{datatype}");
        let footer = subject.footer.columns.iter().find(|c| c.name == name).expect("a column");
        assert_eq!(footer.kind, *kind, "{datatype}");
        let array = column(&batch, &name);
        let shown = match *kind {
            "bool" => array.as_boolean().value(0).to_string(),
            "int32" => array.as_primitive::<Int32Type>().value(0).to_string(),
            "int64" => array.as_primitive::<Int64Type>().value(0).to_string(),
            "float" => array.as_primitive::<Float32Type>().value(0).to_string(),
            _ => array.as_string::<i32>().value(0).to_owned(),
        };
        assert_eq!(shown, *text, "{datatype}");
    }
    let y = column(&batch, "out_y").as_primitive::<arrow_array::types::Float64Type>();
    assert_eq!(y.value(0), f64::MIN_POSITIVE);
}

#[test]
fn what_is_redacted_is_nowhere() {
    let redact = [
        ("in_x".to_owned(), Rule::Bucket(vec![2.0])),
        ("request_id".to_owned(), Rule::Hash),
        ("pred_score".to_owned(), Rule::Round(0.5)),
    ];
    let options = LogOptions { redact: redact.into(), ..LogOptions::default() };
    let batch = encoded(&[classified(&subject(&classifier(), &options), 1.0)]);
    let x: &ListArray = column(&batch, "in_x").as_list();
    let first = x.value(0);
    let first: Vec<_> = first.as_string::<i32>().iter().flatten().collect();
    assert_eq!(first, ["[-inf,2)", "[-inf,2)", "nan"]);
    let id = texts(&batch, "request_id")[0].expect("an id").to_owned();
    assert!(id.len() == 32 && id != "r1", "{id}");
    assert_eq!(texts(&batch, "label_key"), [Some(&*format!("{id}:0"))]);
    let score = column(&batch, "pred_score").as_primitive::<arrow_array::types::Float64Type>();
    assert_eq!(score.value(0), 1.0);
}

#[test]
fn large_tensors_are_known_by_their_digest() {
    let inputs = vec![spec("x", Datatype::Uint8, &[-1])];
    let outputs = vec![spec("y", Datatype::Uint8, &[2])];
    let signature = Arc::new(Signature { can_batch: false, inputs, outputs });
    let subject = subject(&signature, &LogOptions { max_inline_bytes: 4, ..LogOptions::default() });
    let record = |bytes: &[u8]| {
        let mut record = bare(&subject, "l", 1);
        record.hold(0, &tensor(Datatype::Uint8, &[bytes.len() as i64], bytes.into()));
        record
    };
    let batch = encoded(&[record(b"abc"), record(b"hello world")]);
    let x: &ListArray = column(&batch, "in_x").as_list();
    assert!(x.is_valid(0) && x.is_null(1));
    let digest = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    assert_eq!(texts(&batch, "in_x_sha256"), [None, Some(digest)]);
    let shape: &ListArray = column(&batch, "in_x_shape").as_list();
    assert_eq!(shape.value(1).as_primitive::<Int32Type>().values(), &[11]);
}
