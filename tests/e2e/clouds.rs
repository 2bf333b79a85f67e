//! Azure's and Google's stores are as S3 is (`store.rs`, `upload.rs`), each with its own listing and its own conditional writes: Azure by
//! Microsoft's emulator, Google by a server of its XML API.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{
    azure::Azure,
    cloud::Cloud,
    files::{Home, below},
    google::Google,
    http::get,
    log_files::{self, Rows},
    server::{Server, answering, canaries_at_once, compact, rollout},
    watch::{metric, to_upload, until, uploaded},
};

const PREFIX: &str = "logs/of this";

/// A server of models in the container, with a mirror of its own. It looks often.
fn of_the_container<C: Cloud>(home: &Home, store: &C, mirror: &str) -> Command {
    let mut command =
        Server::command(home.path(), Path::new(&format!("{}://models/prod", C::SCHEME)));
    store.known_to(&mut command).arg("--mirror").arg(home.path().join(mirror));
    command.envs([
        ("ONNXD_LIFECYCLE_WATCH", "poll"),
        ("ONNXD_LIFECYCLE_POLL_MS", "50"),
        ("ONNXD_LIFECYCLE_TRAFFIC_POLL_MS", "50"),
        ("ONNXD_LIFECYCLE_SETTLE_MS", "300"),
        ("ONNXD_STORE_POLL_MS", "100"),
        ("ONNXD_STORE_TIMEOUT_MS", "5000"),
    ]);
    command
}

/// Logs everything, makes files of it every second, and puts them into the container, which it does not trust for long.
fn into_the_container<C: Cloud>(home: &Home, store: &C) -> Command {
    let mut command = Server::command(home.path(), &home.repository());
    store.known_to(&mut command).envs([
        ("ONNXD_DEFAULTS_LOG_ENABLED", "true"),
        ("ONNXD_PREDICTION_LOG_ROTATE_SECONDS", "1"),
        ("ONNXD_PREDICTION_LOG_UPLOAD_TIMEOUT_MS", "1000"),
    ]);
    command.env("ONNXD_PREDICTION_LOG_UPLOAD_URI", format!("{}://models/{PREFIX}", C::SCHEME));
    command
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("predictions")
}

/// The files of rows below a directory, as they are named below it, and what is in them.
fn parts(root: &Path) -> BTreeSet<(String, Vec<u8>)> {
    let parts =
        below(root).into_iter().filter(|path| path.extension().is_some_and(|e| e == "parquet"));
    let named =
        |path: &PathBuf| path.strip_prefix(root).expect("below").to_str().expect("text").to_owned();
    parts.map(|path| (named(&path), fs::read(path).expect("readable"))).collect()
}

fn versions_come_and_go_with_the_container<C: Cloud>() {
    let home = Home::of(&["versioned"]);
    let store = C::start();
    let [first, second] = ["versioned/1/model.onnx", "versioned/2/model.onnx"];
    store.put(&format!("prod/{first}"), &home.read(first));
    store.put("prod/versioned/model.yaml", b"format: 1\n");
    store.put("other/versioned/9/model.onnx", b"of somebody else");
    let server = Server::launch(&mut of_the_container(&home, &store, "mirror"));
    assert_eq!(answering(&server), Some(1.0));
    store.put(&format!("prod/{second}"), &home.read(second));
    until("the new version serves", || answering(&server) == Some(2.0));
    let fetched = metric(&server, "onnxd_repository_store_fetched_bytes_total", &[]);
    let (one, two) = (home.read(first).len(), home.read(second).len());
    assert_eq!(fetched as usize, one + two + "format: 1\n".len(), "each object is read once");
    store.delete(&format!("prod/{second}"));
    until("the version that is left serves", || answering(&server) == Some(1.0));
    drop(store);
    until("it is noticed", || metric(&server, "onnxd_repository_store_up", &[]) == 0.0);
    assert_eq!(answering(&server), Some(1.0));
    let said = server.said();
    assert!(!said.contains(C::SECRET), "{said}");
    server.stop();
}

/// Two at once: one after the other, by the entity tags of what they read.
fn a_rollout_is_written_to_the_container<C: Cloud>() {
    let home = Home::of(&["versioned"]);
    let store = C::start();
    for version in [1, 2] {
        let key = format!("versioned/{version}/model.onnx");
        store.put(&format!("prod/{key}"), &home.read(&key));
    }
    let servers =
        ["one", "two"].map(|mirror| Server::launch(&mut of_the_container(&home, &store, mirror)));
    let set = rollout(&servers[0], &["set", "versioned", "--primary", "1", "--by", "ana"]);
    assert_eq!(set.code, Some(0), "{}", set.stderr);
    until("the other follows", || answering(&servers[1]) == Some(1.0));
    let written = store.get("prod/versioned/traffic.yaml").expect("rules in the container");
    assert!(String::from_utf8_lossy(&written).contains("primary: 1"));
    canaries_at_once(&servers);
    let rules = |server: &Server| -> Value {
        get(&server.operator, "/admin/v1/models/versioned/traffic").json()["rules"].clone()
    };
    until("they agree", || {
        let [one, two] = servers.each_ref().map(rules);
        one == two && one["generation"] == 3
    });
    let history = rollout(&servers[1], &["history", "versioned"]).stdout;
    assert_eq!(history.lines().count(), 3, "{history}");
    servers.into_iter().for_each(Server::stop);
}

/// Every closed file is there once: with the store there, with the store silent and back, and after a restart meanwhile.
fn every_closed_file_is_in_the_container_once<C: Cloud>() {
    let home = Home::of(&["versioned"]).yaml("versioned", "versions: [1]\n");
    let store = C::start();
    let mut server = Server::launch(&mut into_the_container(&home, &store));
    assert_eq!(answering(&server), Some(1.0));
    until("the first file is up", || uploaded(&server) >= 1.0 && to_upload(&server) == 0.0);
    store.pause(true);
    assert_eq!(answering(&server), Some(1.0));
    until("it is noticed", || {
        let labels = ["reason=\"unreachable\""];
        metric(&server, "onnxd_predlog_upload_failures_total", &labels) >= 1.0
    });
    server.terminate();
    server.ended_well();
    assert!(server.said().contains("the next start goes on"), "{}", server.said());
    store.pause(false);
    let server = Server::launch(&mut into_the_container(&home, &store));
    until("the rest is up", || uploaded(&server) >= 1.0 && to_upload(&server) == 0.0);
    assert_eq!(answering(&server), Some(1.0));
    let said = server.said();
    assert!(!said.contains(C::SECRET), "{said}");
    server.stop();
    let fetched = home.path().join("fetched");
    let keys = store.fetch(PREFIX, &fetched);
    let (here, there) = (parts(&log_of(&home)), parts(&fetched));
    assert!(here.len() >= 3 && here == there, "{keys:?}");
    assert!(keys.iter().any(|key| key.contains("/_manifest/")), "{keys:?}");
}

/// What lies there by the name of a file is left; what a compaction replaces goes, once what replaces it is there.
fn what_is_in_the_container_already_is_left_or_replaced<C: Cloud>() {
    let home = Home::of(&["versioned"]);
    let store = C::start();
    for n in 0..3 {
        let name = format!("part-n-b-{n}.parquet");
        log_files::write(&log_of(&home), &name, Rows::numbered(n * 10, 10));
    }
    let before = parts(&log_of(&home));
    let (first, bytes) = before.first().expect("three files");
    store.put(&format!("{PREFIX}/{first}"), b"of somebody else");
    let server = Server::launch(&mut into_the_container(&home, &store));
    let conflicts = || {
        let labels = ["reason=\"conflict\""];
        metric(&server, "onnxd_predlog_upload_failures_total", &labels)
    };
    until("the others are up", || uploaded(&server) == 2.0 && conflicts() >= 1.0);
    let there = store.get(&format!("{PREFIX}/{first}"));
    assert_eq!(there.as_deref(), Some(&b"of somebody else"[..]));
    server.stop();
    // The same content counts as put; a conflict is looked at again by the next start.
    store.put(&format!("{PREFIX}/{first}"), bytes);
    let server = Server::launch(&mut into_the_container(&home, &store));
    until("it is up as well", || uploaded(&server) >= 1.0 && to_upload(&server) == 0.0);

    compact(&server, &log_of(&home), 3.0);
    server.stop();
    let fetched = home.path().join("fetched");
    store.fetch(PREFIX, &fetched);
    let left = parts(&fetched);
    assert!(left.len() == 1 && left == parts(&log_of(&home)));
}

mod azure {
    use super::*;

    #[test]
    fn versions_come_and_go_with_the_container() {
        super::versions_come_and_go_with_the_container::<Azure>();
    }

    #[test]
    fn a_rollout_is_written_to_the_container() {
        super::a_rollout_is_written_to_the_container::<Azure>();
    }

    #[test]
    fn every_closed_file_is_in_the_container_once() {
        super::every_closed_file_is_in_the_container_once::<Azure>();
    }

    #[test]
    fn what_is_in_the_container_already_is_left_or_replaced() {
        super::what_is_in_the_container_already_is_left_or_replaced::<Azure>();
    }
}

mod google {
    use super::*;

    #[test]
    fn versions_come_and_go_with_the_container() {
        super::versions_come_and_go_with_the_container::<Google>();
    }

    #[test]
    fn a_rollout_is_written_to_the_container() {
        super::a_rollout_is_written_to_the_container::<Google>();
    }

    #[test]
    fn every_closed_file_is_in_the_container_once() {
        super::every_closed_file_is_in_the_container_once::<Google>();
    }

    #[test]
    fn what_is_in_the_container_already_is_left_or_replaced() {
        super::what_is_in_the_container_already_is_left_or_replaced::<Google>();
    }
}
