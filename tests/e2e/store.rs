//! Models that come from an object store: mirrored, swapped, and served on when the store is down.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    files::Home,
    http::{get, post},
    s3::S3,
    server::{Server, answering, canaries_at_once, rollout, run_to_end},
    watch::{metric, until},
};

const URL: &str = "s3://models/prod";

/// A server of `url` with its mirror in the test's home. It looks often.
fn command(home: &Home, store: &S3, url: &str) -> Command {
    let mut command = Server::command(home.path(), Path::new(url));
    store.known_to(&mut command).arg("--mirror").arg(home.path().join("mirror"));
    command.envs([
        ("ONNXD_LIFECYCLE_WATCH", "poll"),
        ("ONNXD_LIFECYCLE_POLL_MS", "50"),
        ("ONNXD_LIFECYCLE_SETTLE_MS", "300"),
        ("ONNXD_STORE_POLL_MS", "100"),
        ("ONNXD_STORE_TIMEOUT_MS", "5000"),
    ]);
    command
}

/// State and reason of a version in the repository index.
fn state(server: &Server, version: &str) -> Option<(String, String)> {
    let index = post(&server.http, "/v2/repository/index", "", &json!({})).json();
    let rows = index.as_array()?;
    let row = rows.iter().find(|row| row["version"] == version)?;
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Some((text("state"), text("reason")))
}

fn ready(server: &Server) -> Value {
    let answer = get(&server.http, "/v2/health/ready");
    assert_eq!(answer.status, 200);
    answer.json()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn versions_come_and_go_with_the_store() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    let [first, second] = ["versioned/1/model.onnx", "versioned/2/model.onnx"];
    store.put(&format!("prod/{first}"), &home.read(first));
    store.put("prod/versioned/model.yaml", b"format: 1\n");
    store.put("prod/versioned/1/.hidden", b"x");
    store.put("other/versioned/9/model.onnx", b"of somebody else");
    let server = Server::launch(&mut command(&home, &store, URL));
    assert_eq!(answering(&server), Some(1.0));
    assert_eq!(ready(&server), json!({"live": true, "ready": true}));

    store.put(&format!("prod/{second}"), &home.read(second));
    until("the new version serves", || answering(&server) == Some(2.0));
    assert_eq!(metric(&server, "onnxd_repository_store_up", &[]), 1.0);
    assert!(metric(&server, "onnxd_repository_store_last_sync_timestamp_seconds", &[]) > 1e9);
    let fetched = metric(&server, "onnxd_repository_store_fetched_bytes_total", &[]);
    let (one, two) = (home.read(first).len(), home.read(second).len());
    assert_eq!(fetched as usize, one + two + "format: 1\n".len(), "each object is read once");

    store.delete(&format!("prod/{second}"));
    until("the version that is left serves", || answering(&server) == Some(1.0));
    until("the other one is gone", || state(&server, "2").is_none_or(|(s, _)| s != "READY"));

    // A prefix that somebody emptied is a mistake, not a wish.
    for key in [first, "versioned/model.yaml", "versioned/1/.hidden"] {
        store.delete(&format!("prod/{key}"));
    }
    until("it is noticed", || metric(&server, "onnxd_repository_store_up", &[]) == 0.0);
    assert_eq!(answering(&server), Some(1.0));
    let said = server.said();
    assert!(said.contains("it lists no model there"), "{said}");
    assert!(!said.contains("a-secret-of-the-test"), "{said}");
    server.stop();
}

#[test]
fn a_start_with_the_store_down_serves_what_the_mirror_holds() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    store.put_all(&home.repository(), "prod");
    let mut command = command(&home, &store, URL);
    let server = Server::launch(&mut command);
    let newest = answering(&server).expect("it serves");
    // Another server must not write there.
    let second = run_to_end(&mut command);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another process has the mirror"), "{}", second.stderr);
    drop(store);
    until("it is noticed", || metric(&server, "onnxd_repository_store_up", &[]) == 0.0);
    assert_eq!(answering(&server), Some(newest));
    server.stop();

    command.env("ONNXD_STORE_TIMEOUT_MS", "1000");
    let server = Server::launch(&mut command);
    assert_eq!(answering(&server), Some(newest));
    let note = ready(&server)["note"].as_str().unwrap_or_default().to_owned();
    assert!(note.contains("its mirror serves"), "{note}");
    assert_eq!(metric(&server, "onnxd_repository_store_up", &[]), 0.0);
    assert!(server.said().contains("the start goes on with what the mirror holds"));
    server.stop();

    fs::remove_dir_all(home.path().join("mirror")).expect("it goes");
    let alone = run_to_end(&mut command);
    assert_eq!(alone.code, Some(1));
    let why = "onnxd: models: 's3://models/prod': ";
    assert!(alone.stderr.contains(why), "{}", alone.stderr);
    assert!(alone.stderr.contains("nothing of it is mirrored yet"), "{}", alone.stderr);
}

#[test]
fn what_its_manifest_does_not_know_is_refused() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    let [first, second] = [1, 2].map(|n| home.read(&format!("versioned/{n}/model.onnx")));
    let sums = |bytes: &[u8]| format!("{}  model.onnx\n", sha256(bytes)).into_bytes();
    store.put("prod/versioned/1/model.onnx", &first);
    store.put("prod/versioned/1/SHA256SUMS", &sums(&first));
    let server = Server::launch(&mut command(&home, &store, URL));
    assert_eq!(answering(&server), Some(1.0));

    // A new number: it is told where people look for it.
    let mut corrupt = second.clone();
    *corrupt.last_mut().expect("it has bytes") ^= 1;
    store.put("prod/versioned/2/SHA256SUMS", &sums(&second));
    store.put("prod/versioned/2/model.onnx", &corrupt);
    let reason = || state(&server, "2").map(|(_, reason)| reason).unwrap_or_default();
    until("it is refused", || reason().contains("SHA256SUMS says"));
    assert_eq!(answering(&server), Some(1.0));
    store.put("prod/versioned/2/model.onnx", &second);
    until("the whole one serves", || answering(&server) == Some(2.0));

    // A number that serves: the mirror keeps what was whole, for the next start too.
    store.put("prod/versioned/2/model.onnx", &corrupt);
    let refused = || metric(&server, "onnxd_repository_store_versions_refused", &[]);
    until("it is kept out", || refused() == 1.0);
    assert_eq!(answering(&server), Some(2.0));
    let mirrored = home.path().join("mirror/repository/versioned/2/model.onnx");
    assert_eq!(fs::read(mirrored).expect("it is there"), second);
    store.put("prod/versioned/2/model.onnx", &second);
    until("all is well", || refused() == 0.0);

    // A manifest that came first: not loaded before the rest is there.
    store.put("prod/versioned/3/SHA256SUMS", &sums(&first));
    until("it is seen", || server.said().contains("a version is not complete in the store"));
    assert_eq!(answering(&server), Some(2.0));
    store.put("prod/versioned/3/model.onnx", &first);
    until("it serves once it is whole", || answering(&server) == Some(1.0));
    server.stop();
}

/// With `watch: off` nothing changes by itself, and a call has the store asked first.
#[test]
fn a_call_asks_the_store() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    let [first, second] = [1, 2].map(|n| home.read(&format!("versioned/{n}/model.onnx")));
    store.put("prod/versioned/1/model.onnx", &first);
    let mut command = command(&home, &store, URL);
    let server = Server::launch(command.env("ONNXD_LIFECYCLE_WATCH", "off"));
    store.put("prod/versioned/2/model.onnx", &second);
    let load = || post(&server.operator, "/v2/repository/models/versioned/load", "", &json!({}));
    assert_eq!(load().status, 200);
    assert_eq!(answering(&server), Some(2.0));
    let models = get(&server.operator, "/admin/v1/models").json();
    assert_eq!(models[0]["current"], json!(2), "{models}");
    drop(store);
    assert_eq!(load().status, 200, "the mirror has it");
    server.stop();
}

#[test]
fn a_web_server_with_an_index_is_a_store_too() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    let [first, second] = [1, 2].map(|n| home.read(&format!("versioned/{n}/model.onnx")));
    let file = |n: u64, bytes: &[u8]| {
        store.put(&format!("web/versioned/{n}/model.onnx"), bytes);
        json!({"path": format!("versioned/{n}/model.onnx"), "sha256": sha256(bytes), "bytes": bytes.len()})
    };
    let index = |files: &[&Value]| {
        let text = json!({"format": 1, "files": files}).to_string();
        store.put("web/index.json", text.as_bytes());
    };
    let one = file(1, &first);
    index(&[&one]);
    let url = format!("http://{}/models/web", store.address);
    let server = Server::launch(&mut command(&home, &store, &url));
    assert_eq!(answering(&server), Some(1.0));
    let mut wrong = file(2, &second);
    wrong["sha256"] = json!(sha256(b"another"));
    index(&[&one, &wrong]);
    let reason = || state(&server, "2").map(|(_, reason)| reason).unwrap_or_default();
    until("it is refused", || reason().contains("SHA256SUMS says"));
    assert_eq!(answering(&server), Some(1.0));
    index(&[&one, &file(2, &second)]);
    until("the whole one serves", || answering(&server) == Some(2.0));
    // The other kind of index, without sizes.
    store.delete("web/index.json");
    let line = |n: u64, bytes: &[u8]| format!("{}  versioned/{n}/model.onnx\n", sha256(bytes));
    store.put("web/SHA256SUMS", line(1, &first).as_bytes());
    until("what is not listed is gone", || answering(&server) == Some(1.0));
    store.put("web/SHA256SUMS", b"../../etc/passwd");
    until("it is noticed", || metric(&server, "onnxd_repository_store_up", &[]) == 0.0);
    let stolen = format!("{}{}  ../escaped\n", line(1, &first), sha256(&first));
    store.put("web/SHA256SUMS", stolen.as_bytes());
    until("it is refused", || server.said().contains("its name leads out of its folder"));
    assert_eq!(answering(&server), Some(1.0));
    assert!(!home.path().join("mirror/escaped").exists());
    server.stop();
}

/// A server with a mirror of its own that looks at versions only when somebody asks.
fn replica(home: &Home, store: &S3, mirror: &str) -> Command {
    let mut command = Server::command(home.path(), Path::new(URL));
    store.known_to(&mut command).arg("--mirror").arg(home.path().join(mirror));
    command.envs([
        ("ONNXD_LIFECYCLE_WATCH", "off"),
        ("ONNXD_LIFECYCLE_TRAFFIC_POLL_MS", "50"),
        ("ONNXD_STORE_POLL_MS", "100"),
    ]);
    command
}

#[test]
fn a_rollout_is_written_to_the_store_and_every_replica_follows() {
    let home = Home::of(&["versioned"]);
    let store = S3::start();
    for version in [1, 2] {
        let key = format!("versioned/{version}/model.onnx");
        store.put(&format!("prod/{key}"), &home.read(&key));
    }
    let mirrors = ["one", "two"];
    let servers = mirrors.map(|mirror| Server::launch(&mut replica(&home, &store, mirror)));
    assert_eq!(servers.each_ref().map(answering), [Some(2.0); 2]);
    let set = rollout(&servers[0], &["set", "versioned", "--primary", "1", "--by", "ana"]);
    assert_eq!(set.code, Some(0), "{}", set.stderr);
    assert_eq!(answering(&servers[0]), Some(1.0), "whoever was told goes by it at once");
    until("the other follows", || answering(&servers[1]) == Some(1.0));
    let written = store.get("prod/versioned/traffic.yaml").expect("rules in the store");
    assert!(String::from_utf8_lossy(&written).contains("primary: 1"));
    // Two at once: one after the other, and each change stands in the store.
    canaries_at_once(&servers);
    let rules =
        |server: &Server| get(&server.operator, "/admin/v1/models/versioned/traffic").json();
    until("they agree", || {
        let [one, two] = servers.each_ref().map(|server| rules(server)["rules"].clone());
        one == two && one["generation"] == 3
    });
    let history = rollout(&servers[1], &["history", "versioned"]).stdout;
    assert_eq!(history.lines().count(), 3, "{history}");
    assert!(history.contains("set by ana"), "{history}");
    // A version that comes meanwhile is nothing that anybody asked for.
    store.put("prod/versioned/3/model.onnx", &home.read("versioned/2/model.onnx"));
    let cleared = rollout(&servers[1], &["clear", "versioned"]);
    assert_eq!(cleared.code, Some(0), "{}", cleared.stderr);
    until("the other goes by no rules", || rules(&servers[0])["rules"].is_null());
    assert!(state(&servers[0], "3").is_none(), "nobody asked this one to look at versions");
    servers.into_iter().for_each(Server::stop);
    // For one server alone, where that is wanted.
    let mut alone = replica(&home, &store, "alone");
    let server = Server::launch(alone.env("ONNXD_STORE_ROLLOUTS", "local"));
    let before = store.get("prod/versioned/traffic.yaml");
    let set = rollout(&server, &["set", "versioned", "--primary", "2"]);
    assert_eq!(set.code, Some(0), "{}", set.stderr);
    assert_eq!((answering(&server), store.get("prod/versioned/traffic.yaml")), (Some(2.0), before));
    server.stop();
}
