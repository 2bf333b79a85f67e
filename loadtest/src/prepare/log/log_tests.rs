//! Logs that are written here, whole and damaged: what is asked again, and why the rest is not.

use std::{fs, path::PathBuf, sync::Arc};

use ::parquet::{
    arrow::ArrowWriter,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use arrow_array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
    types::{Float32Type, Int32Type},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::metadata::TensorMetadata;

/// A row: when, id, place, route, status; `x` in two columns, `y` as a list with its dimensions and its digest.
#[derive(Clone)]
struct Line {
    ts: i64,
    id: &'static str,
    row: i32,
    route: &'static str,
    status: i32,
    p: f64,
    x: Option<[f32; 2]>,
    y: Option<(Vec<f32>, Vec<i32>)>,
    digest: Option<&'static str>,
}

fn line(ts: i64, id: &'static str, row: i32, x: f32) -> Line {
    Line {
        ts,
        id,
        row,
        route: "primary",
        status: 200,
        p: 1.0,
        x: Some([x, -x]),
        y: Some((vec![x, x + 1.0], vec![2])),
        digest: None,
    }
}

fn roles() -> Vec<Value> {
    let meta = ["ts", "request_id", "row", "route", "status", "sample_p"];
    let mut roles: Vec<Value> =
        meta.iter().map(|name| json!({"name": name, "role": "meta"})).collect();
    for at in 0..2 {
        roles.push(json!({"name": format!("in_x{at}"), "role": "feature", "tensor": "x",
            "index": at, "datatype": "FP32", "part": "value"}));
    }
    for (name, part) in [("in_y", "value"), ("in_y_shape", "shape"), ("in_y_sha256", "sha256")] {
        roles.push(json!({"name": name, "role": "feature", "tensor": "y", "datatype": "FP32", "part": part}));
    }
    roles
}

fn footer(layout: &str, columns: Vec<Value>) -> String {
    json!({"format": 1, "model": "m", "version": "1", "layout": layout, "columns": columns})
        .to_string()
}

fn batch(lines: &[Line]) -> RecordBatch {
    let x = |at: usize| -> ArrayRef {
        Arc::new(lines.iter().map(|l| l.x.map(|x| x[at])).collect::<Float32Array>())
    };
    let values = lines.iter().map(|l| l.y.as_ref().map(|y| y.0.iter().copied().map(Some)));
    let dims = lines.iter().map(|l| l.y.as_ref().map(|y| y.1.iter().copied().map(Some)));
    let times: TimestampMicrosecondArray = lines.iter().map(|l| Some(l.ts)).collect();
    let texts = |of: fn(&Line) -> Option<&'static str>| -> ArrayRef {
        Arc::new(lines.iter().map(of).collect::<StringArray>())
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ts", Arc::new(times.with_timezone("UTC"))),
        ("request_id", texts(|l| Some(l.id))),
        ("row", Arc::new(lines.iter().map(|l| Some(l.row)).collect::<Int32Array>())),
        ("route", texts(|l| Some(l.route))),
        ("status", Arc::new(lines.iter().map(|l| Some(l.status)).collect::<Int32Array>())),
        ("sample_p", Arc::new(lines.iter().map(|l| Some(l.p)).collect::<Float64Array>())),
        ("in_x0", x(0)),
        ("in_x1", x(1)),
        ("in_y", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(values))),
        ("in_y_shape", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(dims))),
        ("in_y_sha256", texts(|l| l.digest)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn bytes(rows: &RecordBatch, footer: Option<&str>) -> Vec<u8> {
    let pairs = footer.map(|text| vec![KeyValue::new(footer::KEY.to_owned(), text.to_owned())]);
    let properties = WriterProperties::builder().set_key_value_metadata(pairs).build();
    let mut written = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut written, rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    written
}

struct Log(TempDir);

impl Log {
    fn of(files: &[&[Line]]) -> Log {
        let log = Log(tempfile::tempdir().unwrap());
        for (at, lines) in files.iter().enumerate() {
            log.put(
                &format!("{at}.parquet"),
                &bytes(&batch(lines), Some(&footer("table", roles()))),
            );
        }
        log
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self, more: impl FnOnce(&mut LogSource)) -> Result<(Vec<Value>, Replayed), String> {
        let mut source =
            LogSource { paths: vec![self.0.path().to_owned()], ..LogSource::default() };
        more(&mut source);
        // What would be sent, as JSON in place of a request.
        let encode = |tensors: &[Tensor], id: Option<&str>| {
            let of =
                |t: &Tensor| Ok((t.name.clone(), json!({"shape": t.shape, "data": t.json()?})));
            let inputs: Result<serde_json::Map<String, Value>, String> =
                tensors.iter().map(of).collect();
            Ok(Wire::Http(json!([id, inputs?]).to_string().into_bytes().into()))
        };
        let (asked, told) = super::read(&source, &Entry::of("m"), &model(), &encode)?;
        let sent = |asked: &Asked| {
            let Wire::Http(bytes) = &asked.wire else { panic!("not HTTP") };
            serde_json::from_slice(bytes).unwrap()
        };
        Ok((asked.iter().map(sent).collect(), told))
    }
}

fn model() -> ModelMetadata {
    let tensor = |name: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
    };
    ModelMetadata {
        name: "m".to_owned(),
        versions: Vec::new(),
        platform: String::new(),
        inputs: vec![tensor("x", &[-1, 2]), tensor("y", &[-1, -1])],
        outputs: vec![tensor("z", &[-1])],
    }
}

fn ids(sent: &[Value]) -> Vec<&str> {
    sent.iter().map(|request| request[0].as_str().unwrap()).collect()
}

fn reasons(told: &Replayed) -> Vec<(&str, u64)> {
    told.left_out.iter().map(|(why, n)| (&**why, *n)).collect()
}

/// Rows of a request go together, whatever else came at the same time; files are put in order by time; NaN stays.
#[test]
fn requests_are_what_was_asked_in_its_order() {
    let log = Log::of(&[
        &[
            line(5, "b", 0, 1.0),
            line(5, "c", 0, f32::NAN),
            line(5, "b", 1, 2.0),
            line(9, "d", 0, 4.0),
        ],
        // One id, twice at one moment.
        &[line(1, "a", 0, 0.5), line(7, "e", 0, 7.0), line(7, "e", 1, 8.0), line(7, "e", 0, 9.0)],
    ]);
    let (sent, told) = log.read(|_| {}).unwrap();
    assert_eq!(ids(&sent), ["a", "b", "c", "e", "e", "d"]);
    assert_eq!(
        sent[1][1],
        json!({"x": {"shape": [2, 2], "data": [1.0, -1.0, 2.0, -2.0]},
            "y": {"shape": [2, 2], "data": [1.0, 2.0, 2.0, 3.0]}})
    );
    assert_eq!(sent[2][1]["x"]["data"], json!(["NaN", "NaN"]));
    assert_eq!(sent[4][1]["x"], json!({"shape": [1, 2], "data": [9.0, -9.0]}));
    let counted = (told.files, told.requests, told.instances);
    assert_eq!((counted, told.first, told.last), ((2, 6, 8), Some(Moment(1)), Some(Moment(9))));
    assert_eq!((reasons(&told), told.sampled), (vec![], None));
    // Some of it.
    let between = |source: &mut LogSource| {
        (source.from, source.until) = (Some(Moment(5)), Some(Moment(9)));
    };
    assert_eq!(ids(&log.read(between).unwrap().0), ["b", "c", "e", "e"]);
    let none = log.read(|source| source.version = Some("2".into())).unwrap_err();
    assert_eq!(none, "the log has no requests of the model 'm' in this time");
}

#[test]
fn what_cannot_be_sent_as_it_was_is_counted_and_said() {
    let log = Log::of(&[&[
        Line { route: "shadow", ..line(1, "a", 0, 1.0) },
        Line { route: "replay", ..line(2, "b", 0, 1.0) },
        line(3, "c", 0, 1.0),
        line(3, "c", 2, 1.0),
        Line { status: 400, x: None, y: None, ..line(4, "d", 0, 1.0) },
        Line { y: None, digest: Some("ab"), ..line(5, "e", 0, 1.0) },
        Line { y: Some((vec![1.0], vec![2])), ..line(6, "f", 0, 1.0) },
        line(7, "g", 0, 1.0),
        Line { y: Some((vec![1.0], vec![1])), ..line(7, "g", 1, 1.0) },
        // Primary and fallback are one request; a fallback alone is one too.
        Line { status: 503, p: 0.5, ..line(8, "h", 0, 1.0) },
        Line { route: "fallback", ..line(8, "h", 0, 1.0) },
        Line { route: "fallback", p: 0.25, ..line(9, "i", 0, 1.0) },
        // An input that is optional, and was not given.
        Line { y: None, ..line(10, "j", 0, 1.0) },
        Line { status: 500, y: None, ..line(11, "k", 0, 1.0) },
    ]]);
    let (sent, told) = log.read(|_| {}).unwrap();
    assert_eq!(ids(&sent), ["h", "i", "j"]);
    assert_eq!(sent[2][1].as_object().unwrap().keys().collect::<Vec<_>>(), ["x"]);
    assert_eq!(
        reasons(&told),
        [
            ("input 'y' has 1 elements, and the shape [2]", 1),
            ("input 'y' has rows of different shapes", 1),
            ("input 'y' was not logged, or not sent", 1),
            (
                "input 'y' was too large for the log, which has its digest alone (max_inline_bytes)",
                1
            ),
            ("it failed before its inputs were read (status 400)", 1),
            ("it is the copy of another one, for a shadow", 1),
            ("it is the fallback of another one", 1),
            ("it was a replay itself", 1),
            ("some of its rows are missing", 1),
        ]
    );
    let sampled = told.sampled.unwrap();
    assert_eq!((sampled.requests, sampled.least_p, sampled.stand_for), (2, 0.25, 7.0));
    let lines = told.lines();
    assert_eq!(lines.len(), 1 + 9 + 1, "{lines:?}");
    assert!(lines[10].contains("probability of 0.25"), "{lines:?}");
}

#[test]
fn what_was_changed_or_left_out_of_the_log_is_never_guessed() {
    let rows = batch(&[line(1, "a", 0, 1.0)]);
    let with = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut roles = roles();
        change(&mut roles);
        let log = Log(tempfile::tempdir().unwrap());
        log.put("part.parquet", &bytes(&rows, Some(&footer("table", roles))));
        log.read(|_| {})
    };
    for (change, why) in [
        (
            &(|roles: &mut Vec<Value>| roles[6]["redaction"] = "round".into())
                as &dyn Fn(&mut Vec<Value>),
            "1: input 'x' was redacted before it was logged (in_x0: round)",
        ),
        (&|roles| drop(roles.remove(6)), "1: input 'x' was not logged whole"),
        (&|roles| drop(roles.drain(6..8)), "1: input 'x' is not in the log"),
        (&|roles| drop(roles.remove(8)), "input 'y' was too large"),
        (&|roles| roles[6]["datatype"] = "FP64".into(), "was FP64 when it was logged, and is FP32"),
    ] {
        let error = with(change).unwrap_err();
        assert!(error.starts_with("no request of the log's can be sent again"), "{error}");
        assert!(error.contains(why), "{error}");
    }
    // An id that was hashed is none.
    let (sent, _) = with(&|roles| roles[1]["redaction"] = "hash".into()).unwrap();
    assert_eq!(sent[0][0], Value::Null);
}

/// A row is a request, with dimensions of its own.
#[test]
fn rows_of_tensors_are_requests() {
    let mut first = line(3, "a", 0, 1.0);
    first.y = Some((vec![1.0, 2.0, 3.0], vec![3, 1]));
    let mut columns = roles();
    columns.remove(7);
    let log = Log(tempfile::tempdir().unwrap());
    log.put("part.parquet", &bytes(&batch(&[first]), Some(&footer("tensor", columns))));
    let source = LogSource { paths: vec![log.0.path().to_owned()], ..LogSource::default() };
    let mut model = model();
    model.inputs[0].shape = vec![1];
    let encode = |tensors: &[Tensor], _: Option<&str>| {
        assert_eq!((&*tensors[0].shape, &*tensors[1].shape), (&[1][..], &[3, 1][..]));
        Ok(Wire::Http(Arc::from(&b""[..])))
    };
    let (asked, told) = super::read(&source, &Entry::of("m"), &model, &encode).unwrap();
    assert_eq!((asked.len(), told.instances), (1, 1));
}

#[test]
fn files_that_are_none_of_a_log_are_named() {
    let log = Log(tempfile::tempdir().unwrap());
    let rows = batch(&[line(1, "a", 0, 1.0)]);
    let no_times = rows.project(&[1, 2, 3, 4, 5]).unwrap();
    let mut wrong_roles = roles();
    wrong_roles[6]["name"] = "in_y".into();
    for (text, why) in [
        (bytes(&rows, None), "its footer has no serving.log.schema"),
        (bytes(&rows, Some("{}")), "serving.log.schema in its footer: missing field"),
        (bytes(&no_times, Some(&footer("table", roles()))), "it has no column ts"),
        (
            bytes(&rows, Some(&footer("table", wrong_roles))),
            "expected Float32 for an input of FP32",
        ),
        (b"PAR1".to_vec(), "it is no Parquet file that can be read"),
        (Vec::new(), "it is no Parquet file that can be read"),
    ] {
        log.put("part.parquet", &text);
        let error = log.read(|_| {}).unwrap_err();
        assert!(error.contains("part.parquet: ") && error.contains(why), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happened to a file, it is read or refused.
    #[test]
    fn a_damaged_file_is_no_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>()) {
        let lines: Vec<Line> = (0..40).map(|n| line(n, "a", 0, n as f32)).collect();
        let mut text = bytes(&batch(&lines), Some(&footer("table", roles())));
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = to }
        let log = Log(tempfile::tempdir().unwrap());
        log.put("part.parquet", &text);
        let _ = log.read(|_| {});
    }
}
