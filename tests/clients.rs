//! Runs clients that others wrote (tritonclient, perf_analyzer) against the server: one test a file of tests/clients.

mod support;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use support::{
    files::{clients, copy, python, root, script, succeed, target},
    server::Server,
    tls::{Authority, set_up},
};

const EXAMPLES: [&str; 4] = ["wine", "digits", "diabetes", "language"];
const REAL: [&str; 6] =
    ["magika", "silero_vad", "silero_vad_16k_sequence", "ocr_det", "ocr_rec", "ocr_cls"];

#[test]
fn tritonclient_http() {
    run("test_tritonclient_http.py", &EXAMPLES, &[]);
}

#[test]
fn tritonclient_grpc() {
    run("test_tritonclient_grpc.py", &EXAMPLES, &[]);
}

#[test]
fn tritonclient_aio() {
    run("test_tritonclient_aio.py", &EXAMPLES, &[]);
}

#[test]
fn tritonclient_tls() {
    let authority = Authority::new();
    run_on("test_tritonclient_tls.py", &[], &[], &|command, home| {
        authority.issue(|_| {}).write(home, "server");
        authority.issue(|_| {}).write(home, "client");
        fs::write(home.join("ca.pem"), &authority.certificate).expect("written");
        set_up(command, home).env("ONNXD_TLS_CLIENT_CA", home.join("ca.pem"));
    });
}

#[test]
fn streaming() {
    run("test_streaming.py", &EXAMPLES, &[]);
}

#[test]
fn extensions() {
    run("test_extensions.py", &EXAMPLES, &[]);
}

#[test]
fn shared_memory() {
    run_on("test_shared_memory.py", &EXAMPLES, &[], &|command, _| {
        command.env("ONNXD_SHARED_MEMORY_ALLOW", "[onnxd_test_]");
    });
}

#[test]
fn v1() {
    run("test_v1.py", &EXAMPLES, &[]);
}

#[test]
fn answers() {
    run("test_answers.py", &EXAMPLES, &REAL);
}

#[test]
fn perf_analyzer() {
    run_on("test_perf_analyzer.py", &EXAMPLES, &[], &|command, _| {
        // Whichever keys it chooses.
        command.env("ONNXD_SHARED_MEMORY_ALLOW", "['']");
    });
}

/// The operator test cases of the `onnx` package, each a model: what ONNX Runtime passes passes through the server, over
/// every form of the protocol. tract's share is counted beside it.
#[test]
fn operators() {
    let _alone = one_at_a_time();
    script("setup-tests.sh");
    let home = tempfile::tempdir().expect("a temporary directory");
    let repository = home.path().join("repository");
    fs::create_dir(&repository).expect("the repository's directory");
    let made = succeed(python().arg(clients().join("make_operators.py")).arg(&repository), "make");
    println!("{made}");
    // A number of its own, so that a change of a version that loses cases is seen.
    assert!(made.contains("1548 of them that onnxruntime 1.32.0 passes"), "{made}");

    for backend in ["ort", "tract"] {
        if backend == "tract" && !cfg!(feature = "tract") {
            continue;
        }
        let mut command = Server::command(home.path(), &repository);
        command.env("ONNXD_DEFAULTS_BACKEND", backend).env("ONNXD_DEFAULTS_WARMUP", "false");
        let server = Server::launch(command.env("ONNXD_READINESS", "lenient"));
        let mut ask = python();
        ask.arg(clients().join("operators.py")).args([&server.http, &server.grpc]);
        ask.arg(home.path().join("cases.pickle"));
        if backend == "tract" {
            ask.arg("--count");
        }
        println!("{backend}: {}", succeed(&mut ask, "operators.py"));
        server.stop();
    }
}

#[test]
fn control() {
    run_on("test_control.py", &[], &[], &|command, _| {
        command.arg("--control");
    });
}

#[test]
fn openapi() {
    run("test_openapi.py", &EXAMPLES, &[]);
}

fn run(file: &str, examples: &[&str], real: &[&str]) {
    run_on(file, examples, real, &|_, _| {});
}

/// One server over the test models and those named, set up in its home by `change`, one Python file against it, one clean
/// end.
fn run_on(file: &str, examples: &[&str], real: &[&str], change: &dyn Fn(&mut Command, &Path)) {
    let _alone = one_at_a_time();
    script("setup-tests.sh");
    if !real.is_empty() {
        script("fetch-models.sh");
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let repository = home.path().join("repository");
    fs::create_dir(&repository).expect("the repository's directory");
    for (names, from) in [(examples, root().join("models")), (real, target().join("real-models"))] {
        for name in names {
            copy(&from.join(name), &repository.join(name));
        }
    }
    succeed(python().arg(clients().join("make_models.py")).arg(&repository), "make_models.py");

    let mut command = Server::command(home.path(), &repository);
    change(&mut command, home.path());
    let server = Server::launch(&mut command);
    let out = python()
        .args(["-m", "pytest", "-c"])
        .arg(clients().join("pytest.ini"))
        .arg(clients().join(file))
        .env("CLIENTS_HTTP", &server.http)
        .env("CLIENTS_GRPC", &server.grpc)
        .env("CLIENTS_OPERATOR", &server.operator)
        .env("CLIENTS_REPOSITORY", &repository)
        .output()
        .expect("pytest starts");
    println!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{file} failed; the server said:\n{}", server.said());
    server.stop();
}

/// The machine is small and some clients measure: servers of different tests do not share it.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
