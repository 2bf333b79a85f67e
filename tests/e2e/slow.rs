//! Peers that take their time, hundreds of them in every form, cost honest ones nothing and are cut; descriptors that run
//! out come back by themselves.

use std::{
    fs,
    io::{Read, Write},
    os::unix::process::CommandExt,
};

use crate::support::{
    files::Home,
    http::{self, Http, infer_path, request},
    server::{Server, Socket},
    watch::{self, until},
};

/// Of each form.
const PEERS: usize = 75;

fn cut(server: &Server, cause: &str) -> usize {
    let label = format!("cause=\"{cause}\"");
    watch::metric(server, "onnxd_connections_cut_total", &[&label]) as usize
}

#[test]
fn slow_peers_in_four_forms() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let names = ["HEADER", "IDLE", "WRITE", "BODY"];
    let server = Server::launch(
        command.envs(names.map(|name| (format!("ONNXD_{name}_TIMEOUT_MS"), "6000"))),
    );
    let open = || watch::metric(&server, "onnxd_connections_open", &["listener=\"http\""]);
    let infer =
        request("POST", &infer_path("versioned"), "", http::four(1.0).to_string().as_bytes());
    // More bytes of answers than the sockets on the way hold.
    let page = http::get(&server.http, "/openapi.json");
    let pages = request("GET", "/openapi.json", "", b"").repeat((16 << 20) / page.body.len());

    let peer = || Http::connect(&server.http);
    let mut heads: Vec<Http> = (0..PEERS).map(|_| peer()).collect();
    let mut bodies: Vec<Http> = (0..PEERS).map(|_| peer()).collect();
    let mut readers: Vec<Http> = (0..PEERS).map(|_| peer()).collect();
    let mut idle: Vec<Http> = (0..PEERS).map(|_| peer()).collect();
    for client in &mut idle {
        assert_eq!(client.ask("GET", "/v2/health/live", "", b"").status, 200);
    }
    for client in &mut bodies {
        client.send(&infer[..infer.len() - 20]);
    }
    for client in &mut readers {
        client.send(&pages);
    }
    // A byte of a head now and then, while somebody honest asks.
    let mut honest = peer();
    for at in 0..40 {
        for client in &mut heads {
            let _ = client.socket.write(&infer[at..=at]);
        }
        let answer = honest.ask(
            "POST",
            &infer_path("versioned"),
            "",
            http::four(1.0).to_string().as_bytes(),
        );
        assert_eq!(answer.output(0), [4.0; 4]);
        assert_eq!(
            http::infer(&server.http, "versioned", "", &http::four(1.0)).output(0),
            [4.0; 4]
        );
    }
    until("slow heads are cut", || cut(&server, "slow_head") >= PEERS);
    until("slow readers are cut", || cut(&server, "slow_read") >= PEERS);
    until("idle ones are let go", || cut(&server, "idle") >= PEERS);
    for client in heads.iter_mut().chain(&mut idle) {
        let mut rest = Vec::new();
        let _ = client.socket.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    for client in &mut bodies {
        assert!(client.read().error(504).contains("did not arrive within"));
        assert!(!matches!(client.try_read(false), Ok(Some(_))), "the connection ends");
    }
    until("all are gone", || open() <= 1.0);
    server.stop();
}

#[test]
fn bodies_of_other_routes_have_their_time_too() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_BODY_TIMEOUT_MS", "500"));
    for address in [&server.http, &server.operator] {
        let mut client = Http::connect(address);
        client.send(b"POST /v2/repository/index HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n{");
        let answer = client.read();
        assert!((400..600).contains(&answer.status), "{}", answer.status);
        assert!(!matches!(client.try_read(false), Ok(Some(_))), "the connection ends");
    }
    server.stop();
}

/// Descriptors that the server's process has open.
fn descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.id())).expect("it runs").count()
}

#[test]
fn descriptors_that_run_out_come_back() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let limit = libc::rlimit { rlim_cur: 100, rlim_max: 120 };
    // SAFETY: between fork and exec only setrlimit is called, which may be; it reads a local.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let server = Server::launch(&mut command);
    let most = watch::metric(&server, "process_max_fds", &[]);
    assert_eq!(most, 120.0, "the soft limit is raised to the hard one");
    let before = descriptors(&server);
    let mut old = Http::connect(&server.http);
    assert_eq!(old.ask("GET", "/v2/health/live", "", b"").status, 200);
    for _ in 0..2 {
        let held: Vec<_> = (0..200).filter_map(|_| Socket::connect(&server.http).ok()).collect();
        until("it has no more", || server.said().contains("connections cannot be accepted"));
        // Who is in is served.
        let answer =
            old.ask("POST", &infer_path("versioned"), "", http::four(1.0).to_string().as_bytes());
        assert_eq!(answer.output(0), [4.0; 4]);
        drop(held);
        assert_eq!(
            http::infer(&server.http, "versioned", "", &http::four(1.0)).output(0),
            [4.0; 4]
        );
    }
    // It said so, but not at each of its tries.
    let said = server.said().matches("connections cannot be accepted").count();
    assert!(said <= 20, "{said} lines");
    drop(old);
    until("they are closed", || descriptors(&server) <= before);
    server.stop();
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let infer =
        request("POST", &infer_path("versioned"), "", http::four(1.0).to_string().as_bytes());
    let churn = |count: usize| {
        for at in 0..count {
            let mut client = Http::connect(&server.http);
            match at % 4 {
                0 => client.send(&infer),
                1 => client.send(&infer[..at % infer.len()]),
                2 => {
                    client.send(&infer);
                    client.read();
                }
                _ => {}
            }
            // Half of them with a reset instead of an end.
            if let (true, Socket::Tcp(stream)) = (at % 8 < 4, &client.socket) {
                let now = Some(std::time::Duration::ZERO);
                socket2::SockRef::from(stream).set_linger(now).expect("linger");
            }
        }
        until("they are gone", || {
            watch::metric(&server, "onnxd_connections_open", &["listener=\"http\""]) == 0.0
        });
        descriptors(&server)
    };
    let before = churn(100);
    assert!(churn(2000) <= before + 2, "descriptors are left behind");
    server.stop();
}
