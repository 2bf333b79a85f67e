//! The real server over the example models, where it is built beside the harness.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::process::{Running, sibling, wait_for};

pub struct Onnxd {
    pub process: Running,
    pub http: String,
    pub grpc: String,
    pub operator: String,
}

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Onnxd {
    /// Serves those of models/ that any runtime runs, on ports that the system chooses; none where the binary is not built (`cargo test -p onnxd-loadtest` alone).
    pub fn start() -> Option<Onnxd> {
        Onnxd::started(&["127.0.0.1:0"; 3], |_| {})
    }

    /// The same with more settings.
    pub fn start_with(more: impl FnOnce(&mut Command)) -> Option<Onnxd> {
        Onnxd::started(&["127.0.0.1:0"; 3], more)
    }

    /// The same with another address for the protocol's HTTP port, which speaks gRPC as well.
    pub fn start_on(address: &str) -> Option<Onnxd> {
        Onnxd::started(&[address, "127.0.0.1:0", "127.0.0.1:0"], |_| {})
    }

    fn started(addresses: &[&str; 3], more: impl FnOnce(&mut Command)) -> Option<Onnxd> {
        let Some(binary) = sibling("onnxd") else {
            println!(
                "skipped: onnxd is not built beside onnxd-loadtest (scripts/test.sh builds it)"
            );
            return None;
        };
        let mut command = Command::new(binary);
        command.args(["serve", "--models"]).arg(root().join("models")).stdout(Stdio::null());
        command.args(["--load", "wine,digits"]);
        for (port, address) in ["--http", "--grpc", "--operator"].into_iter().zip(addresses) {
            command.args([port, address]);
        }
        more(&mut command);
        let process = Running::start(&mut command);
        let line = process.line("listening http=");
        let address = |key: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            value.unwrap_or_else(|| panic!("no {key} in {line:?}")).to_owned()
        };
        let (http, grpc) = (address("http="), address("grpc="));
        let server = Onnxd { process, http, grpc, operator: address("operator=") };
        wait_for("onnxd is ready", || {
            let ready = get(&server.operator, "/v2/health/ready");
            ready.starts_with("HTTP/1.1 200").then_some(())
        });
        Some(server)
    }

    /// One request over HTTP and its whole answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut peer = TcpStream::connect(&self.http).expect("it listens");
        let length = body.len();
        write!(
            peer,
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("the request goes out");
        let mut answer = String::new();
        peer.read_to_string(&mut answer).expect("the answer arrives");
        answer
    }
}

/// The whole answer to a request without a body.
fn get(address: &str, path: &str) -> String {
    let mut peer = TcpStream::connect(address).expect("it listens");
    write!(peer, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .expect("the request goes out");
    let mut answer = String::new();
    peer.read_to_string(&mut answer).expect("the answer arrives");
    answer
}
