//! Which versions serve is changed by call: over the data ports where that is allowed, by the operator's port always.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    files::{Home, copy},
    http::{Http, four, get, infer_path, post},
    server::{Ended, Server, run_to_end},
};

/// A repository of `versioned` with these versions; version N answers with its input plus N.
fn home(versions: &[u64]) -> Home {
    let home = Home::of(&["versioned"]);
    fs::remove_file(home.repository().join("versioned/model.yaml")).expect("it has options");
    let spare = home.path().join("spare");
    fs::rename(home.repository().join("versioned"), &spare).expect("out of the repository");
    for version in versions {
        add(&home, *version);
    }
    home
}

fn add(home: &Home, version: u64) {
    let version = version.to_string();
    let to = home.repository().join("versioned").join(&version);
    copy(&home.path().join("spare").join(&version), &to);
}

fn command(server: &Server, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    run_to_end(command.arg("models").args(args).args(["--operator", &server.operator]))
}

fn version(server: &Server) -> u64 {
    let answer = post(&server.http, &infer_path("versioned"), "", &four(0.0));
    answer.output(0)[0] as u64
}

#[test]
fn data_ports_change_nothing_unless_they_are_told_to() {
    let home = home(&[1, 2]);
    let server = Server::start(home.path(), &home.repository());
    let path = |verb: &str| format!("/v2/repository/models/versioned/{verb}");
    for port in [&server.http, &server.grpc] {
        for verb in ["load", "unload"] {
            let error = post(port, &path(verb), "", &json!({})).error(403);
            assert!(error.contains("--control"), "{error}");
        }
    }
    assert_eq!(post(&server.operator, &path("unload"), "", &json!({})).status, 200);
    assert_eq!(get(&server.http, "/v2/models/versioned/ready").status, 503);
    assert_eq!(get(&server.http, "/v2/health/ready").status, 200, "it is not wanted");
    assert_eq!(post(&server.operator, &path("load"), "", &json!({})).status, 200);
    assert_eq!(version(&server), 2);
    server.stop();

    let server = Server::launch(Server::command(home.path(), &home.repository()).arg("--control"));
    let one = json!({"parameters": {"version": "1"}});
    assert_eq!(post(&server.http, &path("load"), "", &one).status, 200);
    assert_eq!(get(&server.http, "/v2/models/versioned/versions/1/ready").status, 200);
    server.stop();
}

#[test]
fn the_command_shows_loads_and_unloads() {
    let home = home(&[1, 2]);
    let server = Server::start(home.path(), &home.repository());
    add(&home, 3);
    let loaded = command(&server, &["load", "versioned"]);
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    assert_eq!(version(&server), 3);
    let listed = command(&server, &["ls"]);
    let rows: Vec<Vec<&str>> =
        listed.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["model", "version", "state", "memory", "traffic", "reason"]);
    assert_eq!(rows[1][..3], ["versioned", "1", "unloaded"]);
    assert_eq!(rows[2][..3], ["versioned", "2", "kept"]);
    assert_eq!(rows[3][..3], ["versioned", "3", "ready"]);
    assert!(rows[3].contains(&"100%"), "{}", listed.stdout);
    let one = command(&server, &["load", "versioned", "--version", "1", "--output", "json"]);
    let models: Value = serde_json::from_str(&one.stdout).expect("JSON");
    assert_eq!(models[0]["versions"][0]["standing"], "ready");
    assert_eq!(models[0]["decided_by"], "calls");
    assert_eq!(command(&server, &["unload", "versioned", "--version", "3"]).code, Some(0));
    assert_eq!(version(&server), 1);
    let refused = command(&server, &["load", "versioned", "nosuch"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is no model 'nosuch'"), "{}", refused.stderr);
    assert_eq!(command(&server, &["rescan", "versioned"]).code, Some(0));
    assert_eq!(command(&server, &["load"]).code, Some(2));
    server.stop();
}

/// While clients ask without a pause, versions that cannot serve are put beside the one that does, each by a call that says
/// why not; then one that can. Nobody is failed, and every answer is of a version that was current.
#[test]
fn bad_versions_are_refused_under_load_and_good_ones_swapped_in() {
    let home = home(&[1]);
    let good = home.read("versioned/1/model.onnx");
    let server = Server::start(home.path(), &home.repository());
    let (stop, asked, newest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = Http::connect(&server.http);
                let body = four(0.0).to_string();
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.ask("POST", &infer_path("versioned"), "", body.as_bytes());
                    let version = answer.output(0)[0] as u64;
                    // What serves is one of those that did, or the one that is being loaded.
                    assert!(version <= newest.load(Ordering::SeqCst), "{version}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let path = "/v2/repository/models/versioned/load";
        let truncated = &good[..good.len() / 2];
        let mut corrupt = good.clone();
        corrupt.iter_mut().skip(8).step_by(3).for_each(|byte| *byte ^= 0x5a);
        let spoiled = Home::of(&["no_number", "other_shape"]);
        let [no_number, other_shape] =
            ["no_number", "other_shape"].map(|name| spoiled.read(&format!("{name}/1/model.onnx")));
        let file = "versioned/2/model.onnx: ";
        for (bad, why) in [
            (truncated, file),
            (&corrupt[..], file),
            (&b""[..], file),
            (&no_number[..], "output 'Y' has NaN, its predecessor's had none"),
            (&other_shape[..], "output 'Y' was FP32 [N, 4], and is FP32 [N, 8]"),
        ] {
            let folder = home.repository().join("versioned/2");
            fs::create_dir_all(&folder).expect("a version's folder");
            fs::write(folder.join("model.onnx"), bad).expect("a file");
            let error = post(&server.operator, path, "", &json!({})).error(400);
            assert!(error.contains("version 2: ") && error.contains(why), "{error}");
            assert!(error.ends_with("version 1 serves"), "{error}");
            let index = post(&server.http, "/v2/repository/index", "", &json!({})).json();
            assert_eq!(
                (&index[0]["state"], &index[1]["state"]),
                (&json!("READY"), &json!("UNAVAILABLE"))
            );
            assert!(error.contains(index[1]["reason"].as_str().expect("a reason")), "{error}");
            let page = String::from_utf8(get(&server.operator, "/metrics").body).expect("text");
            let row = r#"onnxd_model_state{model="versioned",version="2",state="failed"} 1"#;
            assert!(page.contains(row), "{page}");
        }
        fs::remove_dir_all(home.repository().join("versioned/2")).expect("the folder goes");
        for version in [2, 3] {
            add(&home, version);
            newest.store(version, Ordering::SeqCst);
            assert_eq!(post(&server.operator, path, "", &json!({})).status, 200);
            assert_eq!(self::version(&server), version);
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(asked.into_inner() > 0);
    assert!(server.said().contains("the version cannot serve"), "{}", server.said());
    server.stop();
}
