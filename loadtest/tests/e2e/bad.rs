//! What cannot be done is said before any load, in a line that names the thing, what was expected and what came.

use std::net::TcpListener;

use crate::support::{
    onnxd::Onnxd,
    run::{Home, echo},
};

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in ["http", "grpc"] {
        let words = format!("run --url {url}://{free} --model m --rate 10");
        Home::new().fails(1, &words, &[], &[&free.to_string(), "refused"]);
    }
    let words = "run --url unix:/no/such/socket --model m --rate 10";
    Home::new().fails(1, words, &[], &["/no/such/socket"]);
}

#[test]
fn what_is_wrong_with_a_scenario_is_said_with_its_line() {
    let home = Home::new();
    for (text, says) in [
        ("name: a\ntarget:\n  uri: grpc://a\n", &["s.yaml", "line 3", "uri"][..]),
        ("name: a\nphases:\n- arrivals: {poisson: -4}\n", &["s.yaml", "line 3", "-4"]),
        ("mix: [{model: m}]\nevents:\n- {at: 1s, run: x, when: never}\n", &["line 3", "when"]),
        ("slo:\n  p99: 20\n", &["line 2", "20"]),
        ("name: [\n", &["s.yaml", "line"]),
        ("format: 7\n", &["s.yaml", "format 7", "expected 1"]),
    ] {
        home.write("s.yaml", text);
        home.fails(1, "run s.yaml --url grpc://127.0.0.1:1", &[], says);
    }
    home.fails(1, "run none.yaml", &[], &["none.yaml"]);
    let words = "run --url grpc://127.0.0.1:1 --model m --rate 10 --duration 5s";
    home.fails(1, words, &["--event", "7s: true"], &["event 'event 1'", "7s", "over 5s"]);
}

#[test]
fn what_cannot_be_written_or_watched_is_said_before_any_load() {
    let server = echo("constant:1ms");
    let words = format!("run --url http://{} --model m --rate 10", server.address);
    let home = Home::new();
    home.fails(1, &words, &["--json", "no/such/folder/r.json"], &["no/such/folder/r.json"]);
    let with = ["--metrics", "http://127.0.0.1:1/metrics"];
    home.fails(1, &words, &with, &["http://127.0.0.1:1/metrics", "refused"]);
    let with = ["--metrics", "nowhere"];
    home.fails(1, &words, &with, &["no metrics page: 'nowhere': its scheme is unknown"]);
    home.fails(1, &words, &["--pid", "4294967295"], &["/proc/4294967295"]);
}

#[test]
fn a_model_that_is_not_there_and_shapes_that_do_not_fit_are_named() {
    let Some(server) = Onnxd::start() else { return };
    for url in [format!("grpc://{}", server.grpc), format!("http://{}", server.http)] {
        let run = |rest: &str| format!("run --url {url} --rate 10 {rest}");
        let home = Home::new();
        home.fails(1, &run("--model nonesuch"), &[], &["nonesuch"]);
        home.fails(1, &run("--model wine --model-version 77"), &[], &["wine", "77"]);
        let shape = run("--model wine --shape features=14");
        home.fails(1, &shape, &[], &["features", "14", "13"]);
        home.fails(1, &run("--model wine --shape colour=3"), &[], &["colour", "features"]);
        home.fails(1, &run("--model wine --range colour=0..1"), &[], &["colour"]);
        home.write("in.jsonl", "{\"inputs\": [{\"name\": \"features\", \"shape\": [1, 3], \"datatype\": \"FP32\", \"data\": [1, 2, 3]}]}\n");
        home.fails(1, &run("--model wine --input in.jsonl"), &[], &["in.jsonl", "features"]);
        // Answers of one model are none of the other's.
        let recorded =
            home.call(&format!("golden --url {url} --model digits --out digits.jsonl"), &[]);
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        home.fails(1, &run("--model wine --golden digits.jsonl"), &[], &["digits.jsonl"]);
    }
}

#[test]
fn wrong_usage_is_2() {
    let home = Home::new();
    for (words, says) in [
        ("run --model m --rate 10", "--url"),
        ("run --url grpc://127.0.0.1:1 --model m", "no load"),
        ("run --url grpc://127.0.0.1:1 --model m --search", "objective"),
        ("run --url grpc://127.0.0.1:1 --rate 5 --search --shard 0/2", "--shard"),
    ] {
        home.fails(2, words, &[], &[says]);
    }
    let ended = home.call("run --url grpc://a --model m --rate 5 --shard 2/2", &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("'2/2' is no shard"), "{}", ended.stderr);
}
