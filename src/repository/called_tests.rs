//! Calls to load and unload, over real files.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    repository::{
        calls::{Command, Target},
        fake::{ask, current, model, options, put, running, started, until},
        lifecycle_options::LifecycleOptions,
        options::Load,
        table::{State, Version},
    },
    types::error::{Code, Error},
};

fn wait(manager: &Manager, command: Command) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(manager.control.ask(command))
}

fn targets(names: &[(&str, Option<u64>)]) -> Vec<Target> {
    let target = |(model, version): &(&str, Option<u64>)| Target {
        model: (*model).to_owned(),
        version: *version,
    };
    names.iter().map(target).collect()
}

fn load(manager: &Manager, names: &[(&str, Option<u64>)]) -> Result<(), Error> {
    wait(manager, Command::Load(targets(names)))
}

fn unload(manager: &Manager, names: &[(&str, Option<u64>)]) -> Result<(), Error> {
    wait(manager, Command::Unload(targets(names)))
}

fn label(manager: &Manager, model: &str, number: u64) -> String {
    let table = manager.table.load();
    let state = table.model(model).ok().and_then(|m| m.versions.get(&number).cloned());
    state.map_or("none".into(), |s| s.label().to_owned())
}

fn reason(manager: &Manager, model: &str, number: u64) -> String {
    let table = manager.table.load();
    let model = table.model(model).unwrap();
    model.reason(number, &model.versions[&number]).to_owned()
}

#[test]
fn what_is_new_on_disk_is_loaded_by_a_call_and_unloaded_by_one() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    put(dir.path(), "iris/2/model.onnx", &model(""));
    put(dir.path(), "new/1/model.onnx", &model(""));
    assert_eq!(current(&manager, "iris"), Ok(1));
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    assert_eq!(current(&manager, "iris"), Ok(2), "the answer comes when it serves");
    assert_eq!(label(&manager, "iris", 1), "kept");
    assert_eq!(load(&manager, &[("new", None)]), Ok(()));
    assert_eq!(current(&manager, "new"), Ok(1));
    assert_eq!(unload(&manager, &[("iris", None)]), Ok(()));
    let error = manager.table.load().resolve("iris", "").err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    until("both are free", || {
        label(&manager, "iris", 1) == "unloaded" && label(&manager, "iris", 2) == "unloaded"
    });
    assert_eq!(reason(&manager, "iris", 2), "unloaded by a call");
    assert!(*manager.ready.borrow(), "what a call unloaded is not wanted");
    assert_eq!(unload(&manager, &[("iris", None)]), Ok(()), "again");
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    assert_eq!(current(&manager, "iris"), Ok(2));
}

#[test]
fn names_are_checked_first() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    let code = |result: Result<(), Error>| result.unwrap_err().code;
    assert_eq!(code(load(&manager, &[("../iris", None)])), Code::InvalidArgument);
    assert_eq!(code(load(&manager, &[])), Code::InvalidArgument);
    assert_eq!(code(load(&manager, &[("iris", None), ("iris", Some(1))])), Code::InvalidArgument);
    assert_eq!(code(load(&manager, &[("nosuch", None)])), Code::NotFound);
    assert_eq!(code(unload(&manager, &[("nosuch", None)])), Code::NotFound);
    assert_eq!(code(load(&manager, &[("iris", Some(2))])), Code::NotFound);
    assert_eq!(code(unload(&manager, &[("iris", Some(2))])), Code::NotFound);
    assert_eq!(code(wait(&manager, Command::Rescan(vec!["nosuch".into()]))), Code::NotFound);
    assert_eq!(current(&manager, "iris"), Ok(1));
}

#[test]
fn a_refused_version_leaves_the_old_one_serving_and_says_why() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    for bad in [model("refuse"), model("panic"), b"no onnx".to_vec(), vec![]] {
        put(dir.path(), "iris/2/model.onnx", &bad);
        let error = load(&manager, &[("iris", None)]).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(
            error.message.contains("version 2: ") && error.message.ends_with("version 1 serves")
        );
        assert_eq!(current(&manager, "iris"), Ok(1));
        assert_eq!(label(&manager, "iris", 2), "failed");
        assert!(error.message.contains(&reason(&manager, "iris", 2)), "{error}");
        assert!(*manager.ready.borrow());
    }
    // The files of the version that serves: what was loaded of them serves on.
    put(dir.path(), "iris/2/model.onnx", &model(""));
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    put(dir.path(), "iris/2/model.onnx", &model("refuse"));
    for _ in 0..2 {
        let error = load(&manager, &[("iris", None)]).unwrap_err();
        assert!(error.message.contains("no operator Frobnicate"), "{error}");
        assert_eq!((current(&manager, "iris"), &*label(&manager, "iris", 2)), (Ok(2), "ready"));
        assert!(reason(&manager, "iris", 2).contains("no operator Frobnicate"));
    }
    // And its options.
    put(dir.path(), "iris/2/model.onnx", &model(""));
    put(dir.path(), "iris/model.yaml", b"bathing: {}");
    let error = load(&manager, &[("iris", None)]).unwrap_err();
    assert!(error.message.contains("iris/model.yaml, line 1: unknown key 'bathing'"), "{error}");
    assert_eq!(current(&manager, "iris"), Ok(2));
    put(dir.path(), "iris/model.yaml", b"default_timeout_ms: 5");
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    let version = manager.table.load().resolve("iris", "").unwrap();
    assert_eq!(version.default_timeout, Some(Duration::from_millis(5)));
    assert_eq!(reason(&manager, "iris", 2), "");
}

#[test]
fn files_that_did_not_change_are_not_opened_again() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, fake) = started(&options(dir.path()));
    let before = manager.table.load().resolve("iris", "").unwrap();
    let opened = fake.opened.load(SeqCst);
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    // Another file with the same bytes.
    put(dir.path(), "iris/1/copy", &model(""));
    fs::rename(dir.path().join("iris/1/copy"), dir.path().join("iris/1/model.onnx")).unwrap();
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    assert_eq!(fake.opened.load(SeqCst), opened);
    let now = || manager.table.load().resolve("iris", "").unwrap();
    assert!(Arc::ptr_eq(&before, &now()));
    put(dir.path(), "iris/1/model.onnx", &model("warn"));
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    assert!(fake.opened.load(SeqCst) > opened);
    assert_ne!(before.sha256, now().sha256);
}

#[test]
fn a_model_that_was_not_wanted_is_not_when_its_load_is_refused() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model("refuse"));
    let unwanted = Options { load: Load::None, ..options(dir.path()) };
    let (manager, _) = started(&unwanted);
    assert!(load(&manager, &[("iris", None)]).is_err());
    assert!(*manager.ready.borrow());
    assert!(reason(&manager, "iris", 1).contains("Frobnicate"));
    // One that falls back serves the older version, and the call says so.
    put(dir.path(), "iris/2/model.onnx", &model("refuse"));
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let error = load(&manager, &[("iris", None)]).unwrap_err();
    assert!(error.message.ends_with("version 1 serves"), "{error}");
    assert_eq!(current(&manager, "iris"), Ok(1));
}

#[test]
fn single_versions_come_and_go() {
    let dir = TempDir::new().unwrap();
    for version in ["1", "2", "3"] {
        put(dir.path(), &format!("iris/{version}/model.onnx"), &model(""));
    }
    put(dir.path(), "iris/4/model.onnx", &model("refuse"));
    let (manager, _) = started(&options(dir.path()));
    assert_eq!(current(&manager, "iris"), Ok(3));
    assert_eq!(load(&manager, &[("iris", Some(1))]), Ok(()));
    let table = manager.table.load();
    assert!(table.resolve("iris", "1").is_ok() && table.resolve("iris", "3").is_ok());
    assert!(table.resolve("iris", "2").is_err());
    assert_eq!(current(&manager, "iris"), Ok(3));
    assert!(load(&manager, &[("iris", Some(4))]).unwrap_err().message.contains("Frobnicate"));
    assert_eq!(unload(&manager, &[("iris", Some(3))]), Ok(()));
    assert_eq!(current(&manager, "iris"), Ok(1));
    assert_eq!(load(&manager, &[("iris", Some(2))]), Ok(()));
    assert_eq!(current(&manager, "iris"), Ok(2));
    assert_eq!(unload(&manager, &[("iris", Some(2))]), Ok(()));
    assert_eq!(unload(&manager, &[("iris", Some(1))]), Ok(()));
    assert!(current(&manager, "iris").is_err() && *manager.ready.borrow());
    // The directory has its say again.
    assert_eq!(wait(&manager, Command::Rescan(vec!["iris".into()])), Ok(()));
    until("the newest that loads serves", || current(&manager, "iris") == Ok(3));
}

#[test]
fn several_models_change_as_one_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    for name in ["a", "b", "c"] {
        put(dir.path(), &format!("{name}/1/model.onnx"), &model(""));
    }
    let (manager, _) = started(&options(dir.path()));
    let set = [("a", None), ("b", None), ("c", None)];
    let serving = || set.map(|(name, _)| current(&manager, name));
    for name in ["a", "b"] {
        put(dir.path(), &format!("{name}/2/model.onnx"), &model(""));
    }
    put(dir.path(), "c/2/model.onnx", &model("refuse"));
    let error = load(&manager, &set).unwrap_err();
    assert!(error.message.starts_with("none of the models was changed: model 'c': version 2: "));
    assert_eq!(serving(), [Ok(1), Ok(1), Ok(1)]);
    put(dir.path(), "c/model.yaml", b"speed: 1");
    put(dir.path(), "c/2/model.onnx", &model(""));
    let error = load(&manager, &set).unwrap_err();
    assert!(error.message.contains("unknown key 'speed'"), "{error}");
    assert_eq!(serving(), [Ok(1), Ok(1), Ok(1)]);
    fs::remove_file(dir.path().join("c/model.yaml")).unwrap();
    // Whoever looks while it happens sees all of the old or all of the new.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !stop.load(SeqCst) {
                let table = manager.table.load();
                let seen = set.map(|(n, _)| table.resolve(n, "").map(|v| v.number).ok());
                assert!(seen == [Some(1); 3] || seen == [Some(2); 3], "{seen:?}");
            }
        });
        assert_eq!(load(&manager, &set), Ok(()));
        stop.store(true, SeqCst);
        watcher.join().unwrap();
    });
    assert_eq!(serving(), [Ok(2), Ok(2), Ok(2)]);
    assert_eq!(unload(&manager, &set), Ok(()));
    assert!(serving().iter().all(Result::is_err));
}

#[test]
fn a_rescan_takes_up_what_came_and_lets_go_what_went() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "old/1/model.onnx", &model(""));
    put(dir.path(), "held/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    assert_eq!(load(&manager, &[("held", None)]), Ok(()));
    fs::remove_dir_all(dir.path().join("old")).unwrap();
    fs::remove_dir_all(dir.path().join("held")).unwrap();
    put(dir.path(), "new/1/model.onnx", &model(""));
    assert_eq!(wait(&manager, Command::Rescan(vec![])), Ok(()));
    until("the new one serves", || current(&manager, "new") == Ok(1));
    assert_eq!(manager.table.load().resolve("old", "").err().unwrap().code, Code::NotFound);
    assert_eq!(current(&manager, "held"), Ok(1), "a call decided about it");
    assert_eq!(load(&manager, &[("old", None)]).unwrap_err().code, Code::NotFound);
    assert_eq!(wait(&manager, Command::Rescan(vec!["held".into()])), Ok(()));
    assert_eq!(manager.table.load().resolve("held", "").err().unwrap().code, Code::NotFound);
    assert!(*manager.ready.borrow());
}

#[test]
fn calls_at_once_are_all_done() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    put(dir.path(), "wine/1/model.onnx", &model(""));
    let (manager, _) = started(&options(dir.path()));
    thread::scope(|scope| {
        for n in 0..16 {
            let manager = &manager;
            scope.spawn(move || {
                let both = [("iris", None), ("wine", None)];
                let names = [&both[..1], &both[1..], &both[..]][n % 3];
                for _ in 0..8 {
                    let done =
                        if n % 2 == 0 { load(manager, names) } else { unload(manager, names) };
                    assert_eq!(done, Ok(()));
                }
            });
        }
    });
    assert_eq!(load(&manager, &[("iris", None), ("wine", None)]), Ok(()));
    assert_eq!((current(&manager, "iris"), current(&manager, "wine")), (Ok(1), Ok(1)));
}

#[test]
fn requests_under_way_keep_their_version_until_they_are_answered() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _, executors) = running(&options(dir.path()));
    let held = manager.table.load().resolve("iris", "").unwrap();
    assert_eq!(unload(&manager, &[("iris", None)]), Ok(()));
    assert_eq!(label(&manager, "iris", 1), "draining");
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    assert_eq!(ask(&manager, 1.0), Ok(()));
    assert_eq!(unload(&manager, &[("iris", None)]), Ok(()));
    assert_eq!(label(&manager, "iris", 1), "draining");
    drop(held);
    until("it is free", || label(&manager, "iris", 1) == "unloaded");
    executors.stop();
}

#[test]
fn a_predecessor_stays_warm_for_a_while_and_comes_back_at_once() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, fake) = started(&options(dir.path()));
    let first = manager.table.load().resolve("iris", "").unwrap();
    put(dir.path(), "iris/2/model.onnx", &model(""));
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    let opened = fake.opened.load(SeqCst);
    assert_eq!(load(&manager, &[("iris", Some(1))]), Ok(()));
    assert_eq!(fake.opened.load(SeqCst), opened, "it was warm");
    assert!(Arc::ptr_eq(&manager.table.load().resolve("iris", "1").unwrap(), &first));
    let lifecycle = LifecycleOptions { rollback_ttl_ms: 30, ..LifecycleOptions::default() };
    let short = Options { lifecycle, ..options(dir.path()) };
    let (manager, _) = started(&short);
    put(dir.path(), "iris/3/model.onnx", &model(""));
    assert_eq!(load(&manager, &[("iris", None)]), Ok(()));
    until("it goes", || label(&manager, "iris", 2) == "unloaded");
    let table = manager.table.load();
    assert!(matches!(table.model("iris").unwrap().versions[&3], State::Ready(_)));
}

#[test]
fn threads_beside_the_turns_get_sessions_once_they_run_the_version() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, fake, executors) = running(&options(dir.path()));
    let serving = || manager.table.load().resolve("iris", "").unwrap();
    let version = serving();
    assert_eq!(
        (&version.explanation["mode"], &version.explanation["own_sessions"]),
        (&json!("turn"), &json!(1))
    );
    assert_eq!(fake.opened.load(SeqCst), 2, "the shared one, and the network thread's");
    let (network, executor, reserve) = (0, 1, 2);
    let shared = |version: &Version, slot| {
        let sessions = &version.served.sessions;
        Arc::ptr_eq(sessions.of(slot), sessions.shared())
    };
    assert!(!shared(&version, network) && shared(&version, executor));
    version.served.session(network);
    assert!(!version.served.widely());
    // What a full turn, or a large request, comes to; a few of them say nothing.
    for runs in 1..=16 {
        assert!(!version.served.widely(), "{runs}");
        ask(&manager, 1.0).unwrap();
    }
    assert!(version.served.widely());
    until("a session for every thread", || !shared(&serving(), executor));
    let widened = serving();
    assert_eq!(fake.opened.load(SeqCst), 6, "once more, with all");
    assert_eq!(widened.explanation["own_sessions"], 3);
    assert!(!Arc::ptr_eq(
        widened.served.sessions.of(executor),
        widened.served.sessions.of(reserve)
    ));
    ask(&manager, 1.0).unwrap();
    // Its successor is as wide from the start.
    put(dir.path(), "iris/2/model.onnx", &model(""));
    load(&manager, &[("iris", None)]).unwrap();
    assert_eq!(current(&manager, "iris"), Ok(2));
    assert_eq!(
        (serving().explanation["own_sessions"].clone(), fake.opened.load(SeqCst)),
        (json!(3), 10)
    );
    executors.stop();
}
