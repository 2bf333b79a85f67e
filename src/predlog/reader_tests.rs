//! Tests of reading a log back: filters, columns, exports, checks, and compactions that are killed in between.

use std::{fs, path::Path};

use arrow_array::Float32Array;
use tempfile::TempDir;

use super::{
    compact::{self, journal},
    export::{Ended, Export, Form},
    log_files::{self, NINE, Rows},
    reader::{Filter, Log, LogFile, Opened, rows},
    stat::Summary,
    verify,
};

const HOUR: i64 = super::layout::HOUR_US;

/// Two files of nine o'clock, one of ten, one of another version.
fn log() -> (TempDir, Log) {
    let dir = tempfile::tempdir().expect("a directory");
    log_files::write(dir.path(), "part-n-b-2.parquet", Rows::numbered(100, 100));
    log_files::write(dir.path(), "part-n-b-1.parquet", Rows::numbered(0, 100));
    log_files::write(dir.path(), "part-n-b-3.parquet", Rows::numbered(3600, 10));
    let second = Rows { version: "22", ..Rows::numbered(0, 5) };
    log_files::write(dir.path(), "part-n-b-1.parquet", second);
    let log = Log::open(dir.path()).expect("a log");
    (dir, log)
}

fn first(filter: &Filter) -> Filter {
    Filter { version: Some("1".into()), ..filter.clone() }
}

fn count(log: &Log, filter: &Filter) -> usize {
    let files = log.files(filter).expect("listed");
    files.iter().map(|file| numbers(file, filter, None)).sum()
}

fn numbers(file: &LogFile, filter: &Filter, columns: Option<&[String]>) -> usize {
    rows(file, filter, columns).expect("opened").map(|batch| batch.expect("read").num_rows()).sum()
}

#[test]
fn files_are_found_in_order_and_filtered_by_partition() {
    let (_dir, log) = log();
    let hours = |filter: &Filter| -> Vec<(String, u32)> {
        let files = log.files(filter).expect("listed");
        files.into_iter().map(|f| (f.partition.version, f.partition.hour)).collect()
    };
    let one = |hour| ("1".to_owned(), hour);
    let all = hours(&Filter::default());
    assert_eq!(all, [one(9), one(9), one(10), ("22".to_owned(), 9)]);
    let late = Filter { from: Some(NINE + HOUR), ..Filter::default() };
    assert_eq!(hours(&late), [one(10)]);
    assert_eq!(hours(&Filter { model: Some("no".into()), ..Filter::default() }), []);
}

#[test]
fn rows_are_filtered_by_time_and_conditions() {
    let (_dir, log) = log();
    assert_eq!(count(&log, &Filter::default()), 215);
    let range =
        Filter { from: Some(NINE + 99_500_000), to: Some(NINE + 150_000_000), ..Filter::default() };
    assert_eq!(count(&log, &first(&range)), 50);
    let with = |condition: &str| {
        let conditions = vec![condition.parse().expect("well formed")];
        count(&log, &first(&Filter { conditions, ..Filter::default() }))
    };
    assert_eq!(with("status!=200"), 21);
    assert_eq!(with("in_a="), 4);
    assert_eq!(with("in_b<=-199"), 11);
    assert_eq!(with("nowhere="), 210);
    assert_eq!(with("nowhere=1"), 0);
}

#[test]
fn columns_are_read_as_they_were_written() {
    let (_dir, log) = log();
    let file = &log.files(&Filter::default()).expect("listed")[0];
    let columns = ["in_a".to_owned()];
    let mut n = 0;
    for batch in Opened::at(&file.path).expect("opened").batches(Some(&columns)).expect("read") {
        let batch = batch.expect("whole");
        assert_eq!(batch.num_columns(), 1);
        let column = batch.column(0).as_any().downcast_ref::<Float32Array>().expect("floats");
        for value in column {
            assert_eq!(value, log_files::feature_a(n));
            n += 1;
        }
    }
    assert_eq!(n, 100);
}

#[test]
fn bloom_filters_say_what_is_surely_not_there() {
    let (_dir, log) = log();
    let opened =
        Opened::at(&log.files(&Filter::default()).expect("listed")[0].path).expect("opened");
    assert!(!opened.surely_without("subject_key", "subject-3").expect("read"));
    assert!(opened.surely_without("subject_key", "nobody at all").expect("read"));
    assert!(!opened.surely_without("status", "200").expect("no filter"));
}

fn exported(log: &Log, form: Form, columns: Option<&[String]>, limit: u64) -> (String, Ended) {
    let filter = Filter::default();
    let files = log.files(&filter).expect("listed");
    let path = log.root.join("out");
    let out = fs::File::create(&path).expect("a file");
    let export = Export { files: &files, filter: &filter, columns, form, limit };
    let ended = export.run(out, |_| ()).expect("exported");
    (fs::read_to_string(path).unwrap_or_default(), ended)
}

#[test]
fn rows_are_exported_as_text() {
    let (_dir, log) = log();
    let columns = ["request_id", "ts", "in_a", "out_p", "error_code"].map(str::to_owned);
    let (csv, ended) = exported(&log, Form::Csv, Some(&columns), 10);
    assert_eq!(ended, Ended::Limited);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 11);
    assert_eq!(lines[0], "request_id,ts,in_a,out_p,error_code");
    assert_eq!(lines[2], "r1,2026-01-31T09:00:01.000000Z,0.1,\"[0.25,0.75]\",");
    assert_eq!(lines[10], "r9,2026-01-31T09:00:09.000000Z,0.9,,overloaded");
    let (text, ended) = exported(&log, Form::JsonLines, Some(&columns), u64::MAX);
    assert_eq!((text.lines().count(), ended), (215, Ended::Whole));
    let first = text.lines().next().expect("a line");
    let value: serde_json::Value = serde_json::from_str(first).expect("JSON");
    assert_eq!(value["out_p"], serde_json::json!([0.25, 0.75]));
    assert!(value.get("error_code").is_none());
}

#[test]
fn an_exported_parquet_file_has_every_row_and_the_footer() {
    let (_dir, log) = log();
    let filter = first(&Filter::default());
    let files = log.files(&filter).expect("listed");
    let path = log.root.join("out.parquet");
    let out = fs::File::create(&path).expect("a file");
    let export = Export {
        files: &files,
        filter: &filter,
        columns: None,
        form: Form::Parquet,
        limit: u64::MAX,
    };
    export.run(out, |_| ()).expect("exported");
    let opened = Opened::at(&path).expect("Parquet");
    assert_eq!(opened.rows, 210);
    assert_eq!(opened.roles().expect("a footer").columns.len(), opened.schema.fields().len());
}

#[test]
fn a_column_that_no_file_has_is_named() {
    let (_dir, log) = log();
    let filter = Filter::default();
    let files = log.files(&filter).expect("listed");
    let columns = ["speed".to_owned()];
    let export = Export {
        files: &files,
        filter: &filter,
        columns: Some(&columns),
        form: Form::Csv,
        limit: 1,
    };
    let error = export.run(Vec::new(), |_| ()).expect_err("unknown");
    assert!(error.0.starts_with("no file has the column speed"), "{error}");
}

#[test]
fn a_summary_counts_what_there_is() {
    let (_dir, log) = log();
    let filter = first(&Filter::default());
    let mut summary = Summary::default();
    for file in log.files(&filter).expect("listed") {
        summary.add(&file, &filter, true).expect("read");
    }
    assert_eq!((summary.rows, summary.files), (210, 3));
    assert_eq!(summary.estimated_rows, 420.0);
    assert_eq!(summary.counts["status"]["429"], 21);
    assert_eq!(summary.counts["error_code"]["overloaded"], 21);
    assert_eq!(summary.times["total_us"].count, 189);
    assert_eq!((summary.first, summary.last), (Some(NINE), Some(NINE + 3_609_000_000)));
    let column = &summary.columns["in_a"];
    assert_eq!((column.nulls, column.values, column.min), (4, 206, Some(0.0)));
    assert_eq!(summary.columns["pred_label"].min, None);
}

fn problems(log: &Log) -> Vec<String> {
    let mut found = Vec::new();
    let files = log.files(&Filter::default()).expect("listed");
    for hour in files.chunk_by(|a, b| a.partition == b.partition) {
        let mut seen = verify::Seen::default();
        for file in hour {
            found.extend(verify::file(&log.root, file, &mut seen).expect("there").problems);
        }
    }
    found
}

#[test]
fn a_good_log_holds() {
    let (_dir, log) = log();
    assert_eq!(problems(&log), [""; 0]);
}

#[test]
fn a_row_that_is_there_twice_or_elsewhere_is_found() {
    let (dir, log) = log();
    log_files::write(dir.path(), "part-n-b-4.parquet", Rows::numbered(50, 60));
    let nine = dir.path().join("log/v1/model=churn/version=1/date=2026-01-31/hour=9");
    let eleven = nine.with_file_name("hour=11");
    fs::create_dir_all(&eleven).expect("a directory");
    fs::copy(nine.join("part-n-b-1.parquet"), eleven.join("part-n-b-1.parquet")).expect("copied");
    let wrong = Rows { model: "other", ..Rows::numbered(500, 3) };
    log_files::write_at(&eleven.join("part-n-b-2.parquet"), &log_files::batch(wrong), None);
    let found = problems(&log);
    assert!(found.contains(&"60 rows are there twice (event_id)".to_owned()), "{found:?}");
    assert!(
        found.iter().any(|p| p.starts_with("100 rows were not received in the hour")),
        "{found:?}"
    );
    assert!(found.iter().any(|p| p.starts_with("3 cells name another model")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("its footer has no serving.log.schema")), "{found:?}");
}

#[test]
fn damage_is_found_wherever_it_is() {
    let (dir, log) = log();
    let path =
        dir.path().join("log/v1/model=churn/version=1/date=2026-01-31/hour=9/part-n-b-1.parquet");
    let whole = fs::read(&path).expect("readable");
    for cut in [whole.len() - 1, whole.len() / 2, 3] {
        fs::write(&path, &whole[..cut]).expect("written");
        let found = problems(&log);
        assert_eq!(found.len(), 1, "cut at {cut}: {found:?}");
        assert!(found[0].contains("part-n-b-1.parquet: not a readable Parquet file"), "{found:?}");
    }
}

/// Hour and request ids of every row that readers see.
fn everything(log: &Log) -> Vec<String> {
    let (text, _) = exported(log, Form::JsonLines, None, u64::MAX);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn merges(log: &Log) -> Vec<compact::Merge> {
    compact::plan(log, &Filter::default(), &compact::Options::default(), NINE + 5 * HOUR)
        .expect("planned")
}

#[test]
fn small_files_of_closed_hours_become_one_with_the_same_rows() {
    let (_dir, log) = log();
    let open = compact::plan(&log, &Filter::default(), &compact::Options::default(), NINE + HOUR);
    assert_eq!(open.expect("planned"), []);
    let before = everything(&log);
    let merges = merges(&log);
    assert_eq!(merges.iter().map(|m| (m.inputs.len(), m.rows)).collect::<Vec<_>>(), [(2, 200)]);
    compact::run(&merges[0]).expect("merged");
    assert_eq!(everything(&log), before);
    assert_eq!(problems(&log), [""; 0]);
    assert_eq!(self::merges(&log), []);
    let opened = Opened::at(&merges[0].output).expect("there");
    assert!(opened.surely_without("subject_key", "nobody at all").expect("a bloom filter"));
}

#[test]
fn a_kill_at_any_step_of_a_compaction_loses_and_doubles_nothing() {
    let (_dir, log) = log();
    let before = everything(&log);
    let merge = merges(&log).remove(0);
    let hour = merge.output.parent().expect("an hour").to_owned();
    let keep: Vec<(std::path::PathBuf, Vec<u8>)> = merge
        .inputs
        .iter()
        .map(|input| (input.path.clone(), fs::read(&input.path).expect("there")))
        .collect();
    compact::run(&merge).expect("merged");
    let output = fs::read(&merge.output).expect("there");
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let journal = journal::Journal {
        inputs: merge.inputs.iter().map(|input| name(&input.path)).collect(),
        output: name(&merge.output),
    };
    // The states between the steps: written hidden; journal; named; the first input gone.
    for step in 0..4 {
        for (path, bytes) in &keep {
            fs::write(path, bytes).expect("written");
        }
        fs::remove_file(&merge.output).expect("removed");
        if step >= 1 {
            journal.write(&hour).expect("written");
        }
        match step {
            0 | 1 => fs::write(hour.join(journal.hidden()), &output).expect("written"),
            _ => fs::write(&merge.output, &output).expect("written"),
        }
        if step == 3 {
            fs::remove_file(&keep[0].0).expect("removed");
        }
        assert_eq!(everything(&log), before, "seen at step {step}");
        journal::recover(&hour).expect("recovered");
        assert_eq!(everything(&log), before, "recovered at step {step}");
        assert_eq!(journal::recover(&hour).expect("once more"), 0);
        if step < 2 {
            compact::run(&merge).expect("merged");
        }
    }
}

#[test]
fn one_compaction_at_a_time() {
    let (_dir, log) = log();
    let lock = compact::Lock::take(&log).expect("a lock").expect("free");
    assert!(compact::Lock::take(&log).expect("a lock").is_none());
    drop(lock);
    compact::Lock::wait(&log).expect("free again");
}
