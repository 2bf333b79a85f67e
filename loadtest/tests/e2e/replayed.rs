//! What one server has logged, asked of another: the same requests, with the same inputs, in the same order.

use std::{collections::BTreeMap, fs, path::Path};

use arrow_array::{Array, RecordBatch, cast::AsArray, types};
use onnxd_loadtest::prepare::log::files::{Wanted, find};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rustix::process::Signal;

use crate::support::{
    onnxd::Onnxd,
    run::{Home, read},
};

/// A server that logs into this directory.
fn logging(folder: &Path) -> Option<Onnxd> {
    Onnxd::start_with(|command| {
        command.env("ONNXD_DEFAULTS_LOG_ENABLED", "true").env("ONNXD_PREDICTION_LOG_DIR", folder);
        // The digits are large: they are files of their own.
        command.env("ONNXD_DEFAULTS_LOG_LARGE", "blob");
        command.env("ONNXD_DEFAULTS_LOG_MAX_INLINE_BYTES", "64");
    })
}

/// Ends it, so that its rows are in files.
fn stop(mut server: Onnxd) {
    server.process.signal(Signal::TERM);
    assert!(server.process.end().success());
}

fn ask(server: &Onnxd, id: &str, rows: usize, alcohol: f64) {
    let one =
        format!("{alcohol}, 3.3, 2.28, 18.5, 98, 1.8, 0.83, 0.61, 1.87, 10.52, 0.56, 1.51, 675");
    let data = vec![one; rows].join(", ");
    let body = format!(
        r#"{{"id": "{id}", "inputs": [{{"name": "features", "shape": [{rows}, 13], "datatype": "FP32", "data": [{data}]}}]}}"#
    );
    let answer = server.ask("POST", "/v2/models/wine/infer", &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn text(batch: &RecordBatch, column: &str, at: usize) -> String {
    batch.column_by_name(column).expect("a column").as_string::<i32>().value(at).to_owned()
}

/// A row: whose it is, its place in its request, and every input as it stands there.
type Row = (String, i32, BTreeMap<String, String>);

/// The rows of a model, in the order in which they were received; all of them of this route and status.
fn rows(folder: &Path, model: &str, route: &str) -> Vec<Row> {
    let wanted = Wanted { model: Some(model), ..Wanted::default() };
    let mut rows: Vec<(i64, Row)> = Vec::new();
    for file in find(&[folder.to_owned()], &wanted).expect("a log") {
        let file = fs::File::open(file).expect("it opens");
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build();
        for batch in batches.expect("readable") {
            let batch = batch.expect("rows");
            let number = |name: &str| batch.column_by_name(name).expect("a column").clone();
            let (times, places) = (number("ts"), number("row"));
            let status = number("status");
            for at in 0..batch.num_rows() {
                if status.as_primitive::<types::Int32Type>().value(at) != 200 {
                    continue;
                }
                assert_eq!(text(&batch, "route", at), route);
                let schema = batch.schema();
                // Where a file lies has the hour in it.
                let inputs = schema.fields().iter().map(|field| field.name());
                let inputs =
                    inputs.filter(|name| name.starts_with("in_") && !name.ends_with("_ref"));
                let shown = |name: &str| format!("{:?}", number(name).slice(at, 1));
                let inputs = inputs.map(|name| (name.clone(), shown(name))).collect();
                let ts = times.as_primitive::<types::TimestampMicrosecondType>().value(at);
                let place = places.as_primitive::<types::Int32Type>().value(at);
                rows.push((ts, (text(&batch, "request_id", at), place, inputs)));
            }
        }
    }
    rows.sort_by_key(|(ts, _)| *ts);
    rows.into_iter().map(|(_, row)| row).collect()
}

#[test]
fn a_log_is_asked_again_as_it_was_recorded() {
    let home = Home::new();
    let first = home.file("first");
    let Some(server) = logging(&first) else { return };
    home.write("nan.jsonl", &format!("{{\"features\": [[\"NaN\"{}]]}}\n", ", 1.5".repeat(12)));
    for n in 0..20 {
        ask(&server, &format!("w{n}"), 1 + n % 3, 12.0 + n as f64 / 8.0);
    }
    // An id of a client that has one for everything.
    (0..3).for_each(|n| ask(&server, "same", 2, f64::from(n)));
    let refused = server.ask("POST", "/v2/models/wine/infer", r#"{"id": "bad", "inputs": []}"#);
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    let grpc = format!("run --url grpc://{} --warm-up 0s", server.grpc);
    let nan = format!("{grpc} --model wine --input nan.jsonl --rate 100 --requests 2");
    home.report(0, &nan, &[]);
    home.report(0, &format!("{grpc} --model digits --rows 3 --rate 100 --requests 9"), &[]);
    stop(server);
    let wine = rows(&first, "wine", "primary");
    assert_eq!(wine.iter().filter(|(_, place, _)| *place == 0).count(), 25);
    assert!(wine.iter().any(|(.., inputs)| inputs.values().any(|v| v.contains("NaN"))));
    let digits = rows(&first, "digits", "primary");
    assert!(digits.iter().all(|(.., inputs)| !inputs["in_image_sha256"].contains("null")));

    for (second, to, flags) in [
        // One connection: what is sent in order arrives in order.
        ("second", "grpc", "--connections 1 --speed 1"),
        ("third", "http", "--protocol binary --connections 6 --threads 3 --speed max"),
        ("fourth", "http", "--protocol json --connections 1 --speed 1000"),
    ] {
        let second = home.file(second);
        let server = logging(&second).expect("it was there before");
        let at = if to == "grpc" { &server.grpc } else { &server.http };
        let log = ["--log", first.to_str().expect("UTF-8")];
        let words = format!("run --url {to}://{at} {flags} --timeout 60s");
        let (report, ended) = home.report(0, &words, &log);
        let told: Vec<_> =
            report.replayed.iter().map(|r| (&*r.name, r.requests, r.instances)).collect();
        assert_eq!(told, [("digits", 9, 27), ("wine", 25, wine.len() as u64)]);
        assert_eq!(report.summary.total.good, 34, "{}", ended.stdout);
        let why = "it failed before its inputs were read (status 400)";
        assert_eq!(report.replayed[1].left_out[why], 1, "{:?}", report.replayed);
        for told in ["not sent again, 1: it failed before", "25 requests"] {
            assert!(ended.stdout.contains(told) && ended.stderr.contains(told), "{}", ended.stdout);
        }
        stop(server);
        for model in ["wine", "digits"] {
            let (mut before, mut after) =
                (rows(&first, model, "primary"), rows(&second, model, "replay"));
            if flags.contains("max") {
                before.sort();
                after.sort();
            }
            assert!(before == after, "{model} {flags}:\n{before:?}\n{after:?}");
        }
    }
    // What was a replay is none of the log's requests for the next one.
    let server = Onnxd::start().expect("it was there before");
    let words = format!("run --url grpc://{} --log second --model wine", server.grpc);
    home.fails(
        1,
        &words,
        &[],
        &["no request of the log's can be sent again: 25: it was a replay itself"],
    );
}

/// With the moments of somebody else, and some of the time.
#[test]
fn logged_inputs_come_at_another_rate_too() {
    let home = Home::new();
    let folder = home.file("log");
    let Some(server) = logging(&folder) else { return };
    (0..5).for_each(|n| ask(&server, &format!("w{n}"), 1, f64::from(n)));
    stop(server);
    let Some(server) = Onnxd::start() else { return };
    let log = format!("--log {}", folder.display());
    let at = format!("run --url grpc://{} --model wine {log}", server.grpc);
    let words = format!("{at} --rate 200 --requests 50 --warm-up 0s");
    let (report, _) = home.report(0, &words, &[]);
    assert_eq!((report.summary.total.good, report.replayed[0].requests), (50, 5));
    let scenario = format!(
        "target: {{url: 'grpc://{}'}}\nmix: [{{model: wine, log: {{paths: [log], from: 1h}}}}]\n\
         phases: [{{arrivals: {{recorded: 1000}}, requests: 4}}]\n",
        server.grpc
    );
    home.write("s.yaml", &scenario);
    home.report(0, "run s.yaml", &[]);
    assert_eq!(read(&home.file("report.json")).summary.total.good, 4);
    let none = ["the log has no requests of the model 'wine' in this time"];
    home.fails(1, &format!("{at} --until 2020-01-01"), &[], &none);
    home.fails(1, &format!("{at} --logged-version 9"), &[], &none);
    home.fails(1, &format!("run --url grpc://{} --log s.yaml", server.grpc), &[], &["s.yaml"]);
}
