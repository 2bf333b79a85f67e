//! Where a server's own figures are read: a metrics page by HTTP, processes by `/proc`.

use std::{
    fmt, fs, io,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use super::reading::Process;
use crate::{
    drive::ask::{Said, ask_within},
    plan::{Tls, Wire},
    url::Url,
};

/// A page of ten thousand loaded versions is about this long.
const MAX_PAGE_BYTES: u64 = 128 << 20;

/// A metrics page: `http://HOST[:PORT][/PATH]`, the same with an s for TLS, or `unix:PATH` for the page `/metrics` of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    Web(Url),
    Unix(PathBuf),
}

impl FromStr for Page {
    type Err = String;

    fn from_str(text: &str) -> Result<Page, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Page::Unix(PathBuf::from(path)));
        }
        let url = text.parse::<Url>();
        let mut url = url.map_err(|e| format!("no metrics page: {e} or unix:PATH"))?;
        if matches!(&*url.path, "" | "/") {
            "/metrics".clone_into(&mut url.path);
        }
        Ok(Page::Web(url))
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Page::Web(url) => url.fmt(f),
            Page::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Page {
    /// Its text. Everything together may take `limit`, but for the resolver, which has limits of its own. `tls`: how its certificate is
    /// looked at, where it has one.
    pub fn fetch(&self, limit: Duration, tls: &Tls) -> Result<String, String> {
        let end = Instant::now() + limit;
        let got = match self {
            Page::Web(url) if url.secure => {
                let text = ask_securely(url, tls, limit);
                return text.map_err(|e| format!("{self}: {e}"));
            }
            Page::Web(url) => connect(&url.host, url.port, end)
                .and_then(|peer| ask(peer, &url.authority(), &url.path, end)),
            Page::Unix(path) => {
                UnixStream::connect(path).and_then(|peer| ask(peer, "localhost", "/metrics", end))
            }
        };
        let bytes = got.map_err(|e| format!("{self}: {}", reason(&e)))?;
        page(&bytes).map_err(|e| format!("{self}: {e}"))
    }
}

fn ask_securely(url: &Url, tls: &Tls, limit: Duration) -> Result<String, String> {
    let target = url.target(tls);
    let (path, host) = (&url.path, &target.authority);
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{ACCEPT}\r\n\r\n");
    match ask_within(&target, Wire::Http(head.into_bytes().into()), limit)? {
        Said::Good(body, _) => Ok(String::from_utf8_lossy(&body).into_owned()),
        Said::Bad(code, said) => {
            let said: String = said.chars().take(80).collect();
            Err(format!("expected status 200, got {code}: {said}"))
        }
    }
}

/// The text format, in the version that every exporter has.
const ACCEPT: &str = "accept: text/plain;version=0.0.4, text/plain;q=0.5";

fn reason(error: &io::Error) -> String {
    match error.kind() {
        // A read that runs into its limit says "resource temporarily unavailable".
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

/// A socket whose reads and writes may be given a limit.
trait Peer: Read + Write {
    fn limit(&self, left: Duration) -> io::Result<()>;
}

impl Peer for TcpStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left)).and_then(|()| self.set_write_timeout(Some(left)))
    }
}

impl Peer for UnixStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left)).and_then(|()| self.set_write_timeout(Some(left)))
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn connect(host: &str, port: u16, end: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(end)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// HTTP/1.0, so that the answer is neither in chunks nor followed by another: its body ends with the connection.
fn ask(mut peer: impl Peer, host: &str, path: &str, end: Instant) -> io::Result<Vec<u8>> {
    peer.limit(left(end)?)?;
    let head = format!("GET {path} HTTP/1.0\r\nhost: {host}\r\n{ACCEPT}\r\n\r\n");
    peer.write_all(head.as_bytes())?;
    let (mut bytes, mut part) = (Vec::new(), [0; 1 << 14]);
    loop {
        peer.limit(left(end)?)?;
        match peer.read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > MAX_PAGE_BYTES {
            let text = format!("longer than {} MiB", MAX_PAGE_BYTES >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        // A server that keeps the connection open all the same has said how long its answer is.
        if is_whole(&bytes) {
            return Ok(bytes);
        }
    }
}

/// Where the body begins, and the head's text.
fn head(bytes: &[u8]) -> Option<(usize, &str)> {
    // A head is short; a page that has none is not searched from end to end each time.
    let start = &bytes[..bytes.len().min(1 << 16)];
    let at = start.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((at + 4, std::str::from_utf8(&bytes[..at]).ok()?))
}

fn content_length(head: &str) -> Option<usize> {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(header)
}

fn is_whole(bytes: &[u8]) -> bool {
    head(bytes)
        .and_then(|(body, head)| content_length(head).map(|n| bytes.len() - body >= n))
        .unwrap_or(false)
}

/// The page in an answer.
fn page(bytes: &[u8]) -> Result<String, String> {
    let Some((body, head)) = head(bytes) else { return Err("no HTTP answer".to_owned()) };
    let status = head.split_ascii_whitespace().nth(1).unwrap_or("");
    if !head.starts_with("HTTP/") || status != "200" {
        let line = head.lines().next().unwrap_or("");
        return Err(format!(
            "expected status 200, got '{}'",
            line.chars().take(80).collect::<String>()
        ));
    }
    if content_length(head).is_some_and(|n| bytes.len() - body < n) {
        return Err("the answer was cut short".to_owned());
    }
    Ok(String::from_utf8_lossy(&bytes[body..]).into_owned())
}

/// What several processes used together.
pub fn processes(pids: &[u32]) -> Result<Process, String> {
    let mut all = Process { cpu_s: Some(0.0), resident_bytes: Some(0.0), started_s: Some(0.0) };
    for pid in pids {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let one = process(&stat, &status, ticks)
            .ok_or_else(|| format!("/proc/{pid}/stat: not as Linux writes it"))?;
        let sum = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        all.cpu_s = sum(all.cpu_s, one.cpu_s);
        all.resident_bytes = sum(all.resident_bytes, one.resident_bytes);
        // Any of them that is replaced shows.
        all.started_s = all.started_s.zip(one.started_s).map(|(a, b)| a.max(b));
    }
    Ok(all)
}

/// A process of `/proc/PID/stat` and `/proc/PID/status`, at so many ticks a second.
fn process(stat: &str, status: &str, ticks: f64) -> Option<Process> {
    // The command's name is in parentheses and may have anything in it, parentheses too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|r| r.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    Some(Process {
        cpu_s: Some((field(14)? + field(15)?) / ticks),
        // A zombie has no memory, and no line.
        resident_bytes: Some(kib.unwrap_or(0.0) * 1024.0),
        started_s: Some(field(22)? / ticks),
    })
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener, thread};

    use super::*;

    #[test]
    fn pages_are_named_by_urls() {
        for (url, shown) in [
            ("http://localhost:8002/metrics", "http://localhost:8002/metrics"),
            ("http://localhost:8002", "http://localhost:8002/metrics"),
            ("http://h/", "http://h:80/metrics"),
            ("http://[::1]:9/x?y=1", "http://[::1]:9/x?y=1"),
            ("http://[::1]", "http://[::1]:80/metrics"),
            ("https://h:8002/m", "https://h:8002/m"),
            ("https://h", "https://h:443/metrics"),
            ("unix:/run/o.sock", "unix:/run/o.sock"),
        ] {
            assert_eq!(url.parse::<Page>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "localhost:8002",
            "ftp://h/",
            "http://",
            "http://h:99999/",
            "http://h/a b",
            "unix:",
        ] {
            let error = wrong.parse::<Page>().unwrap_err();
            assert!(error.starts_with(&format!("no metrics page: '{wrong}'")), "{error}");
            assert!(error.ends_with("expected http://HOST:PORT/PATH or unix:PATH"), "{error}");
        }
    }

    /// One answer, byte for byte, and what the client made of it. The connection stays open until the client goes.
    fn answered(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (peer, _) = listener.accept().unwrap();
            let mut lines = io::BufReader::new(&peer).lines();
            let request = lines.next().unwrap().unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            (&peer).write_all(answer.as_bytes()).unwrap();
            if !answer.to_ascii_lowercase().contains("content-length") {
                peer.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let _ = lines.next();
            request
        });
        let page: Page = format!("http://127.0.0.1:{port}/m").parse().unwrap();
        let got = page.fetch(Duration::from_secs(60), &Tls::default());
        assert_eq!(server.join().unwrap(), "GET /m HTTP/1.0");
        got
    }

    #[test]
    fn a_page_is_fetched_however_its_end_is_told() {
        let long = answered("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na 1");
        assert_eq!(long.unwrap(), "a 1");
        assert_eq!(answered("HTTP/1.0 200 OK\r\n\r\na 1").unwrap(), "a 1");
        let missing = answered("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap_err();
        assert!(missing.contains("expected status 200, got 'HTTP/1.1 404 Not Found'"), "{missing}");
        assert!(answered("a 1\n").unwrap_err().ends_with("no HTTP answer"));
    }

    #[test]
    fn a_page_is_fetched_over_tls_from_whom_we_trust() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let home = tempfile::tempdir().unwrap();
        let authority = home.path().join("ca.pem");
        fs::write(&authority, made.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = std::sync::Arc::new(config);
        let server = thread::spawn(move || {
            for _ in 0..2 {
                let (mut peer, _) = listener.accept().unwrap();
                let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::Stream::new(&mut tls, &mut peer);
                let mut lines = io::BufReader::new(&mut stream).lines();
                // Who does not trust us says so and leaves.
                let Some(Ok(request)) = lines.next() else { continue };
                assert_eq!(request, "GET /m HTTP/1.1");
                while !lines.next().unwrap().unwrap().is_empty() {}
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na 1").unwrap();
            }
        });
        let page: Page = format!("https://localhost:{port}/m").parse().unwrap();
        let trusting = Tls { authority: Some(authority), ..Tls::default() };
        assert_eq!(page.fetch(Duration::from_secs(60), &trusting).unwrap(), "a 1");
        let error = page.fetch(Duration::from_secs(60), &Tls::default()).unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn who_does_not_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let page: Page = format!("http://127.0.0.1:{port}").parse().unwrap();
        let error = page.fetch(Duration::from_millis(30), &Tls::default()).unwrap_err();
        assert!(error.ends_with("no answer in time"), "{error}");
        drop(listener);
        let error = page.fetch(Duration::from_secs(60), &Tls::default()).unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 1200 99 5 18446744073709551615";
        let process = process(stat, "Name:\ta\nVmRSS:\t    2048 kB\n", 100.0).unwrap();
        let cpu =
            Process { cpu_s: Some(3.0), resident_bytes: Some(2097152.0), started_s: Some(12.0) };
        assert_eq!(process, cpu);
        assert_eq!(super::process("7 (a", "", 100.0), None);
        assert_eq!(super::process("7 (a) S 1", "", 100.0), None);
    }

    #[test]
    fn our_own_process_can_be_read() {
        let ours = processes(&[std::process::id()]).unwrap();
        assert!(ours.resident_bytes.unwrap() > 0.0);
        assert!(processes(&[u32::MAX]).unwrap_err().starts_with("/proc/4294967295/stat: "));
    }
}
