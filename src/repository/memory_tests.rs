//! The memory budget of models, over real files.

use std::{fs, path::Path, sync::atomic::Ordering::SeqCst, thread};

use tempfile::TempDir;

use super::*;
use crate::{
    repository::{
        calls::{Command, Target},
        fake::{SOON, current, put, started, until},
        lifecycle_options::LifecycleOptions,
    },
    runtime::onnx_writer::{GraphWriter, ModelWriter},
    types::datatype::Datatype,
};

/// Weights of a model of these tests, in bytes: a session of its own for each thread would multiply what is smaller.
const WEIGHTS: u64 = 16 << 20;

fn heavy() -> Vec<u8> {
    let rows = (WEIGHTS / 4) as i64;
    let graph = GraphWriter::new()
        .input("x", Datatype::Fp32, &["N", "4"])
        .output("y", Datatype::Fp32, &["N", "3"])
        .init_f32("w", &[rows], &vec![0.0; rows as usize])
        .node("Relu", &["x"], &["y"]);
    ModelWriter::default().write(&graph)
}

/// Room for so many of them.
fn room_for(root: &Path, models: u64) -> Options {
    let lifecycle = LifecycleOptions {
        model_memory_bytes: models * (WEIGHTS + (1 << 20)),
        ..LifecycleOptions::default()
    };
    Options { models: root.to_path_buf(), lifecycle, ..Options::default() }
}

fn repository(names: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let bytes = heavy();
    for name in names {
        put(dir.path(), &format!("{name}/1/model.onnx"), &bytes);
    }
    dir
}

fn serving(manager: &Manager) -> Vec<String> {
    let table = manager.table.load();
    let serving = table.models.values().filter(|model| model.current.is_some());
    let mut names: Vec<String> = serving.map(|model| model.name.to_string()).collect();
    names.sort_unstable();
    names
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn what_does_not_fit_waits_until_it_is_asked_for_and_the_least_used_goes() {
    let dir = repository(&["a", "b", "c", "d"]);
    let (manager, fake) = started(&room_for(dir.path(), 2));
    assert!(*manager.ready.borrow(), "what is out of memory is waited for by nobody");
    assert_eq!(serving(&manager), ["a", "b"]);
    assert!(current(&manager, "c").unwrap_err().contains("loaded when somebody asks for it"));
    let opened = fake.opened.load(SeqCst);
    // However many ask, it is loaded once.
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                assert_eq!(wait(manager.control.demand("c")), Ok(()));
                assert_eq!(current(&manager, "c"), Ok(1));
            });
        }
    });
    assert_eq!(fake.opened.load(SeqCst), opened + 1);
    assert_eq!(serving(&manager).len(), 2);
    assert!(*manager.ready.borrow());
    assert_eq!(wait(manager.control.demand("c")), Ok(()), "it is there already");
    assert_eq!(wait(manager.control.demand("nosuch")), Ok(()), "the table says that there is none");
    assert_eq!(wait(manager.control.demand("d")), Ok(()));
    assert_eq!(current(&manager, "d"), Ok(1));
    assert!(serving(&manager).contains(&"c".to_owned()), "it was used later than the other");
}

#[test]
fn a_predecessor_that_stays_warm_goes_first() {
    let dir = repository(&["a", "b"]);
    let (manager, _) = started(&room_for(dir.path(), 3));
    put(dir.path(), "a/2/model.onnx", &heavy());
    let load = |name: &str| {
        let target = Target { model: name.into(), version: None };
        wait(manager.control.ask(Command::Load(vec![target])))
    };
    assert_eq!(load("a"), Ok(()));
    let label = |number: u64| {
        let table = manager.table.load();
        table.model("a").unwrap().versions.get(&number).map(|state| state.label())
    };
    assert_eq!(label(1), Some("kept"));
    put(dir.path(), "c/1/model.onnx", &heavy());
    assert_eq!(load("c"), Ok(()));
    assert_eq!(serving(&manager), ["a", "b", "c"]);
    assert_eq!(label(1), Some("unloaded"));
}

#[test]
fn what_can_never_fit_is_refused_and_a_swap_needs_room_for_both() {
    let dir = repository(&["a"]);
    let (manager, _) = started(&room_for(dir.path(), 1));
    assert_eq!(serving(&manager), ["a"]);
    put(dir.path(), "a/2/model.onnx", &heavy());
    let target = Target { model: "a".into(), version: None };
    let refused = wait(manager.control.ask(Command::Load(vec![target]))).unwrap_err();
    assert!(refused.message.contains("no room within model_memory_bytes"), "{refused}");
    assert_eq!(current(&manager, "a"), Ok(1));
    fs::remove_dir_all(dir.path().join("a/2")).unwrap();
    let none = LifecycleOptions { model_memory_bytes: 1 << 10, ..LifecycleOptions::default() };
    let tiny = Options { lifecycle: none, ..room_for(dir.path(), 1) };
    let (manager, _) = started(&tiny);
    assert!(*manager.ready.borrow());
    assert_eq!(wait(manager.control.demand("a")), Ok(()));
    until("it is refused", || {
        current(&manager, "a").is_err_and(|why| why.contains("no room within model_memory_bytes"))
    });
    assert!(manager.close(SOON));
}
