//! A model whose callers saturate it takes nothing from the models and the health checks beside it.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

const ENDLESS: u64 = 1_000_000_000;
const BURNS: u64 = 8;

#[test]
fn small_models_and_health_answer_beside_a_saturated_one() {
    let mut home = Home::of(&["burn", "versioned"]);
    for mode in ["turn", "batch", "single"] {
        home = home.model(mode, "versioned").yaml(mode, &format!("batching: {{mode: {mode}}}\n"));
    }
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_THREADS", "2"));
    let mut burning: Vec<Http> = (0..BURNS).map(|_| Http::connect(&server.http)).collect();
    for (x, client) in burning.iter_mut().enumerate() {
        let body = http::burn(x as f64, ENDLESS).to_string();
        client.send(&http::request("POST", &infer_path("burn"), "", body.as_bytes()));
    }
    watch::until("every burn is in", || watch::in_flight(&server, "burn") == BURNS);

    let calls = Grpc::connect(&server.grpc);
    let began = Instant::now();
    for _ in 0..10 {
        for model in ["versioned", "turn", "batch", "single"] {
            let headers = "x-request-timeout-ms: 30000\r\n";
            assert_eq!(infer(&server.http, model, headers, &http::four(1.0)).output(0), [4.0; 4]);
            assert_eq!(calls.infer("30S", &grpc::four(model, 1.0)).floats(), [4.0; 4], "{model}");
        }
        for address in [&server.http, &server.grpc, &server.operator] {
            assert_eq!(http::get(address, "/v2/health/live").status, 200);
            assert_eq!(http::get(address, "/v2/health/ready").status, 200);
        }
        assert_eq!(calls.call("ServerReady", "30S", b"").code, 0);
    }
    println!("110 answers beside {BURNS} endless runs took {:?}", began.elapsed());
    // Nothing of the saturated model has been answered meanwhile.
    assert_eq!(watch::in_flight(&server, "burn"), BURNS);
    // Those who may run it are still at it once the first have gone: the rest of the line moved up.
    burning.truncate(4);
    watch::until("half have left", || watch::in_flight(&server, "burn") == 4);
    assert_eq!(infer(&server.http, "single", "", &http::four(2.0)).output(0), [5.0; 4]);
    assert!(began.elapsed() < Duration::from_secs(120), "answers, but not in any useful time");
    drop(burning);
    watch::until("all have left", || watch::in_flight(&server, "burn") == 0);
    assert_eq!(infer(&server.http, "burn", "", &http::burn(6.0, 1)).output(0), [6.0]);
    server.stop();
}

#[test]
fn a_queue_four_times_full_is_nobody_elses_trouble() {
    const QUEUE: u64 = 16;
    let home = Home::of(&["burn", "versioned"])
        .yaml("burn", &format!("batching: {{instances: 1, max_queue_requests: {QUEUE}}}\n"))
        .model("single", "versioned")
        .yaml("single", "batching: {mode: single}\n");
    let server = Server::start(home.path(), &home.repository());
    let request = |x: u64, iters| {
        let body = http::burn(x as f64, iters).to_string();
        http::request("POST", &infer_path("burn"), "", body.as_bytes())
    };
    let mut holder = Http::connect(&server.http);
    holder.send(&request(0, ENDLESS));
    watch::until_busy(&server, "burn", 1, 0);
    let mut callers: Vec<Http> = (0..4 * QUEUE).map(|_| Http::connect(&server.http)).collect();
    for (x, caller) in callers.iter_mut().enumerate() {
        caller.send(&request(x as u64, 1));
    }
    let refused = || watch::ended_with(&server, "burn", "overloaded");
    watch::until("the surplus is refused", || refused() == 3 * QUEUE);
    assert_eq!(watch::shed(&server, "burn", "queue_full"), 3 * QUEUE);

    let calls = Grpc::connect(&server.grpc);
    for _ in 0..10 {
        for model in ["versioned", "single"] {
            assert_eq!(infer(&server.http, model, "", &http::four(1.0)).output(0), [4.0; 4]);
            assert_eq!(calls.infer("30S", &grpc::four(model, 1.0)).floats(), [4.0; 4], "{model}");
        }
        for address in [&server.http, &server.grpc, &server.operator] {
            assert_eq!(http::get(address, "/v2/health/ready").status, 200);
        }
    }
    assert_eq!(watch::in_flight(&server, "burn"), QUEUE + 1, "the rest waits still");
    drop(holder);
    let answers: Vec<u16> = callers.iter_mut().map(|caller| caller.read().status).collect();
    assert_eq!(answers.iter().filter(|status| **status == 200).count() as u64, QUEUE);
    server.stop();
}

/// How far each thread of a server has stepped back, as `nice` counts, by its name.
fn stepped_back(server: &Server) -> BTreeMap<String, i32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.id())).expect("it runs");
    let thread = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        // The nineteenth field of all.
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    tasks.flatten().filter_map(thread).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn threads_that_serve_nobody_make_way() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let niceness = stepped_back(&server);
    let usual = niceness["onnxd"];
    for (name, nice) in &niceness {
        let expected = match name.as_str() {
            "onnxd-eyes" | "onnxd-manager" | "onnxd-load-0" => 10,
            "onnxd-sweeper" | "onnxd-load-1" => 19,
            // Its sessions' threads serve, and have the priority of the one that opens them.
            "onnxd-load-2" => usual,
            name if name.starts_with("onnxd-net") || name.starts_with("onnxd-exec") => usual,
            _ => continue,
        };
        assert_eq!(*nice, expected.max(usual), "{name}: {niceness:?}");
    }
    for name in ["onnxd-eyes", "onnxd-manager", "onnxd-load-1", "onnxd-net-0", "onnxd-exec-0"] {
        assert!(niceness.contains_key(name), "no {name}: {niceness:?}");
    }
    server.stop();
}
