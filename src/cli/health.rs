//! `onnxd health`: asks a running server, for container probes and scripts.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::{
    Failure,
    client::{self, Over, escaped},
    output::{self, Output},
    settings::Ports,
};
use crate::{
    api::{address::Address, tls_probe},
    telemetry::registry::Listener,
};

/// Ask a running server whether it is ready
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd health\n  onnxd health --http 127.0.0.1:9000 --live\n  onnxd health --model iris\n\nExit codes: 0 yes, 1 nobody answers, 3 no."
)]
pub struct Args {
    /// Whether it is alive, rather than ready
    #[arg(long, conflicts_with = "model")]
    live: bool,
    /// Whether this model is ready, rather than the server
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Milliseconds to wait for the answer
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    timeout_ms: u64,
    /// Client certificate to show where the port asks for one, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The client certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    ports: Ports,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let config = args.ports.load()?.config;
    // Both data ports speak both protocols; the operator's port has health as well. One without TLS, where there is one.
    let [http, grpc, operator] = Listener::ALL;
    let ports = [(config.http, http), (config.grpc, grpc), (config.operator, operator)];
    let (address, tls) = ports
        .into_iter()
        .filter(|(address, _)| *address != Address::Off)
        .map(|(address, listener)| (address, config.tls.covers(listener)))
        .min_by_key(|(_, tls)| *tls)
        .ok_or_else(|| Failure::failed("every port is off"))?;
    let pair = match (&args.client_certificate, &args.client_key) {
        (Some(certificate), Some(key)) => Some(tls_probe::Pair { certificate, key }),
        _ => None,
    };
    let over = if tls { Over::Tls(pair) } else { Over::Plain };
    let (path, what) = match (&args.model, args.live) {
        (Some(model), _) => {
            (format!("/v2/models/{}/ready", escaped(model)), format!("model {model}"))
        }
        (None, true) => ("/v2/health/live".to_owned(), "server".to_owned()),
        (None, false) => ("/v2/health/ready".to_owned(), "server".to_owned()),
    };
    let timeout = Duration::from_millis(args.timeout_ms.max(1));
    let status = get(&address, &over, &path, timeout)
        .map_err(|error| Failure::failed(format!("{address} does not answer: {error}")))?;
    let holds = status == 200;
    let word = if args.live { "alive" } else { "ready" };
    match args.output {
        Output::Text if holds => output::say(&format!("{what} at {address}: {word}")),
        Output::Text => {}
        Output::Json => output::show(
            &serde_json::json!({"address": address.to_string(), "status": status, (word): holds}),
            Output::Json,
        ),
    }
    match status {
        200 => Ok(ExitCode::SUCCESS),
        404 => Err(Failure::does_not_hold(format!("{what} at {address}: not known there"))),
        _ => Err(Failure::does_not_hold(format!("{what} at {address}: not {word} ({status})"))),
    }
}

/// The status of `GET path`.
fn get(address: &Address, over: &Over<'_>, path: &str, timeout: Duration) -> io::Result<u16> {
    client::over(address, over, timeout, |stream| exchange(stream, path))
}

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    // The status stands in the first 12 bytes; nothing of the rest is needed.
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    status(&head).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP"))
}

/// `HTTP/1.1 200`
fn status(head: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?;
    text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(answer: &'static [u8]) -> (Address, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("bound").to_string());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut request = [0; 512];
            let read = stream.read(&mut request).expect("a request");
            stream.write_all(answer).expect("the caller waits");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (address, thread)
    }

    #[test]
    fn the_status_is_read() {
        let wait = Duration::from_secs(5);
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], Some(200)),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Some(503)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", None),
            (b"HTTP", None),
        ] {
            let (address, thread) = server(answer);
            assert_eq!(get(&address, &Over::Plain, "/v2/health/ready", wait).ok(), expected);
            let request = thread.join().expect("no panic");
            assert!(request.starts_with("GET /v2/health/ready HTTP/1.1\r\n"), "{request}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("bound").to_string());
        let error = get(&address, &Over::Plain, "/", Duration::from_millis(50))
            .expect_err("nobody answers");
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    }
}
