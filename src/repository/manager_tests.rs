//! The manager over real files and a runtime that does as the model's metadata says.

use std::{fs, path::Path, sync::atomic::Ordering::SeqCst};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    batcher::options::Mode,
    repository::{
        banner::{banner, on_one_line, summary},
        check::check,
        config::ModelConfig,
        entry::{Entry, Remedy},
        fake::{
            Fake, SOON, ask, backends, current, deps, graph, model, options, put, running, started,
            until,
        },
        options::{Defaults, Load, Readiness},
        table::Version,
    },
    types::{datatype::Datatype, error::Code},
};

#[test]
fn the_newest_version_serves_and_the_others_say_why_not() {
    let dir = TempDir::new().unwrap();
    for version in ["1", "2", "10"] {
        put(dir.path(), &format!("iris/{version}/model.onnx"), &model(""));
    }
    let (manager, _) = started(&options(dir.path()));
    assert!(*manager.ready.borrow());
    assert_eq!(current(&manager, "iris"), Ok(10));
    let table = manager.table.load();
    let error = table.resolve("iris", "2").err().unwrap().to_string();
    assert!(error.contains("versions: latest"), "{error}");
    assert!(table.resolve("iris", "3").err().unwrap().to_string().contains("no version '3'"));
    let version = table.resolve("iris", "10").unwrap();
    assert_eq!((version.platform, version.backend), ("tract_onnx", "tract"));
    assert!(version.signature.can_batch);
    for (key, value) in [("backend", json!("tract")), ("version", json!(10))] {
        assert_eq!(version.explanation[key], value);
    }
    assert_eq!(version.explanation["sha256"].as_str().unwrap().len(), 64);
    assert!(version.explanation["mode_reason"].as_str().is_some());
    assert!(version.explanation["backend_reason"].as_str().unwrap().contains("no ONNX Runtime"));
    assert!(!version.explanation["probe"]["table"].as_array().unwrap().is_empty());
}

#[test]
fn a_broken_newest_version_is_reported_and_the_one_before_serves() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    put(dir.path(), "iris/2/model.onnx", &model("refuse"));
    put(dir.path(), "iris/3/model.onnx", b"no onnx at all");
    put(dir.path(), "iris/4/model.onnx", &model("panic"));
    put(dir.path(), "iris/5/model.onnx", b"");
    fs::create_dir_all(dir.path().join("iris/6")).unwrap();
    let (manager, _) = started(&options(dir.path()));
    assert_eq!(current(&manager, "iris"), Ok(1));
    assert!(*manager.ready.borrow());
    let line = &summary(&manager.table.load())[0];
    assert_eq!((line.current, &line.serving[..]), (Some(1), &[1][..]));
    let failed: Vec<(u64, &str)> = line.failed.iter().map(|(n, w)| (*n, w.as_str())).collect();
    let numbers: Vec<u64> = failed.iter().map(|(n, _)| *n).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 6]);
    let reasons = ["no operator Frobnicate", "iris/3/model.onnx: the file is not an ONNX model"];
    assert!(failed[0].1.contains(reasons[0]), "{failed:?}");
    assert!(failed[1].1.starts_with(reasons[1]), "{failed:?}");
    assert!(failed[2].1.contains("the fake panics"), "{failed:?}");
    assert_eq!(failed[3].1, "iris/5/model.onnx: the file is empty");
    assert_eq!(failed[4].1, "iris/6/model.onnx: the file does not exist");
    for (_, why) in failed {
        assert!(!why.contains(&*dir.path().to_string_lossy()), "a path of the machine: {why}");
    }
}

#[test]
fn the_banner_is_a_table_that_says_everything_once() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "a-long-name/1/model.onnx", &model(""));
    put(dir.path(), "a-long-name/2/model.onnx", &model(""));
    put(dir.path(), "a-long-name/3/model.onnx", &model("refuse"));
    let yaml = b"versions: {latest: 2}\nbatching: {mode: single}\n";
    put(dir.path(), "a-long-name/model.yaml", yaml);
    put(dir.path(), "bad/1/model.onnx", b"");
    let (manager, _) = started(&options(dir.path()));
    let banner = banner(&manager.table.load(), Path::new("models"));
    let expected = "\
serving 1 of 2 models in models
   model        versions  runtime  mode    why
 + a-long-name  1,2       tract    single  as set
                                           version 3 cannot serve: a-long-name/3/model.onnx: no operator";
    assert!(banner.starts_with(expected), "{banner}");
    let bad = "\n - bad          -         -        -       bad/1/model.onnx: the file is empty";
    assert!(banner.ends_with(bad), "{banner}");
    assert_eq!(on_one_line("a\nb\u{1b}[2J\n"), "a b [2J");
}

#[test]
fn one_broken_model_leaves_the_rest_serving_and_strict_readiness_waits_for_it() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "good/1/model.onnx", &model(""));
    put(dir.path(), "bad/1/model.onnx", b"\xff\xff");
    put(dir.path(), "typo/1/model.onnx", &model(""));
    put(dir.path(), "typo/model.yaml", b"versions: all\nbackand: ort\n");
    let (strict, _) = started(&options(dir.path()));
    assert_eq!(current(&strict, "good"), Ok(1));
    assert!(!*strict.ready.borrow());
    let error = current(&strict, "typo").unwrap_err();
    assert!(error.contains("typo/model.yaml, line 2: unknown key 'backand'"), "{error}");
    assert!(strict.table.load().resolve("typo", "1").is_err());
    let lenient = Options { readiness: Readiness::Lenient, ..options(dir.path()) };
    assert!(*started(&lenient).0.ready.borrow());
    let chosen = Options { load: Load::Names(vec!["good".into()]), ..options(dir.path()) };
    let (chosen, _) = started(&chosen);
    assert!(*chosen.ready.borrow(), "what is not wanted is not waited for");
    assert_eq!(chosen.table.load().models.len(), 3);
    assert!(current(&chosen, "bad").unwrap_err().contains("not loaded"));
}

#[test]
fn everything_is_published_as_loading_at_once() {
    let dir = TempDir::new().unwrap();
    for n in 0..50 {
        put(dir.path(), &format!("m{n}/1/model.onnx"), &model(""));
    }
    let fake = Arc::new(Fake::default());
    let manager = Manager::start(&options(dir.path()), deps(&fake)).unwrap();
    assert_eq!(manager.table.load().models.len(), 50);
    let loading = manager.table.load().models.values().filter(|m| m.current.is_none()).count();
    assert!(loading > 0 && !*manager.ready.borrow());
    assert!(manager.wait_initial(SOON));
    assert!(*manager.ready.borrow());
    assert!(manager.table.load().models.values().all(|m| m.current.is_some()));
    assert_eq!(fake.most_at_once.load(SeqCst), 1, "one loader on two cores");
}

#[test]
fn policies_and_defaults_reach_the_versions() {
    let dir = TempDir::new().unwrap();
    for version in ["1", "2", "3"] {
        put(dir.path(), &format!("a/{version}/model.onnx"), &model(""));
        put(dir.path(), &format!("b/{version}/model.onnx"), &model(""));
        put(dir.path(), &format!("c/{version}/model.onnx"), &model(""));
        put(dir.path(), &format!("d/{version}/model.onnx"), &model(""));
    }
    put(dir.path(), "a/model.yaml", b"versions: all\ndefault_timeout_ms: 5\nwarmup: false\n");
    put(dir.path(), "b/model.yaml", b"versions: {latest: 2}\nbatching: {mode: single}\n");
    put(dir.path(), "c/model.yaml", b"versions: [1, 2, 7]\n");
    put(dir.path(), "d/model.yaml", b"versions: [7]\n");
    let mut defaults = Defaults { default_timeout_ms: 250, ..Defaults::default() };
    defaults.batching.max_batch_size = 12;
    let (manager, _) = started(&Options { defaults, ..options(dir.path()) });
    let table = manager.table.load();
    let serving: Vec<Vec<u64>> = summary(&table).into_iter().map(|l| l.serving).collect();
    assert_eq!(serving, [vec![1, 2, 3], vec![2, 3], vec![1, 2], vec![]]);
    assert!(current(&manager, "d").unwrap_err().contains("none of its 'versions: [7]' is on disk"));
    let a = table.resolve("a", "").unwrap();
    let b = table.resolve("b", "").unwrap();
    assert_eq!(a.default_timeout, Some(Duration::from_millis(5)));
    assert_eq!(b.default_timeout, Some(Duration::from_millis(250)));
    assert_eq!(a.explanation["probe"], serde_json::Value::Null);
    assert_eq!(b.explanation["mode"], "single");
    assert_eq!(b.explanation["options"]["batching"]["max_batch_size"], 12);
    assert!(!b.served.in_turn());
}

#[test]
fn a_start_that_cannot_work_ends_with_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let fail = |options: Options| {
        let fake = Arc::new(Fake::default());
        Manager::start(&options, deps(&fake)).err().unwrap()
    };
    let error = fail(Options { models: dir.path().join("nowhere"), ..Options::default() });
    assert!(error.ends_with("nowhere' does not exist"), "{error}");
    let error = fail(Options { load: Load::Names(vec!["irs".into()]), ..options(dir.path()) });
    assert!(error.contains("'irs'") && error.contains("which has iris"), "{error}");
    let mut broken = options(dir.path());
    broken.defaults.batching.max_batch_size = 0;
    assert!(fail(broken).contains("defaults: batching.max_batch_size"));
}

#[test]
fn closing_empties_the_table_and_ends_the_threads() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    let table = manager.table.clone();
    assert!(manager.close(SOON));
    assert!(table.load().models.is_empty());
}

#[test]
fn what_a_runtime_did_otherwise_is_explained() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "plain/1/model.onnx", &model(""));
    put(dir.path(), "warned/1/model.onnx", &model("warn"));
    put(dir.path(), "overridden/1/model.onnx", &model("warn"));
    put(dir.path(), "overridden/model.yaml", b"labels: {y: [a, b, c]}");
    let (manager, _) = started(&options(dir.path()));
    let warnings = |name: &str| {
        let version = manager.table.load().resolve(name, "").unwrap();
        version.explanation["warnings"].clone()
    };
    assert_eq!(warnings("plain"), json!([]));
    assert_eq!(warnings("warned"), json!(["length fixed to 7"]));
    assert_eq!(warnings("overridden"), json!(["length fixed to 7"]));
}

#[test]
fn external_data_is_part_of_the_digest_and_held_to_its_folder() {
    let dir = TempDir::new().unwrap();
    let with =
        |location: &str| graph().init_external("w", Datatype::Fp32, &[2], location, 0..8).model();
    put(dir.path(), "a/1/model.onnx", &with("weights.bin"));
    put(dir.path(), "a/1/weights.bin", &[0; 8]);
    put(dir.path(), "b/1/model.onnx", &with("weights.bin"));
    put(dir.path(), "b/1/weights.bin", &[1; 8]);
    put(dir.path(), "c/1/model.onnx", &with("../../a/1/weights.bin"));
    let (manager, _) = started(&options(dir.path()));
    let digest = |name: &str| {
        let version = manager.table.load().resolve(name, "").unwrap();
        version.explanation["sha256"].as_str().unwrap().to_string()
    };
    assert_ne!(digest("a"), digest("b"));
    assert!(current(&manager, "c").unwrap_err().contains("'..'"));
}

#[test]
fn check_says_what_a_server_would_make_of_it() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    put(dir.path(), "iris/2/model.onnx", &model("refuse"));
    put(dir.path(), "plain/readme.txt", b"");
    let fake = Arc::new(Fake::default());
    let verdict = check(&options(dir.path()), &backends(&fake)).unwrap();
    let seen: Vec<(&str, Option<u64>, bool)> =
        verdict.versions.iter().map(|c| (&*c.model, c.version, c.outcome.is_ok())).collect();
    assert_eq!(seen, [("iris", Some(2), false), ("iris", Some(1), true), ("plain", None, false)]);
    assert!(!verdict.ready);
    fs::remove_dir_all(dir.path().join("plain")).unwrap();
    assert!(check(&options(dir.path()), &backends(&fake)).unwrap().ready);
}

#[test]
fn the_configuration_leaves_the_batch_axis_out() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    put(dir.path(), "fixed/1/model.onnx", &model(""));
    put(dir.path(), "fixed/model.yaml", b"batch_axis: none\nlabels: {y: [a, b, c]}\nversions: all");
    let (manager, _) = started(&options(dir.path()));
    let config = |name: &str| {
        let version = manager.table.load().resolve(name, "").unwrap();
        serde_json::to_value(ModelConfig::of(&version)).unwrap()
    };
    let iris = config("iris");
    assert_eq!(iris["name"], "iris");
    assert_eq!(iris["max_batch_size"], 64);
    assert_eq!(iris["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(iris["input"][0]["dims"], json!([4]));
    assert_eq!(iris["output"][0]["dims"], json!([3]));
    assert_eq!(iris["version_policy"], json!({"latest": {"num_versions": 1}}));
    assert_eq!(iris["model_transaction_policy"]["decoupled"], false);
    assert!(iris["dynamic_batching"].is_object());
    let fixed = config("fixed");
    assert_eq!(fixed["max_batch_size"], 0);
    assert_eq!(fixed["input"][0]["dims"], json!([-1, 4]));
    assert_eq!(fixed["version_policy"], json!({"all": {}}));
    assert!(fixed.get("dynamic_batching").is_none());
    let version = manager.table.load().resolve("fixed", "").unwrap();
    assert_eq!(version.signature.outputs[0].labels.as_ref().unwrap().len(), 3);
}

#[test]
fn overrides_that_do_not_fit_the_graph_are_refused() {
    let dir = TempDir::new().unwrap();
    for (name, yaml) in [
        ("a", "labels: {z: [a]}"),
        ("b", "labels: {y: [a]}"),
        ("c", "backend: ort"),
        ("d", "batch_axis: first"),
    ] {
        put(dir.path(), &format!("{name}/1/model.onnx"), &model(""));
        put(dir.path(), &format!("{name}/model.yaml"), yaml.as_bytes());
    }
    let (manager, _) = started(&options(dir.path()));
    let why = |name: &str| current(&manager, name).unwrap_err();
    assert!(why("a").contains("there is no output 'z', the model has y"), "{}", why("a"));
    assert!(why("b").contains("'y' has 3 classes, the list 1"), "{}", why("b"));
    assert!(why("c").contains("backend ort is set, but ONNX Runtime could not be loaded"));
    assert!(!why("c").contains("here"), "where it was looked for is for the log: {}", why("c"));
    assert_eq!(current(&manager, "d"), Ok(1));
}

#[test]
fn a_version_is_opened_again_after_a_panic_and_fails_at_the_third() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    put(dir.path(), "iris/2/model.onnx", &model("poison"));
    let mut options = options(dir.path());
    // Elsewhere than in the turn, for it would be opened again for more sessions as well.
    options.defaults.batching.mode = Mode::Batch;
    let (manager, fake, executors) = running(&options);
    let serving = || manager.table.load().resolve("iris", "2").ok();
    for panics in 1..=2 {
        let (before, opened) = (serving().unwrap(), fake.opened.load(SeqCst));
        assert_eq!(ask(&manager, 1.0), Ok(()));
        let error = ask(&manager, 13.0).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(error.to_string().contains("the fake was poisoned"), "{error}");
        until("it is opened again", || serving().is_some_and(|v| !Arc::ptr_eq(&v, &before)));
        assert!(fake.opened.load(SeqCst) > opened, "after panic {panics}");
        let measured = serving().unwrap().explanation["probe"]["measured"].to_string();
        assert!(measured.contains("same files"), "{measured}");
        assert!(*manager.ready.borrow());
    }
    assert!(ask(&manager, 13.0).is_err());
    until("it fails", || serving().is_none());
    let error = manager.table.load().resolve("iris", "2").err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.to_string().contains("3 panics within 60 s"), "{error}");
    until("the one before serves", || current(&manager, "iris") == Ok(1));
    assert_eq!(ask(&manager, 13.0), Ok(()));
    until("readiness", || *manager.ready.borrow());
    let line = &summary(&manager.table.load())[0];
    assert_eq!((line.current, line.failed.len()), (Some(1), 1));
    assert!(manager.close(SOON));
    executors.stop();
}

#[test]
fn a_model_that_lost_its_last_version_takes_the_readiness_along() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model("poison"));
    let (manager, fake, executors) = running(&options(dir.path()));
    assert!(*manager.ready.borrow());
    // The files have changed since: what is there now was never checked, and does not take over.
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let opened = fake.opened.load(SeqCst);
    for _ in 0..3 {
        assert_eq!(ask(&manager, 13.0).unwrap_err().code, Code::Internal);
    }
    until("it fails", || current(&manager, "iris").is_err());
    let error = current(&manager, "iris").unwrap_err();
    assert!(error.contains("version 1: 3 panics within 60 s"), "{error}");
    until("the server is not ready", || !*manager.ready.borrow());
    assert_eq!(fake.opened.load(SeqCst), opened);
    executors.stop();
}

#[test]
fn panics_of_long_ago_do_not_count_and_what_is_late_changes_nothing() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    let version = manager.table.load().resolve("iris", "").unwrap();
    let options = options(dir.path());
    let repository = Arc::new(Repository::scan(&options.models).unwrap());
    let mut entries = entries(&repository, &options).unwrap();
    let entry = entries.get_mut("iris").unwrap();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(matches!(entry.panicked(1, "early", at(0)), Remedy::Nothing), "it does not serve yet");
    let loading = entry.advance(at(0));
    assert!(matches!(entry.panicked(1, "early", at(0)), Remedy::Nothing), "nor now");
    let reopened = |entry: &mut Entry, job: &Job, result: Result<Arc<Version>, String>| {
        entry.finished(job, result.map(Outcome::Opened));
    };
    let [job] = &loading[..] else { panic!("one version") };
    reopened(entry, job, Ok(version.clone()));
    let Remedy::Reopen(job) = entry.panicked(1, "a", at(0)) else { panic!("not opened again") };
    assert_eq!(job.reopens.as_deref(), version.explanation["sha256"].as_str());
    assert!(matches!(entry.panicked(1, "b", at(40)), Remedy::Nothing), "under way already");
    reopened(entry, &job, Err("it cannot be".into()));
    assert!(entry.row().current.is_some(), "what serves stays");
    let Remedy::Reopen(job) = entry.panicked(1, "c", at(61)) else { panic!("not opened again") };
    assert!(matches!(entry.panicked(1, "d", at(62)), Remedy::Failed));
    reopened(entry, &job, Ok(version));
    let row = entry.row();
    assert!(row.current.is_none() && entry.lost());
    assert_eq!(row.versions[&1].reason(), "3 panics within 60 s, the last: d");
}
