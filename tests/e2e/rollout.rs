//! Traffic between versions: canaries, sticky users, shadows, fallbacks, and what is left of a rollout after a crash.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    files::{Home, copy},
    grpc::{self, Grpc},
    http::{Answer, Http, four, get, infer_path, post},
    server::{Server, canaries_at_once, rollout},
    watch::{metric, until},
};

/// A repository of `versioned` with versions 1 and 2; version N answers with its input plus N.
fn home() -> Home {
    let home = Home::of(&["versioned"]);
    let _ = fs::remove_file(home.repository().join("versioned/model.yaml"));
    let _ = fs::remove_dir_all(home.repository().join("versioned/3"));
    home
}

fn add(home: &Home, from: u64, to: u64) {
    let folder = home.repository().join("versioned");
    copy(&folder.join(from.to_string()), &folder.join(to.to_string()));
}

fn done(server: &Server, args: &[&str]) -> String {
    let ended = rollout(server, args);
    assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
    ended.stdout
}

fn refused(server: &Server, args: &[&str]) -> String {
    let ended = rollout(server, args);
    assert_eq!(ended.code, Some(1), "{args:?}: {}{}", ended.stdout, ended.stderr);
    ended.stderr
}

fn ask(server: &Server, headers: &str) -> Answer {
    let mut http = Http::connect(&server.http);
    http.ask("POST", &infer_path("versioned"), headers, four(0.0).to_string().as_bytes())
}

/// The version that answered: by what it computed, by its own word, and by the route's.
fn version(answer: &Answer) -> u64 {
    let computed = answer.output(0)[0] as u64;
    assert_eq!(answer.json()["model_version"], computed.to_string());
    if let Some(route) = answer.header("x-onnxd-route") {
        assert!(route.ends_with(&format!(";version={computed}")), "{route}: {computed}");
    }
    computed
}

/// How many of so many requests each version got.
fn shares(server: &Server, count: usize) -> BTreeMap<u64, usize> {
    let mut shares = BTreeMap::new();
    let mut http = Http::connect(&server.http);
    let body = four(0.0).to_string();
    for _ in 0..count {
        let answer = http.ask("POST", &infer_path("versioned"), "", body.as_bytes());
        *shares.entry(version(&answer)).or_default() += 1;
    }
    shares
}

fn user(server: &Server, name: usize) -> u64 {
    version(&ask(server, &format!("x-user-id: user-{name}\r\n")))
}

#[test]
fn a_canary_from_the_first_per_cent_to_the_way_back() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    assert_eq!(version(&ask(&server, "")), 2);
    assert_eq!(ask(&server, "").header("x-onnxd-route"), None, "no rules, no header");
    // Version 1 is loaded for it, and takes over when it serves.
    let said = done(&server, &["set", "versioned", "--primary", "1", "--why", "the one we know"]);
    assert!(said.contains("generation 1, set by") && said.contains("the one we know"), "{said}");
    assert_eq!(shares(&server, 20), BTreeMap::from([(1, 20)]));
    let said =
        done(&server, &["set", "versioned", "--canary", "2=20", "--sticky", "header:X-User-Id"]);
    assert!(said.contains("canary   2        20%"), "{said}");
    // Whoever does not say who they are goes by chance: 400 at 20%, within five standard deviations.
    let by_chance = shares(&server, 400);
    let canary = by_chance.get(&2).copied().unwrap_or_default();
    assert!((40..=120).contains(&canary), "{by_chance:?}");
    // Users stay where they are, over connections, protocols and restarts; a larger share takes more along and lets nobody go.
    let users: Vec<u64> = (0..60).map(|name| user(&server, name)).collect();
    assert!(users.contains(&1) && users.contains(&2), "{users:?}");
    let again: Vec<u64> = (0..60).map(|name| user(&server, name)).collect();
    assert_eq!(users, again);
    let said = done(&server, &["set", "versioned", "--canary", "2=50"]);
    assert!(said.contains("50%"), "{said}");
    let more: Vec<u64> = (0..60).map(|name| user(&server, name)).collect();
    assert!(users.iter().zip(&more).all(|(before, now)| before <= now), "{users:?} {more:?}");
    assert!(more != users, "some have moved");
    server.stop();
    let server = Server::start(home.path(), &home.repository());
    let after: Vec<u64> = (0..60).map(|name| user(&server, name)).collect();
    assert_eq!(after, more, "a restart moves nobody");
    done(&server, &["pause", "versioned"]);
    assert!((0..60).all(|name| user(&server, name) == 1));
    done(&server, &["resume", "versioned"]);
    assert_eq!((0..60).map(|name| user(&server, name)).collect::<Vec<_>>(), more);
    let said = done(&server, &["promote", "versioned", "--why", "it holds"]);
    assert!(said.contains("primary  2        100%"), "{said}");
    assert_eq!(shares(&server, 20), BTreeMap::from([(2, 20)]));
    done(&server, &["rollback", "versioned", "--why", "it does not"]);
    assert_eq!(shares(&server, 20), BTreeMap::from([(1, 20)]));
    let history = done(&server, &["history", "versioned"]);
    let actions: Vec<&str> =
        history.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(actions, ["set", "set", "set", "pause", "resume", "promote", "rollback"]);
    assert!(history.contains("it does not"), "{history}");
    done(&server, &["clear", "versioned"]);
    assert_eq!(version(&ask(&server, "")), 2, "the newest");
    server.stop();
}

#[test]
fn an_arm_can_be_forced_where_that_is_allowed() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    done(&server, &["set", "versioned", "--primary", "1", "--canary", "2=0"]);
    let forced = "x-onnxd-route: canary\r\n";
    assert_eq!(version(&ask(&server, forced)), 1, "it is not allowed");
    done(&server, &["set", "versioned", "--force", "on"]);
    let answer = ask(&server, forced);
    assert_eq!((version(&answer), answer.header("x-onnxd-route")), (2, Some("canary;version=2")));
    let error = ask(&server, "x-onnxd-route: green\r\n").error(400);
    assert!(error.contains("there is no 'green', expected one of primary, canary"), "{error}");
    // A version in the path is the version that answers.
    let path = "/v2/models/versioned/versions/2/infer";
    let answer = post(&server.http, path, "", &four(0.0));
    assert_eq!((version(&answer), answer.header("x-onnxd-route")), (2, Some("version;version=2")));
    // gRPC says it in its metadata, and KServe's v1 in its header.
    let body = json!({"instances": [[0.0, 0.0, 0.0, 0.0]]});
    let answer = post(&server.http, "/v1/models/versioned:predict", forced, &body);
    assert_eq!(answer.header("x-onnxd-route"), Some("canary;version=2"));
    let called = Grpc::connect(&server.grpc).infer("", &grpc::four("versioned", 0.0));
    assert_eq!(called.floats(), [1.0; 4]);
    server.stop();
}

#[test]
fn what_cannot_serve_never_gets_traffic() {
    let home = home();
    add(&home, 1, 4);
    let broken = home.repository().join("versioned/4/model.onnx");
    let server = Server::start(home.path(), &home.repository());
    done(&server, &["set", "versioned", "--primary", "1"]);
    fs::write(&broken, b"no model").expect("it breaks");
    add(&home, 2, 5);
    let error = refused(&server, &["set", "versioned", "--canary", "9=10"]);
    assert!(error.contains("has no version '9' in the repository"), "{error}");
    fs::write(home.repository().join("versioned/5/model.onnx"), b"no model").expect("it breaks");
    let error = refused(&server, &["set", "versioned", "--canary", "5=10"]);
    assert!(error.contains("version 5 does not serve"), "{error}");
    assert_eq!(shares(&server, 20), BTreeMap::from([(1, 20)]));
    for (args, why) in [
        (vec!["set", "versioned", "--canary", "2=200"], "0 to 100"),
        (vec!["set", "versioned", "--canary", "1=10"], "which is the primary"),
        (vec!["set", "versioned"], "nothing to set"),
        (vec!["promote", "versioned"], "no arm to promote"),
        (vec!["rollback", "versioned"], "nothing to roll back"),
        (vec!["set", "nosuch", "--primary", "1"], "there is no model 'nosuch'"),
        (vec!["set", "versioned", "--primary", "2", "--if-generation", "7"], "expected 7"),
    ] {
        let error = refused(&server, &args);
        assert!(error.contains(why), "{args:?}: {error}");
    }
    let rules = get(&server.operator, "/admin/v1/models/versioned/traffic").json();
    assert_eq!(rules["rules"]["generation"], 1, "nothing was written: {rules}");
    // By hand, and wrong: what was in effect stays, and the reason is shown.
    let file = home.repository().join("versioned/traffic.yaml");
    fs::write(&file, "primary: 2\nspeed: fast\n").expect("written");
    until("the reason is shown", || {
        let rules = get(&server.operator, "/admin/v1/models/versioned/traffic").json();
        rules["notice"]
            .as_str()
            .is_some_and(|why| why.contains("traffic.yaml") && why.contains("speed"))
    });
    assert_eq!(version(&ask(&server, "")), 1);
    // Also after a restart, for which the audit file has what the last command made.
    server.stop();
    let server = Server::start(home.path(), &home.repository());
    assert_eq!(version(&ask(&server, "")), 1);
    let rules = get(&server.operator, "/admin/v1/models/versioned/traffic").json();
    assert!(rules["notice"].as_str().is_some_and(|why| why.contains("speed")), "{rules}");
    // And right: it is followed.
    fs::write(&file, "generation: 8\nprimary: 2\n").expect("written");
    until("the file is followed", || version(&ask(&server, "")) == 2);
    server.stop();
}

#[test]
fn replicas_on_one_repository_follow_each_other() {
    let home = home();
    let servers = [(); 2].map(|()| Server::start(home.path(), &home.repository()));
    done(&servers[0], &["set", "versioned", "--primary", "1"]);
    until("the other follows", || version(&ask(&servers[1], "")) == 1);
    // Both at once: one after the other, and each change is written down.
    canaries_at_once(&servers);
    let rules =
        |server: &Server| get(&server.operator, "/admin/v1/models/versioned/traffic").json();
    until("they agree", || {
        let all: Vec<Value> = servers.iter().map(|server| rules(server)["rules"].clone()).collect();
        all[0] == all[1] && all[0]["generation"] == 3
    });
    assert_eq!(done(&servers[1], &["history", "versioned"]).lines().count(), 3);
    servers.into_iter().for_each(Server::stop);
}

/// Requests at all times, while traffic goes from one version to the other and back: each is answered, by one that was named.
#[test]
fn no_request_is_lost_on_the_way() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    done(&server, &["set", "versioned", "--primary", "1"]);
    let over = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut http = Http::connect(&server.http);
                    let (mut count, body) = (0u64, four(0.0).to_string());
                    while !over.load(Ordering::Relaxed) {
                        let answer =
                            http.ask("POST", &infer_path("versioned"), "", body.as_bytes());
                        assert!(matches!(version(&answer), 1 | 2));
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..5 {
            done(&server, &["set", "versioned", "--canary", "2=50"]);
            done(&server, &["promote", "versioned"]);
            done(&server, &["rollback", "versioned"]);
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("no request fails")).sum::<u64>()
    });
    assert!(answered > 0);
    let failed = metric(&server, "onnxd_requests_total", &["model=\"versioned\""])
        - metric(&server, "onnxd_requests_total", &["model=\"versioned\"", "code=\"ok\""]);
    assert_eq!(failed, 0.0);
    server.stop();
}

#[test]
fn a_shadow_is_compared_and_answers_nobody() {
    let home = home();
    let server = Server::start(home.path(), &home.repository());
    done(&server, &["set", "versioned", "--primary", "1", "--shadow", "2"]);
    assert_eq!(shares(&server, 50), BTreeMap::from([(1, 50)]));
    let labels = ["model=\"versioned\"", "version=\"2\""];
    let of = |name: &str, outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        metric(&server, name, &[labels[0], labels[1], &outcome])
    };
    let requests = "onnxd_shadow_requests_total";
    until("every copy was compared or dropped", || {
        of(requests, "compared") + of(requests, "dropped") == 50.0
    });
    assert!(of(requests, "compared") > 0.0 && of(requests, "failed") == 0.0);
    // 0 + 1 and 0 + 2.
    assert_eq!(metric(&server, "onnxd_shadow_difference_max", &labels), 1.0);
    let said = done(&server, &["status", "versioned"]);
    assert!(said.contains("shadow 2 (100.0% of the primary's, ready)"), "{said}");
    assert!(said.contains("differ by 1.000e0 at most"), "{said}");
    server.stop();
}

#[test]
fn a_fallback_answers_where_the_primary_is_late_and_is_asked_at_once_where_that_goes_on() {
    let home = Home::of(&["burn"]);
    let folder = home.repository().join("burn");
    copy(&folder.join("1"), &folder.join("2"));
    let server = Server::start(home.path(), &home.repository());
    let rules = ["set", "burn", "--primary", "1", "--fallback", "2", "--late-ms", "20"];
    done(&server, &rules);
    // As long as it is told to: many times what the rule allows.
    let late = crate::support::http::burn(1.0, 100_000);
    let quick = crate::support::http::burn(1.0, 1);
    let route = |body: &Value| {
        let answer = post(&server.http, &infer_path("burn"), "", body);
        assert_eq!(answer.status, 200, "somebody answers");
        answer.header("x-onnxd-route").expect("a route").to_owned()
    };
    let left_alone = || {
        let rules = get(&server.operator, "/admin/v1/models/burn/traffic").json();
        let routes = rules["routes"].as_array().expect("routes");
        routes.last().is_some_and(|fallback| fallback["primary_left_alone"] == true)
    };
    for _ in 0..5 {
        assert_eq!(route(&late), "fallback;version=2");
    }
    assert!(left_alone(), "five in a row");
    // What is wrong with a request is no reason to trust it again.
    let wrong =
        json!({"inputs": [{"name": "nosuch", "shape": [1], "datatype": "FP32", "data": [1.0]}]});
    assert_eq!(post(&server.http, &infer_path("burn"), "", &wrong).status, 400);
    assert!(left_alone());
    until("it is tried, is in time, and gets its requests back", || {
        route(&quick) == "primary;version=1" && !left_alone()
    });
    let said = done(&server, &["status", "burn"]);
    assert!(said.contains("fallback  2"), "{said}");
    server.stop();
}

/// There is memory for one of the two models: each request for the other has it loaded, and then goes its way.
#[test]
fn whoever_waits_for_a_model_to_be_loaded_follows_its_rules() {
    let home = Home::new().model("m0", "burn").model("m1", "burn");
    let folder = home.repository().join("m0");
    copy(&folder.join("1"), &folder.join("2"));
    let server = Server::start(home.path(), &home.repository());
    let models = get(&server.operator, "/admin/v1/models").json();
    let bytes = models[1]["versions"][0]["memory_bytes"].as_u64().expect("bytes of m1");
    done(&server, &["set", "m0", "--primary", "1", "--canary", "2=100"]);
    server.stop();
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_LIFECYCLE_MODEL_MEMORY_BYTES", (bytes * 5 / 2).to_string());
    let server = Server::launch(&mut command);
    for _ in 0..3 {
        let quick = crate::support::http::burn(1.0, 1);
        assert_eq!(post(&server.http, &infer_path("m1"), "", &quick).status, 200);
        until("the other is out of memory", || {
            get(&server.operator, "/admin/v1/models").json()[0]["current"].is_null()
        });
        let answer = post(&server.http, &infer_path("m0"), "", &quick);
        assert_eq!(
            (answer.status, answer.header("x-onnxd-route")),
            (200, Some("canary;version=2"))
        );
    }
    server.stop();
}

/// Killed at any moment of a change: on restart the rules are the old ones or the new ones, and every change that was said to be
/// done is there.
#[test]
fn a_kill_in_the_middle_of_a_change_leaves_the_old_rules_or_the_new() {
    let home = home();
    let mut server = Server::start(home.path(), &home.repository());
    done(&server, &["set", "versioned", "--primary", "1"]);
    for round in 0..10u64 {
        let known = get(&server.operator, "/admin/v1/models/versioned/traffic").json();
        let before = known["rules"]["generation"].as_u64().expect("a generation");
        let operator = server.operator.clone();
        let weight = 10 + round;
        let change = thread::spawn(move || {
            let body = json!({"step": {"action": "set", "arms": [{"name": "canary", "version": 2, "weight": weight}]}});
            let path = "/admin/v1/models/versioned/traffic";
            let mut http = Http::try_connect(&operator).ok()?;
            let request =
                crate::support::http::request("POST", path, "", body.to_string().as_bytes());
            http.try_send(&request).ok()?;
            Some(http.try_read(false).ok()??.status)
        });
        // At other moments of the change each time: by how far the file has come, not by the clock.
        let file = home.repository().join("versioned/traffic.yaml");
        let fresh = home.repository().join("versioned/.traffic.new");
        match round % 3 {
            0 => {}
            1 => until("the change has begun", || fresh.exists() || change.is_finished()),
            _ => until("the change is there", || {
                fs::read_to_string(&file)
                    .is_ok_and(|text| text.contains(&format!("generation: {}", before + 1)))
            }),
        }
        drop(server);
        let told = change.join().expect("the client ends");
        server = Server::start(home.path(), &home.repository());
        let rules = get(&server.operator, "/admin/v1/models/versioned/traffic").json();
        let now = rules["rules"]["generation"].as_u64().expect("a generation");
        assert!(now == before || now == before + 1, "{before}: {rules}");
        assert!(told != Some(200) || now == before + 1, "it was said to be done");
        if now > before {
            assert_eq!(rules["rules"]["arms"][0]["weight"], weight as f64, "{rules}");
        }
        assert_eq!(rules["notice"], Value::Null);
    }
    // Where a line was lost, the next change has added it.
    done(&server, &["set", "versioned", "--canary", "2=5"]);
    let history = done(&server, &["history", "versioned", "--output", "json"]);
    let history: Value = serde_json::from_str(&history).expect("JSON");
    let all: Vec<u64> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["generation"].as_u64().expect("a number"))
        .collect();
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    server.stop();
}
