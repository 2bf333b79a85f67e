//! Starts that cannot work end at once and name what is wrong; ports go where they are told, or nowhere.

use std::{net::TcpListener, process::Command};

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, infer},
    server::{Ended, Server, run_to_end},
};

fn serve(args: &[&str]) -> Ended {
    run_to_end(Command::new(env!("CARGO_BIN_EXE_onnxd")).arg("serve").args(args))
}

/// A start that fails: exit code 1, before anything is served, with this in its message.
#[track_caller]
fn fails(args: &[&str], words: &[&str]) {
    let ended = serve(args);
    assert_eq!(ended.code, Some(1), "{args:?}: {}", ended.stderr);
    assert!(!ended.stderr.contains("listening http="), "{}", ended.stderr);
    // Not the last line always: the log has a writer of its own.
    let complaint = ended.stderr.lines().find(|line| line.starts_with("onnxd: ")).unwrap_or("");
    for word in words {
        assert!(complaint.contains(word), "{args:?}: no {word:?} in {}", ended.stderr);
    }
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::of(&["versioned"]);
    let repository = home.repository();
    let models = repository.to_str().expect("UTF-8");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    for port in ["--http", "--grpc", "--operator"] {
        let mut args = vec!["--models", models];
        for other in ["--http", "--grpc", "--operator"] {
            args.extend([other, if other == port { taken.as_str() } else { "127.0.0.1:0" }]);
        }
        fails(&args, &[&taken]);
    }
}

#[test]
fn a_repository_or_model_that_is_not_there_is_named() {
    let home = Home::of(&["versioned"]);
    let repository = home.repository();
    let models = repository.to_str().expect("UTF-8");
    let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--operator", "127.0.0.1:0"];
    let absent = home.path().join("absent");
    let absent = absent.to_str().expect("UTF-8");
    fails(&[&["--models", absent], &ports[..]].concat(), &[absent]);
    fails(
        &[&["--models", models, "--load", "versioned,nonesuch"], &ports[..]].concat(),
        &["nonesuch"],
    );
    fails(&[&["--models", models, "--log-format", "loud"], &ports[..]].concat(), &["loud"]);
    let absent = format!("{absent}.yaml");
    fails(&["--config", &absent], &[&absent]);
}

#[test]
fn a_flag_or_command_that_is_none_is_wrong_usage() {
    assert_eq!(serve(&["--speed", "9"]).code, Some(2));
    let none = run_to_end(Command::new(env!("CARGO_BIN_EXE_onnxd")).arg("sreve"));
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains("serve"), "it says what was meant: {}", none.stderr);
}

#[test]
fn only_the_models_asked_for_are_loaded() {
    let home = Home::of(&["versioned", "simple"]);
    let server = Server::launch(
        Server::command(home.path(), &home.repository()).args(["--load", "versioned"]),
    );
    assert_eq!(http::get(&server.http, "/v2/models/versioned/ready").status, 200);
    assert_eq!(http::get(&server.http, "/v2/models/simple/ready").status, 503);
    server.stop();
}

#[test]
fn unix_sockets_carry_every_port() {
    let home = Home::of(&["versioned"]);
    let [http, grpc, operator] = ["h", "g", "o"]
        .map(|name| format!("unix:{}", home.path().join(name).to_str().expect("UTF-8")));
    // A socket that a killed server left is no reason to fail.
    drop(std::os::unix::net::UnixListener::bind(home.path().join("h")).expect("a socket"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.arg("serve").arg("--models").arg(home.repository()).current_dir(home.path());
    let server =
        Server::launch(command.args(["--http", &http, "--grpc", &grpc, "--operator", &operator]));
    assert_eq!([&server.http, &server.grpc, &server.operator], [&http, &grpc, &operator]);
    assert_eq!(infer(&http, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);
    let called = Grpc::connect(&grpc).infer("", &grpc::four("versioned", 1.0));
    assert_eq!(called.floats(), [4.0; 4]);
    let page = http::get(&operator, "/metrics");
    assert!(String::from_utf8_lossy(&page.body).contains("onnxd_requests_total"));

    // A socket that somebody answers on is taken.
    let repository = home.repository();
    let models = repository.to_str().expect("UTF-8");
    fails(&["--models", models, "--http", &http, "--grpc", "off", "--operator", "off"], &[&http]);
    assert_eq!(http::get(&http, "/v2/health/live").status, 200, "and still its own");
    server.stop();
    for name in ["h", "g", "o"] {
        assert!(!home.path().join(name).exists(), "{name} is left behind");
    }
}

#[test]
fn a_port_that_is_off_is_closed_and_its_protocol_is_not() {
    let home = Home::of(&["versioned"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.arg("serve").arg("--models").arg(home.repository()).current_dir(home.path());
    let server = Server::launch(command.args([
        "--http",
        "off",
        "--grpc",
        "127.0.0.1:0",
        "--operator",
        "off",
    ]));
    assert_eq!((&*server.http, &*server.operator), ("off", "off"));
    assert_eq!(infer(&server.grpc, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);
    let called = Grpc::connect(&server.grpc).infer("", &grpc::four("versioned", 1.0));
    assert_eq!(called.floats(), [4.0; 4]);
    server.stop();
}
