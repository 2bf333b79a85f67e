//! Changes in a repository that is watched, over real files.

use std::{fs, os::unix::fs::symlink, path::Path, sync::atomic::Ordering::SeqCst};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::{
    repository::{
        calls::{Command, Target},
        fake::{SOON, current, model, options, put, started, until},
        lifecycle_options::{LifecycleOptions, Watch},
    },
    types::error::Code,
};

fn watched(root: &Path, settle_ms: u64) -> Options {
    let lifecycle = LifecycleOptions {
        watch: Watch::Poll,
        poll_ms: 2,
        settle_ms,
        ..LifecycleOptions::default()
    };
    Options { lifecycle, ..options(root) }
}

fn code(manager: &Manager, model: &str) -> Option<Code> {
    manager.table.load().resolve(model, "").err().map(|error| error.code)
}

#[test]
fn what_comes_is_loaded_and_what_goes_is_unloaded() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let (manager, _) = started(&watched(dir.path(), 20));
    put(dir.path(), "iris/2/model.onnx", &model(""));
    until("the new version serves", || current(&manager, "iris") == Ok(2));
    put(dir.path(), "iris/3/model.onnx", &model("refuse"));
    let failed = |number: u64| {
        let table = manager.table.load();
        let row = table.model("iris").unwrap();
        row.versions.get(&number).is_some_and(|state| state.label() == "failed")
    };
    until("the broken one is refused", || failed(3));
    assert_eq!(current(&manager, "iris"), Ok(2));
    put(dir.path(), "iris/3/model.onnx", &model(""));
    until("its files are mended", || current(&manager, "iris") == Ok(3));
    put(dir.path(), "iris/model.yaml", b"default_timeout_ms: 7");
    let timeout = || manager.table.load().resolve("iris", "").unwrap().default_timeout;
    until("its options hold", || timeout() == Some(Duration::from_millis(7)));
    put(dir.path(), "iris/model.yaml", b"default_timeout: 8");
    let notice = || manager.table.load().model("iris").unwrap().notice.clone();
    until("wrong ones do not", || notice().is_some_and(|why| why.contains("line 1")));
    assert_eq!(timeout(), Some(Duration::from_millis(7)));
    put(dir.path(), "new/1/model.onnx", &model(""));
    until("a new model serves", || current(&manager, "new") == Ok(1));
    fs::remove_dir_all(dir.path().join("iris")).unwrap();
    until("its directory is gone", || code(&manager, "iris") == Some(Code::NotFound));
    assert!(*manager.ready.borrow());
    assert!(manager.close(SOON));
}

#[test]
fn calls_are_not_undone_by_the_directory() {
    let dir = TempDir::new().unwrap();
    for name in ["iris", "other"] {
        put(dir.path(), &format!("{name}/1/model.onnx"), &model(""));
    }
    let (manager, _) = started(&watched(dir.path(), 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let target = |version| vec![Target { model: "iris".into(), version }];
    let ask = |command| runtime.block_on(manager.control.ask(command));
    assert_eq!(ask(Command::Unload(target(None))), Ok(()));
    for name in ["iris", "other"] {
        put(dir.path(), &format!("{name}/2/model.onnx"), &model(""));
    }
    until("the other one is seen", || current(&manager, "other") == Ok(2));
    assert_eq!(code(&manager, "iris"), Some(Code::Unavailable));
    assert_eq!(ask(Command::Load(target(Some(1)))), Ok(()));
    fs::remove_dir_all(dir.path().join("iris")).unwrap();
    fs::remove_dir_all(dir.path().join("other")).unwrap();
    until("the other one is gone", || code(&manager, "other") == Some(Code::NotFound));
    assert_eq!(current(&manager, "iris"), Ok(1));
}

#[test]
fn a_version_whose_manifest_does_not_hold_is_never_loaded() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    // So long that only the manifest can make a version complete.
    let (manager, fake) = started(&watched(dir.path(), 3_600_000));
    let opened = fake.opened.load(SeqCst);
    let whole = model("");
    let digest = hex::encode(Sha256::digest(&whole));
    put(dir.path(), "iris/2/SHA256SUMS", format!("{digest}  model.onnx\n").as_bytes());
    let reason = || {
        let table = manager.table.load();
        let row = table.model("iris").unwrap();
        row.versions.get(&2).map(|state| state.reason().to_owned()).unwrap_or_default()
    };
    until("there is no file yet", || reason().contains("does not exist"));
    put(dir.path(), "iris/2/model.onnx", &whole[..whole.len() - 3]);
    until("it is not whole", || reason().contains("it is not whole, or another"));
    assert_eq!((current(&manager, "iris"), fake.opened.load(SeqCst)), (Ok(1), opened));
    put(dir.path(), "iris/2/model.onnx", &whole);
    until("it is whole", || current(&manager, "iris") == Ok(2));
}

#[test]
fn a_mounted_volume_that_swaps_its_link_is_followed() {
    let dir = TempDir::new().unwrap();
    // As a ConfigMap is mounted: what is seen are links through one link, which is replaced by a rename.
    let put = |generation: &str, version: &str, bytes: &[u8]| {
        put(dir.path(), &format!("{generation}/iris/{version}/model.onnx"), bytes);
        symlink(generation, dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
    };
    put("..1", "1", &model(""));
    symlink("..data/iris", dir.path().join("iris")).unwrap();
    let (manager, _) = started(&watched(dir.path(), 20));
    let digest = || manager.table.load().resolve("iris", "").map(|v| v.sha256.clone()).ok();
    let before = digest();
    put("..2", "1", &model("warn"));
    until("the same number with other files", || digest().is_some() && digest() != before);
    fs::remove_dir_all(dir.path().join("..1")).unwrap();
    put("..3", "2", &model(""));
    until("another number", || current(&manager, "iris") == Ok(2));
}

#[test]
fn the_system_tells_of_changes() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "iris/1/model.onnx", &model(""));
    let mut told = watched(dir.path(), 10);
    // Nobody would look before the test has failed.
    (told.lifecycle.watch, told.lifecycle.poll_ms) = (Watch::Notify, 3_600_000);
    let (manager, _) = started(&told);
    put(dir.path(), "iris/.copy/model.onnx", &model(""));
    fs::rename(dir.path().join("iris/.copy"), dir.path().join("iris/2")).unwrap();
    until("a renamed folder", || current(&manager, "iris") == Ok(2));
    put(dir.path(), "new/1/model.onnx", &model(""));
    until("a new model", || current(&manager, "new") == Ok(1));
}
