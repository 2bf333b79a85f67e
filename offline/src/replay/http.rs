//! Requests to a server, one after another over one connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Bytes of an answer that are read.
const MOST: u64 = 256 << 20;
const HEAD_LINES: usize = 200;

/// A connection that is opened when it is needed.
pub struct Client {
    /// HOST:PORT.
    address: String,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// To `http://HOST:PORT`.
    pub fn new(url: &str, timeout: Duration) -> Result<Client, String> {
        let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        match rest.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Client { address: rest.to_owned(), timeout, stream: None })
            }
            _ => Err(format!("expected http://HOST:PORT, got {url:?}")),
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Status and body of an answer.
    ///
    /// # Errors
    /// Why nobody answers.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), String> {
        let reused = self.stream.is_some();
        match self.exchange(method, path, body) {
            // A connection that stood idle may have been closed meanwhile.
            Err(_) if reused => self.exchange(method, path, body),
            other => other,
        }
        .map_err(|error| format!("{} does not answer: {error}", self.address))
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let (status, answer, goes_on) = read(&mut stream)?;
        if goes_on {
            self.stream = Some(stream);
        }
        Ok((status, answer))
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let mut last = std::io::Error::other("the host has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    stream.set_nodelay(true)?;
                    return Ok(BufReader::new(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Status, body, and whether the connection stays.
fn read(stream: &mut impl BufRead) -> std::io::Result<(u16, Vec<u8>, bool)> {
    let broken = |what: &'static str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let (mut status, mut length, mut goes_on) = (None, None, true);
    for _ in 0..HEAD_LINES {
        let mut line = String::new();
        if stream.by_ref().take(64 << 10).read_line(&mut line)? == 0 {
            return Err(broken("the answer ends in its head"));
        }
        let line = line.trim_end();
        let Some(status) = status else {
            let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
            status = Some(code.ok_or_else(|| broken("that is no HTTP"))?);
            continue;
        };
        if line.is_empty() {
            let length: u64 =
                length.ok_or_else(|| broken("the answer does not say how long it is"))?;
            let mut body = Vec::new();
            stream.by_ref().take(length.min(MOST)).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(broken("the answer is cut off, or too long"));
            }
            return Ok((status, body, goes_on));
        }
        if let Some((name, value)) = line.split_once(':') {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok();
            }
            goes_on &=
                !(name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close"));
        }
    }
    Err(broken("the answer's head has too many lines"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let read = |text: &str| read(&mut text.as_bytes()).ok();
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(read(ok), Some((200, b"{}".to_vec(), true)));
        let last = "HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read(last), Some((429, vec![], false)));
        for bad in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", &ok[..ok.len() - 1]] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_asked_for() {
        let client = |url| Client::new(url, Duration::from_secs(1)).map(|c| c.address);
        assert_eq!(client("http://localhost:8000/"), Ok("localhost:8000".into()));
        assert!(client("https://localhost").expect_err("no port").contains("http://HOST:PORT"));
    }
}
