//! Callers, over real sockets: whoever is not known is refused on every port, keys change while it runs, and no key shows.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Command,
};

use onnxd::api::auth::keys::KeyHash;
use rcgen::SanType;

use crate::support::{
    files::Home,
    grpc::{self, Grpc},
    http::{self, Http, infer, infer_path},
    server::{Ended, Server, Socket, run_to_end},
    tls::{self, Authority},
    watch::{self, metric, until, until_busy},
};

/// A key as `onnxd key` makes it, with its hash.
struct Key {
    key: String,
    hash: String,
}

impl Key {
    fn make() -> Key {
        let made = onnxd(&["key", "--output", "json"]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let made: serde_json::Value = serde_json::from_str(&made.stdout).expect("JSON");
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        Key { key: text("key"), hash: text("hash") }
    }

    /// The header, as a whole line.
    fn header(&self) -> String {
        format!("authorization: Bearer {}\r\n", self.key)
    }
}

fn onnxd(args: &[&str]) -> Ended {
    run_to_end(Command::new(env!("CARGO_BIN_EXE_onnxd")).args(args))
}

const LOOPBACK: &str = "127.0.0.1:0";

/// A server over the home's repository with this configuration, and ports HTTP, gRPC and the operator's at these addresses.
fn serve_at(home: &Home, config: &str, addresses: [&str; 3]) -> Server {
    fs::write(home.path().join("onnxd.yaml"), config).expect("the configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.current_dir(home.path()).args(["serve", "--config", "onnxd.yaml"]);
    command.arg("--models").arg(home.repository());
    for (port, address) in ["--http", "--grpc", "--operator"].iter().zip(addresses) {
        command.args([port, address]);
    }
    Server::launch(&mut command)
}

fn serve(home: &Home, config: &str) -> Server {
    serve_at(home, config, [LOOPBACK; 3])
}

#[test]
fn a_key_and_its_hash_belong_together() {
    let [one, two] = [Key::make(), Key::make()];
    assert!(one.key.starts_with("onnxd_") && one.key.len() == 49, "{}", one.key);
    assert_eq!(KeyHash::of(one.key.as_bytes()).text(), one.hash);
    assert_ne!(one.key, two.key);
}

#[test]
fn whoever_is_not_known_is_refused_on_every_socket() {
    let home = Home::of(&["versioned"]);
    let [search, reader, admin] = [Key::make(), Key::make(), Key::make()];
    let config = format!(
        "log: {{level: trace}}\nauth:\n  callers:\n    - {{name: search, keys: '{}'}}\n    - {{name: reader, keys: '{}', roles: [read]}}\n    - {{name: admin, keys: '{}', roles: [admin]}}\n",
        search.hash, reader.hash, admin.hash
    );
    let unix = |name: &str| format!("unix:{}", home.path().join(name).display());
    let sockets = [unix("grpc.sock"), unix("operator.sock")];
    let server = serve_at(&home, &config, [LOOPBACK, &sockets[0], &sockets[1]]);
    assert_eq!(server.grpc, sockets[0]);

    // Both data ports, both protocols, TCP and Unix.
    for address in [&server.http, &server.grpc] {
        let body = http::four(1.0);
        let ask = |headers: &str| infer(address, "versioned", headers, &body);
        assert_eq!(ask("").status, 401);
        assert_eq!(ask("").header("www-authenticate"), Some("Bearer"));
        assert_eq!(ask("authorization: Bearer onnxd_wrong\r\n").status, 401);
        assert_eq!(ask(&search.header().to_uppercase()).status, 401);
        assert!(ask(&reader.header()).error(403).contains("role 'infer'"));
        assert_eq!(ask(&search.header()).output(0), [4.0; 4]);
        assert_eq!(ask(&admin.header()).output(0), [4.0; 4]);

        let request = grpc::four("versioned", 1.0);
        let calls = Grpc::connect(address);
        let refused = calls.infer("", &request);
        assert_eq!(refused.code, 16, "{}", refused.message);
        assert_eq!(calls.call("ServerMetadata", "", b"").code, 16);
        assert_eq!(calls.call("NoSuchMethod", "", b"").code, 16);
        assert_eq!(calls.call("ServerLive", "", b"").code, 0);
        assert_eq!(calls.http("GET", "/v2/models/versioned/ready", b"").0, 200);
        assert_eq!(calls.http("GET", "/v2/models/versioned", b"").0, 401);
        let wrong = Grpc::connect(address).with_key("onnxd_wrong");
        assert_eq!(wrong.infer("", &request).code, 16);
        let denied = Grpc::connect(address).with_key(&reader.key);
        assert_eq!(denied.infer("", &request).code, 7);
        assert_eq!(denied.call("ModelStatistics", "", b"").code, 0);
        let known = Grpc::connect(address).with_key(&search.key);
        assert_eq!(known.infer("", &request).floats(), [4.0; 4]);
        assert_eq!(known.call("ModelStatistics", "", b"").code, 7);
    }
    the_operators_port(&server, &reader, &admin);
    let count = |caller: &str, code: &str| {
        let labels = [format!("caller=\"{caller}\""), format!("code=\"{code}\"")];
        metric(&server, "onnxd_caller_requests_total", &[&labels[0], &labels[1]])
    };
    assert_eq!(count("search", "ok"), 4.0);
    assert_eq!(count("search", "permission_denied"), 2.0);
    assert!(count("unknown", "unauthenticated") >= 14.0);
    no_secret_is_told(&home, server, &[&search, &reader, &admin]);
}

fn the_operators_port(server: &Server, reader: &Key, admin: &Key) {
    let operator = |method: &str, path: &str, key: Option<&Key>| {
        let headers = key.map_or(String::new(), Key::header);
        Http::connect(&server.operator).ask(method, path, &headers, b"").status
    };
    for (path, nobody, reads, admins) in [
        ("/v2/health/ready", 200, 200, 200),
        ("/metrics", 200, 200, 200),
        ("/", 401, 200, 200),
        ("/admin/v1/models", 401, 403, 200),
        ("/nope", 401, 403, 404),
    ] {
        let got = [None, Some(reader), Some(admin)].map(|key| operator("GET", path, key));
        assert_eq!(got, [nobody, reads, admins], "{path}");
    }
    assert_eq!(operator("POST", "/v2/repository/index", Some(reader)), 200);
    assert_eq!(operator("POST", "/v2/repository/models/versioned/unload", Some(reader)), 403);
}

/// Nothing of any key or hash in all that was written, at the most talkative level; the last of `keys` is an admin's.
fn no_secret_is_told(home: &Home, server: Server, keys: &[&Key]) {
    let admin = keys.last().expect("an admin");
    let page = http::get(&server.operator, "/metrics").body;
    let explained = Http::connect(&server.operator).ask(
        "GET",
        "/admin/v1/explain/versioned",
        &admin.header(),
        b"",
    );
    let check = onnxd(&[
        "check",
        "--config",
        home.path().join("onnxd.yaml").to_str().expect("UTF-8"),
        "--output",
        "json",
    ]);
    assert!(check.stdout.contains("sha256:***"), "{}", check.stdout);

    let said = server.said();
    server.stop();
    let all = [
        page,
        explained.body,
        said.into_bytes(),
        check.stdout.into_bytes(),
        check.stderr.into_bytes(),
    ];
    for (at, text) in all.iter().enumerate() {
        let text = String::from_utf8_lossy(text);
        for key in keys {
            let digits = &key.hash["sha256:".len()..];
            for secret in [&key.key["onnxd_".len()..], digits, &digits[..12]] {
                assert!(!text.contains(secret), "output {at} has a secret");
            }
        }
    }
}

/// Connections stay right where a request is refused before its body is read.
#[test]
fn a_refused_body_is_not_waited_for() {
    let home = Home::of(&["versioned"]);
    let key = Key::make();
    let config = format!("auth: {{callers: [{{name: search, keys: '{}'}}]}}\n", key.hash);
    let server = serve(&home, &config);
    let path = infer_path("versioned");
    // The body never comes: neither do we wait for it, nor ask for it.
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut peer = Socket::connect(&server.http).expect("a connection");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\n{expect}content-length: 50000000\r\n\r\n"
        );
        peer.write_all(head.as_bytes()).expect("the head goes out");
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).expect("the connection ends");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(!answer.contains("100 Continue"), "{answer}");
    }
    // One that is there already is passed over: the next request is read from where it begins.
    let mut peer = Http::connect(&server.http);
    let body = http::four(1.0).to_string();
    for _ in 0..3 {
        assert_eq!(peer.ask("POST", &path, "", body.as_bytes()).status, 401);
        assert_eq!(peer.ask("POST", &path, &key.header(), body.as_bytes()).output(0), [4.0; 4]);
    }
    server.stop();
}

#[test]
fn keys_change_without_a_restart() {
    let home = Home::of(&["versioned"]);
    let [old, new] = [Key::make(), Key::make()];
    let file = home.path().join("callers.yaml");
    let write = |keys: &[&Key]| {
        let hashes: Vec<&str> = keys.iter().map(|key| key.hash.as_str()).collect();
        replace(&file, &format!("- {{name: search, keys: {hashes:?}}}\n"));
    };
    write(&[&old]);
    let server = serve(&home, "auth: {file: callers.yaml}\n");
    let status =
        |key: &Key| http::Http::connect(&server.http).ask("GET", "/v2", &key.header(), b"").status;
    assert_eq!([status(&old), status(&new)], [200, 401]);
    write(&[&old, &new]);
    until("the new key is taken", || status(&new) == 200);
    assert_eq!(status(&old), 200);
    write(&[&new]);
    until("the old key is refused", || status(&old) == 401);
    assert_eq!(status(&new), 200);
    // A slip changes nothing, and is told without what stands there.
    replace(&file, &format!("- {{name: search, keys: {}}}\n", old.key));
    until("the slip is told", || server.said().contains("cannot be used"));
    assert!(!server.said().contains(&old.key), "{}", server.said());
    assert_eq!([status(&old), status(&new)], [401, 200]);
    server.stop();
}

/// As an orchestrator does: the name comes to mean another file, whole.
fn replace(file: &Path, text: &str) {
    let fresh = file.with_extension("fresh");
    fs::write(&fresh, text).expect("the fresh file");
    fs::rename(&fresh, file).expect("it takes the name");
}

#[test]
fn a_file_of_callers_that_cannot_be_used_ends_the_start() {
    let home = Home::of(&["versioned"]);
    let repository = home.repository();
    let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--operator", "127.0.0.1:0"];
    let models = repository.to_str().expect("UTF-8");
    let secret = "onnxd_s3cr3t";
    fs::write(home.path().join("bad.yaml"), format!("- name: a\n  keys: {secret}\n"))
        .expect("a file");
    for (file, word) in [("absent.yaml", "cannot be read"), ("bad.yaml", "line 2: expected hashes")]
    {
        let file = home.path().join(file);
        for verb in ["serve", "check"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
            command.args([verb, "--models", models]).args(ports).env("ONNXD_AUTH_FILE", &file);
            let ended = run_to_end(&mut command);
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains(word), "{}", ended.stderr);
            assert!(!ended.stderr.contains("s3cr3t"), "{}", ended.stderr);
        }
    }
}

/// Other machines reach it and nobody is asked who they are: it serves, and says so.
#[test]
fn a_port_that_is_open_to_all_is_told() {
    let home = Home::of(&["versioned"]);
    let open = |config: &str| {
        let server = serve_at(&home, config, ["0.0.0.0:0", LOOPBACK, LOOPBACK]);
        let said = server.said();
        server.stop();
        said.contains("other machines reach this port")
    };
    assert!(open("log: {level: warn}\n"));
    assert!(!open(&format!("auth: {{callers: [{{name: a, keys: '{}'}}]}}\n", Key::make().hash)));
}

/// What never ends by itself; its client's leaving ends it.
const ENDLESS: u64 = 1_000_000_000;

/// Sends one inference of `burn` and does not wait for it.
fn send(server: &Server, key: &Key, x: f64, iters: u64) -> Http {
    let mut peer = Http::connect(&server.http);
    let body = http::burn(x, iters).to_string();
    peer.send(&http::request("POST", &infer_path("burn"), &key.header(), body.as_bytes()));
    peer
}

/// One caller fills the queue: another one is taken in, at the first one's cost, and runs before what the first has waiting.
#[test]
fn a_flood_of_one_caller_leaves_the_others_their_share() {
    let home =
        Home::of(&["burn"]).yaml("burn", "batching: {instances: 1, max_queue_requests: 4}\n");
    let [flood, few] = [Key::make(), Key::make()];
    let config = format!(
        "auth:\n  callers:\n    - {{name: flood, keys: '{}'}}\n    - {{name: few, keys: '{}'}}\n",
        flood.hash, few.hash
    );
    let server = serve(&home, &config);
    let holder = send(&server, &flood, 0.0, ENDLESS);
    until_busy(&server, "burn", 1, 0);
    // One after the other: the last of them is known.
    let mut waiting: Vec<Http> = Vec::new();
    for n in 1..=4u64 {
        waiting.push(send(&server, &flood, n as f64, ENDLESS));
        until_busy(&server, "burn", 1, n);
    }
    send(&server, &flood, 5.0, 1).read().error(429);

    let first = send(&server, &few, 7.0, 1);
    let displaced = waiting.pop().expect("the last of the flood").read();
    assert!(displaced.header("retry-after").is_some());
    displaced.error(429);
    let second = send(&server, &few, 8.0, 1);
    waiting.pop().expect("the one before").read().error(429);
    // Its share is no more than that.
    send(&server, &few, 9.0, 1).read().error(429);
    until_busy(&server, "burn", 1, 4);

    // What the flood still has waiting never ends: had it gone first, nobody else would be answered.
    drop(holder);
    for (x, mut peer) in [(7.0, first), (8.0, second)] {
        assert_eq!(peer.read().output(0), [x]);
    }
    drop(waiting);
    until("all have left", || watch::in_flight(&server, "burn") == 0);
    server.stop();
}

/// A client certificate is who it says it is, on every protocol, and no more than that; a key counts before it.
#[test]
fn a_client_certificate_is_a_caller() {
    let (home, authority) = (Home::of(&["versioned"]), Authority::new());
    authority.issue(|_| {}).write(home.path(), "server");
    fs::write(home.path().join("ca.pem"), &authority.certificate).expect("the authority");
    let reader = Key::make();
    let config = format!(
        "tls: {{certificate: server.pem, key: server.key, listeners: [http, grpc], client_ca: ca.pem, client_certificates: optional}}\nauth:\n  callers:\n    - {{name: batch, certificates: ['spiffe://house/batch']}}\n    - {{name: reader, keys: '{}', roles: [read]}}\n",
        reader.hash
    );
    let server = serve(&home, &config);
    let named = |uri: &str| {
        let uri = SanType::URI(uri.try_into().expect("a URI"));
        let pair = authority.issue(|params| params.subject_alt_names.push(uri));
        authority.client(Some(&pair))
    };
    let (known, stranger, bare) =
        (named("spiffe://house/batch"), named("spiffe://house/batc"), authority.client(None));
    let body = http::four(1.0).to_string();
    let path = infer_path("versioned");
    for address in [&server.http, &server.grpc] {
        let ask = |client: &tls::Client, headers: &str| {
            let mut peer = client.connect(address).expect("a handshake");
            peer.ask("POST", &path, headers, body.as_bytes())
        };
        assert_eq!(ask(&known, "").output(0), [4.0; 4]);
        assert_eq!(ask(&stranger, "").status, 401);
        assert_eq!(ask(&bare, "").status, 401);
        assert!(ask(&known, &reader.header()).error(403).contains("caller 'reader'"));
        assert_eq!(ask(&known, "authorization: Bearer onnxd_wrong\r\n").status, 401);
        for (client, code) in [(&known, 0), (&stranger, 16), (&bare, 16)] {
            let called =
                Grpc::connect_tls(address, client).infer("", &grpc::four("versioned", 1.0));
            assert_eq!(called.code, code, "{}", called.message);
        }
    }
    server.stop();
}
