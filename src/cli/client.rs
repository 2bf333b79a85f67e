//! How commands ask a running server: plain, over TLS, or by a Unix socket; one request a connection.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

use super::{Failure, settings::Ports};
use crate::{
    api::{address::Address, tls_probe},
    telemetry::registry::Listener,
};

/// Bytes of an answer that are read: more than ten thousand models take.
const MOST: u64 = 256 << 20;

/// How the port is spoken to.
pub enum Over<'a> {
    Plain,
    Tls(Option<tls_probe::Pair<'a>>),
}

/// What a connection is, whatever it runs over.
pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Connects, and has `exchange` ask and read. Each step may take `timeout`.
pub fn over<T>(
    address: &Address,
    over: &Over<'_>,
    timeout: Duration,
    exchange: impl FnOnce(&mut dyn Stream) -> io::Result<T>,
) -> io::Result<T> {
    let mut stream: Box<dyn Stream> = match address {
        Address::Tcp(address) => {
            let stream = connect(&reachable(address), timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Box::new(stream)
        }
        Address::Off => {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the port is off"));
        }
    };
    match over {
        Over::Plain => exchange(&mut *stream),
        Over::Tls(pair) => exchange(&mut tls_probe::over(stream, pair.as_ref())?),
    }
}

/// A server that listens on every address is asked on loopback.
fn reachable(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A model's name as a segment of a path.
pub fn escaped(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Where the operator's port is, and who asks.
#[derive(clap::Args, Debug)]
pub struct OperatorArgs {
    /// Milliseconds to wait for the answer
    #[arg(long, value_name = "MS", default_value_t = 600_000)]
    timeout_ms: u64,
    /// File with a caller's key, where callers are configured
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Client certificate to show where the port asks for one, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The client certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    #[command(flatten)]
    ports: Ports,
}

impl OperatorArgs {
    /// Sends one request to the operator's port, and gives the JSON that comes back.
    ///
    /// # Errors
    /// What the server says against it, or why nobody answers.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let config = self.ports.load()?.config;
        let address = config.operator;
        let pair = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some(tls_probe::Pair { certificate, key }),
            _ => None,
        };
        let tls = config.tls.covers(Listener::Operator);
        let key = self.key(tls)?;
        let way = if tls { Over::Tls(pair) } else { Over::Plain };
        let timeout = Duration::from_millis(self.timeout_ms.max(1));
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request(method, path, key.as_deref(), &body);
        let (status, answer) = over(&address, &way, timeout, |stream| exchange(stream, &request))
            .map_err(|error| {
            Failure::failed(format!("the operator's port {address} does not answer: {error}"))
        })?;
        let said: Value = serde_json::from_slice(&answer).map_err(|error| {
            Failure::failed(format!("{address} answers {status} and no JSON: {error}"))
        })?;
        match status {
            200 => Ok(said),
            _ => {
                let why = said["error"].as_str().unwrap_or("no reason is given");
                Err(Failure::failed(format!("{why} ({status})")))
            }
        }
    }

    fn key(&self, tls: bool) -> Result<Option<String>, Failure> {
        let Some(file) = &self.key_file else { return Ok(None) };
        let shown = file.display();
        if tls {
            return Err(Failure::failed(
                "--key-file: the operator's port has TLS, whose certificate this command does not verify, and it \
                 sends no secret to whom it does not know: show a client certificate, or use a Unix socket or curl",
            ));
        }
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::failed(format!("{shown}: cannot be read: {error}")))?;
        let key = text.trim();
        match key.bytes().all(|b| b.is_ascii_graphic()) && !key.is_empty() {
            true => Ok(Some(key.to_owned())),
            false => Err(Failure::failed(format!("{shown}: expected one key and nothing else"))),
        }
    }
}

fn request(method: &str, path: &str, key: Option<&str>, body: &str) -> String {
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Status and body.
fn exchange(stream: &mut dyn Stream, request: &str) -> io::Result<(u16, Vec<u8>)> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let broken = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut reader = BufReader::new(stream.take(MOST));
    let mut status = None;
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(broken("the answer ends in its head"));
        }
        let line = line.trim_end();
        if status.is_none() {
            let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
            status = Some(code.ok_or_else(|| broken("that is no HTTP"))?);
        } else if line.is_empty() {
            break;
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let length = length.ok_or_else(|| broken("the answer does not say how long it is"))?;
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    if body.len() as u64 != length {
        return Err(broken("the answer is cut off"));
    }
    Ok((status.unwrap_or_default(), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked, and what comes back.
    struct Wire(Vec<u8>, io::Cursor<Vec<u8>>);

    impl Read for Wire {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1.read(buffer)
        }
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((200, "{}"))),
            ("HTTP/1.1 404 Not Found\r\ncontent-length:2\r\n\r\n[]more", Some((404, "[]"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", None),
            ("HTTP/1.1 200 OK\r\n\r\n{}", None),
            ("HTTP/1.1 200 OK\r\nContent", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("", None),
        ] {
            let mut wire = Wire(Vec::new(), io::Cursor::new(answer.into()));
            let request = request("POST", "/x", Some("k"), "{}");
            let got = exchange(&mut wire, &request).ok();
            let got = got.map(|(status, body)| (status, String::from_utf8(body).unwrap()));
            assert_eq!(got, expected.map(|(s, b)| (s, b.to_owned())), "{answer:?}");
            assert_eq!(wire.0, request.as_bytes());
        }
    }

    #[test]
    fn names_and_addresses_are_made_fit() {
        assert_eq!(escaped("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(reachable("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(reachable("[::]:8000"), "[::1]:8000");
        assert_eq!(reachable("models:8000"), "models:8000");
    }
}
