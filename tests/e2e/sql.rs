//! `onnxd log sql` over what the real server wrote: the same answers as DuckDB gives of the same files, and nothing but answers.

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::support::{
    files::{Home, root, script, succeed, target},
    http::{self, Http, infer},
    server::{Ended, Server, run_to_end},
};

/// `onnxd`, with what it hands the command over to beside it.
fn onnxd() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_onnxd"));
    let there = own.with_file_name("onnxd-offline").is_file();
    assert!(there, "onnxd-offline is not built beside onnxd: build with --workspace");
    own
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

/// Rows of three models with columns of their own, failures among them, and labels with corrections; one of a key that has no row.
fn logged() -> Home {
    let home = Home::of(&["versioned", "identity_fp32", "mixed"]);
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_DEFAULTS_LOG_ENABLED", "true").env("ONNXD_DEFAULTS_LOG_TEXT", "true");
    let server = Server::launch(&mut command);
    let ask = |model: &str, id: &str, mut body: Value, status: u16| {
        body["id"] = id.into();
        assert_eq!(infer(&server.http, model, "", &body).status, status, "{id}");
    };
    for n in 0..20 {
        let mut body = http::four(f64::from(n));
        body["parameters"] = json!({"label_key": format!("order-{n}")});
        ask("versioned", &format!("v{n:02}"), body, 200);
    }
    ask("versioned", "wrong", http::inputs(&[("X", "FP32", &[1, 1], json!([1]))]), 400);
    let values = json!([1.5, "NaN", "Infinity", -0.25]);
    ask("identity_fp32", "i0", http::inputs(&[("INPUT0", "FP32", &[1, 4], values)]), 200);
    ask("identity_fp32", "i1", http::inputs(&[("INPUT0", "FP32", &[1, 2], json!([2, 3]))]), 200);
    let rows = http::inputs(&[
        ("features", "FP32", &[2, 3], json!([1, 2, 3, 4, 5, 6])),
        ("weight", "FP64", &[2], json!([0.5, 2])),
        ("name", "BYTES", &[2, 1], json!(["x, \"y\"", "\u{1f600}"])),
    ]);
    ask("mixed", "m", rows, 200);
    let label = |model: &str, body: &str| {
        let path = format!("/admin/v1/models/{model}/labels?source=crm");
        let head = "content-type: text/csv\r\n";
        let answer = Http::connect(&server.operator).ask("POST", &path, head, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    };
    let first: String = (0..15).map(|n| format!("order-{n},{},0,false\n", n % 2)).collect();
    label("versioned", &format!("label_key,label,revision,deleted\n{first}nobody,1,0,false\n"));
    // A correction, one that is older than what is known, and one that is taken back.
    label("versioned", "label_key,label,revision,deleted\norder-1,7,2,false\norder-2,,1,true\n");
    label("versioned", "label_key,label,revision,deleted\norder-1,8,1,false\n");
    label("mixed", "label_key,label\nm:1,late\n");
    server.stop();
    home
}

#[test]
fn it_answers_as_duckdb_does() {
    let onnxd = onnxd();
    script("setup-tests.sh");
    let home = logged();
    let mut python = Command::new(target().join("venv-readers/bin/python"));
    python.arg(root().join("tests/readers/sql.py")).arg(onnxd).arg(log_of(&home));
    println!("{}", succeed(&mut python, "sql.py"));
}

#[test]
fn it_answers_and_changes_nothing() {
    let onnxd = onnxd();
    let home = logged();
    let sql = |args: &[&str]| -> Ended {
        let mut command = Command::new(&onnxd);
        command.args(["log", "sql"]).args(args).arg("--dir").arg(log_of(&home));
        run_to_end(command.current_dir(home.path()))
    };
    let refused = |args: &[&str], code: i32, complaint: &str| {
        let ended = sql(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{args:?}");
        assert!(ended.stderr.contains(complaint), "{args:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(!ended.stderr.contains("order-1"), "a key is in an error: {}", ended.stderr);
    };
    let out = home.path().join("out.csv");
    let out = out.to_str().expect("UTF-8");
    let count =
        "select count(*) as n, count(label) as labelled from labelled where model = 'versioned'";
    let shown = sql(&[count]);
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(0), "n   labelled\n21  14\n"));
    assert_eq!(shown.stderr, "onnxd: 15 of 24 answered rows have a label (coverage 0.625)\n");
    assert_eq!(sql(&[count, "--form", "csv", "--out", out]).code, Some(0));
    assert_eq!(fs::read_to_string(out).expect("written"), "n,labelled\n21,14\n");
    refused(&["copy (select 1) to 'x.parquet'"], 2, "COPY is refused: what reads is answered");
    refused(&["insert into log select * from log"], 2, "INSERT is refused");
    refused(&["create external table t stored as csv location 'out.csv'"], 2, "CREATE is refused");
    refused(&["set datafusion.execution.batch_size = 1"], 2, "SET is refused");
    // Other files are no tables.
    refused(&[&format!("select * from '{out}'")], 2, "there are log (the rows), labels");
    refused(&["select 1 +"], 2, "this is no SQL: ");
    refused(
        &["select model,\n  nosuch from log"],
        2,
        "line 2, column 3: there is no column nosuch: there are ",
    );
    refused(&["select * from rows"], 2, "there is no table rows: there are log");
    refused(&["select nosuch(1)"], 2, "nosuch");
    refused(
        &["select cast(label_key as int) from log where label_key like 'order%'"],
        1,
        "try_cast",
    );
    refused(&["select 1 from log", "--model", "none"], 4, "no row of the log is asked for");
    refused(&["select 1", "--form", "parquet"], 2, "--out");
    let names: Vec<_> = fs::read_dir(home.path()).expect("listed").flatten().collect();
    assert!(!names.iter().any(|entry| entry.file_name().to_string_lossy().contains("parquet")));
}
