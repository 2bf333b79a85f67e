//! ONNX Runtime's official builds report to their maker unless told not to: no file of theirs, no socket to elsewhere.

use std::{collections::BTreeSet, fs};

use crate::support::{
    files::{Home, below},
    grpc::{self, Grpc},
    http::{self, Http, infer_path},
    server::Server,
};

/// The process's internet sockets that reach, or could reach, beyond this machine: their lines of /proc/net.
fn strangers(process: u32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{process}/fd")).expect("the process's descriptors");
    let inodes: BTreeSet<String> = fds
        .flatten()
        .filter_map(|fd| {
            let link = fs::read_link(fd.path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        // A kernel without IPv6 has no tables of it.
        let Ok(lines) = fs::read_to_string(format!("/proc/{process}/net/{table}")) else {
            continue;
        };
        for line in lines.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let own = fields.get(9).is_some_and(|inode| inodes.contains(*inode));
            // 127.0.0.1 as the kernel writes it: the server was told to listen there and nowhere else.
            if own && !fields[1].starts_with("0100007F:") {
                found.push(format!("{table}: {line}"));
            }
        }
    }
    found
}

#[test]
fn nothing_is_written_and_nobody_is_called() {
    let home = Home::of(&["wine", "digits", "diabetes", "language", "versioned"]);
    let fresh = tempfile::tempdir().expect("a temporary directory");
    let folder = |name: &str| {
        let path = fresh.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    };
    let server = Server::launch(
        Server::command(home.path(), &home.repository())
            .env("HOME", folder("home"))
            .env("XDG_CACHE_HOME", folder("cache"))
            .env("XDG_DATA_HOME", folder("data"))
            .env("XDG_CONFIG_HOME", folder("config"))
            .env("XDG_STATE_HOME", folder("state"))
            .env("TMPDIR", folder("tmp"))
            .env_remove("ORT_DISABLE_TELEMETRY"),
    );
    assert!(server.said().contains("loaded ONNX Runtime"), "on tract this shows nothing");
    let calls = Grpc::connect(&server.grpc);
    let mut client = Http::connect(&server.http);
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let body = http::wine().to_string();
        assert_eq!(client.ask("POST", &infer_path("wine"), "", body.as_bytes()).status, 200);
        assert_eq!(calls.infer("", &grpc::four("versioned", 1.0)).code, 0);
        seen.extend(strangers(server.id()));
    }
    assert!(seen.is_empty(), "sockets to elsewhere: {seen:#?}");
    server.stop();
    let written = below(fresh.path());
    assert!(written.is_empty(), "files that nobody asked for: {written:#?}");
}
