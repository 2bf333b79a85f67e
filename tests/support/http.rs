//! HTTP/1.1 by hand: a request's bytes as they go out, an answer's as they come in.

use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::server::Socket;

/// One answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The text of an error's body; the status is held against `status`.
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()["error"].as_str().expect("an error says what it is").to_owned()
    }

    /// Output `index` of an inference that went well, its numbers.
    pub fn output(&self, index: usize) -> Vec<f64> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let data = self.json()["outputs"][index]["data"].clone();
        data.as_array().expect("data").iter().map(|v| v.as_f64().expect("a number")).collect()
    }

    /// The connection ends after this answer.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection.
pub struct Http {
    pub socket: Socket,
    buffer: Vec<u8>,
}

impl Http {
    pub fn connect(address: &str) -> Http {
        Http::try_connect(address).unwrap_or_else(|e| panic!("{address}: {e}"))
    }

    pub fn try_connect(address: &str) -> io::Result<Http> {
        Ok(Http::over(Socket::connect(address)?))
    }

    pub fn over(socket: Socket) -> Http {
        Http { socket, buffer: Vec::new() }
    }

    pub fn try_send(&mut self, request: &[u8]) -> io::Result<()> {
        self.socket.write_all(request)?;
        self.socket.flush()
    }

    pub fn send(&mut self, request: &[u8]) {
        self.try_send(request).expect("the request goes out");
    }

    /// The next answer; `None` where the connection ended before its first byte. An answer cut short is an error.
    pub fn try_read(&mut self, head_only: bool) -> io::Result<Option<Answer>> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if !self.fill()? {
                let cut = !self.buffer.is_empty();
                return if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).expect("a head is ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
        let status = status.parse().expect("a status is a number");
        let pair = |line: &str| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let mut answer = Answer { status, headers: lines.map(pair).collect(), body: Vec::new() };
        self.buffer.drain(..end + 4);
        assert!(answer.header("transfer-encoding").is_none(), "answers have a length");
        let length = answer.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        let length = if head_only { 0 } else { length };
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        answer.body = self.buffer.drain(..length).collect();
        Ok(Some(answer))
    }

    pub fn read(&mut self) -> Answer {
        self.try_read(false).expect("an answer arrives whole").expect("an answer")
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut part = [0; 1 << 14];
        let read = loop {
            match self.socket.read(&mut part) {
                // A read with a time limit is not taken up again when the machine stands still for a moment.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&part[..read]);
        Ok(read > 0)
    }

    /// One request and its answer on this connection.
    pub fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.send(&request(method, path, headers, body));
        self.try_read(method == "HEAD").expect("an answer arrives whole").expect("an answer")
    }
}

/// The bytes of a request; `headers` are whole lines.
pub fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub fn get(address: &str, path: &str) -> Answer {
    Http::connect(address).ask("GET", path, "", b"")
}

pub fn post(address: &str, path: &str, headers: &str, body: &Value) -> Answer {
    Http::connect(address).ask("POST", path, headers, body.to_string().as_bytes())
}

pub fn infer(address: &str, model: &str, headers: &str, body: &Value) -> Answer {
    post(address, &infer_path(model), headers, body)
}

pub fn infer_path(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

/// The body of an inference over inputs, each as in `(name, datatype, shape, data)`.
pub fn inputs(inputs: &[(&str, &str, &[usize], Value)]) -> Value {
    let one = |(name, datatype, shape, data): &(&str, &str, &[usize], Value)| json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    json!({"inputs": inputs.iter().map(one).collect::<Vec<_>>()})
}

/// A request that costs `iters` turns of a matrix product, and is answered with `x`.
pub fn burn(x: f64, iters: u64) -> Value {
    inputs(&[("X", "FP32", &[1], json!([x])), ("ITERS", "INT64", &[1], json!([iters]))])
}

/// One row of wine's thirteen features.
pub fn wine() -> Value {
    inputs(&[("features", "FP32", &[1, 13], json!(vec![0.5; 13]))])
}

/// A request of `versioned`, which answers with each number plus its version.
pub fn four(x: f64) -> Value {
    inputs(&[("X", "FP32", &[1, 4], json!([x, x, x, x]))])
}
