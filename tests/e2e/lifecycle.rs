//! What load and unload leave behind: nothing. And repositories of many models.

use std::{fs, process::Command, thread};

use serde_json::json;

use crate::support::{
    files::Home,
    http::{Http, burn, four, get, infer, infer_path, post},
    server::Server,
    watch::until,
};

/// Cycles that warm everything up, and those that are held against them.
const FIRST: usize = 50;
const FURTHER: usize = 100;
/// Bytes that a cycle may add: what a rival was held to.
const MOST_A_CYCLE: u64 = 200_000;

/// What a process holds: bytes resident, threads, open files.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident: u64,
    threads: u64,
    files: usize,
}

fn held(server: &Server) -> Held {
    let process = format!("/proc/{}", server.id());
    let status = fs::read_to_string(format!("{process}/status")).expect("a status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("no {name} in {status}"))
    };
    let files = fs::read_dir(format!("{process}/fd")).expect("its files").count();
    Held { resident: field("VmRSS:") * 1024, threads: field("Threads:"), files }
}

#[test]
fn cycles_of_load_and_unload_leave_nothing_behind() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let mut operator = Http::connect(&server.operator);
    let mut client = Http::connect(&server.http);
    let mut cycle = || {
        for verb in ["unload", "load"] {
            let path = format!("/v2/repository/models/versioned/{verb}");
            assert_eq!(operator.ask("POST", &path, "", b"{}").status, 200);
        }
        let body = four(1.0).to_string();
        let answer = client.ask("POST", &infer_path("versioned"), "", body.as_bytes());
        assert_eq!(answer.output(0), [4.0; 4]);
    };
    (0..FIRST).for_each(|_| cycle());
    let before = held(&server);
    (0..FURTHER).for_each(|_| cycle());
    let grown = || held(&server).resident.saturating_sub(before.resident);
    until("what was unloaded is free", || grown() < MOST_A_CYCLE * FURTHER as u64);
    until("no thread is left", || held(&server).threads <= before.threads);
    until("no file is left open", || held(&server).files <= before.files);
    server.stop();
}

/// Three hundred models: all of them serve, the index has each, and it stays so when some go.
#[test]
fn a_repository_of_many_models_is_served_and_listed() {
    const MANY: usize = 300;
    let home = Home::of(&["versioned"]);
    let model = home.read("versioned/1/model.onnx");
    fs::remove_dir_all(home.repository().join("versioned")).expect("only the copies count");
    let home = (0..MANY).fold(home, |home, n| home.file(&format!("m{n:03}/1/model.onnx"), &model));
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_DEFAULTS_WARMUP", "false"));
    let index = || {
        let body = json!({"ready": true});
        let index = post(&server.http, "/v2/repository/index", "", &body).json();
        index.as_array().expect("a list").len()
    };
    assert_eq!(index(), MANY);
    let answer = post(&server.http, &infer_path("m123"), "", &four(1.0));
    assert_eq!(answer.output(0), [2.0; 4]);
    let some: Vec<String> = (0..MANY).step_by(2).map(|n| format!("m{n:03}")).collect();
    let mut unload = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    let unload = unload.args(["models", "unload", "--operator", &server.operator]).args(&some);
    assert!(unload.output().expect("it runs").status.success());
    assert_eq!(index(), MANY / 2);
    assert_eq!(get(&server.http, "/v2/health/ready").status, 200);
    server.stop();
}

/// More models than there is memory for: whoever asks gets an answer, and the budget holds.
#[test]
fn models_beyond_the_memory_budget_are_loaded_when_somebody_asks() {
    const MODELS: usize = 8;
    const BUDGET: u64 = 400_000;
    let home = (0..MODELS).fold(Home::new(), |home, n| home.model(&format!("m{n}"), "burn"));
    let mut command = Server::command(home.path(), &home.repository());
    command.env("ONNXD_LIFECYCLE_MODEL_MEMORY_BYTES", BUDGET.to_string());
    let server = Server::launch(&mut command);
    let in_memory = || {
        let models = get(&server.operator, "/admin/v1/models").json();
        let versions = models
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|model| model["versions"].as_array().cloned().unwrap_or_default());
        let bytes: Vec<u64> = versions.filter_map(|v| v["memory_bytes"].as_u64()).collect();
        (bytes.len(), bytes.iter().sum::<u64>())
    };
    until("the budget holds at the start", || in_memory().1 <= BUDGET);
    assert!(in_memory().0 < MODELS, "not all of them fit");
    thread::scope(|scope| {
        for client in 0..3 {
            let server = &server;
            scope.spawn(move || {
                for n in (0..MODELS).cycle().skip(client).take(3 * MODELS) {
                    let answer = infer(&server.http, &format!("m{n}"), "", &burn(1.0, 1));
                    assert_eq!(answer.output(0), [1.0], "m{n}");
                }
            });
        }
    });
    until("the budget holds", || in_memory().1 <= BUDGET);
    // Who cannot wait that long is told so.
    let parked = || get(&server.operator, "/admin/v1/models").json();
    let parked = parked().as_array().expect("models").iter().find_map(|model| {
        model["current"].is_null().then(|| model["name"].as_str().unwrap_or_default().to_owned())
    });
    let late = infer(
        &server.http,
        &parked.expect("one is out"),
        "x-request-timeout-ms: 1\r\n",
        &burn(1.0, 1),
    );
    assert!([200, 504].contains(&late.status), "{}", late.status);
    server.stop();
}
