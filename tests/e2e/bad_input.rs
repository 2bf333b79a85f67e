//! Everything wrong that a request over HTTP can be: each is refused with its code and a message that says what was expected
//! and what came, and the server answers the next one. What it may say of JSON is in bad_json.txt.

use crate::support::{
    files::Home,
    http::{self, Answer, Http, infer_path},
    server::Server,
};

/// What is not as it should be, told at the end all together.
#[derive(Default)]
pub struct Complaints(Vec<String>);

impl Complaints {
    /// Holds the message of a refusal: short, in the form of all messages, with these parts.
    pub fn refused(&mut self, message: &str, parts: &[&str], what: &str) {
        let what: String = what.chars().take(150).collect();
        for part in parts.iter().filter(|part| !message.contains(**part)) {
            self.0.push(format!("{what}\n    {message:?} does not say {part:?}"));
        }
        let form = !message.is_empty() && message.len() < 2_000 && !message.ends_with('.');
        if !form || message.contains(char::is_control) {
            self.0.push(format!("{what}\n    {message:?} is no message"));
        }
    }

    pub fn that(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    pub fn settle(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

/// A server, a connection to it, and what is wrong so far.
struct Case {
    _home: Home,
    server: Server,
    client: Http,
    complaints: Complaints,
}

impl Case {
    fn new() -> Case {
        let models = ["versioned", "fixed", "identity_int8", "identity_bytes", "boom"];
        let home = Home::of(&models);
        let server = Server::start(home.path(), &home.repository());
        let client = Http::connect(&server.http);
        Case { _home: home, server, client, complaints: Complaints::default() }
    }

    fn infer(&mut self, model: &str, headers: &str, body: &[u8]) -> Answer {
        self.client.ask("POST", &infer_path(model), headers, body)
    }

    /// Sends what is to be refused with 400, and then what is not.
    fn refused(&mut self, model: &str, headers: &str, body: &[u8], parts: &[&str]) {
        let answer = self.infer(model, headers, body);
        let what = format!("{headers}{}", String::from_utf8_lossy(body));
        self.error(&answer, &[400], parts, &what);
        self.serves();
    }

    fn error(&mut self, answer: &Answer, codes: &[u16], parts: &[&str], what: &str) {
        let status = answer.status;
        if !codes.contains(&status) {
            let body = String::from_utf8_lossy(&answer.body);
            self.complaints
                .that(false, || format!("{what:.150}\n    answered {status} {body:.200}"));
            return;
        }
        self.complaints.refused(&answer.error(status), parts, what);
    }

    fn serves(&mut self) {
        let good = http::four(1.0).to_string();
        assert_eq!(self.infer("versioned", "", good.as_bytes()).output(0), [4.0; 4]);
    }

    fn end(mut self) {
        self.serves();
        self.complaints.settle();
        self.server.stop();
    }
}

#[test]
fn json_that_is_no_request() {
    let mut case = Case::new();
    let rows = include_str!("bad_json.txt").lines();
    for row in rows.filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let (request, parts) = row.split_once(" ==> ").expect("an arrow");
        let (model, body) = request.split_once(' ').expect("a model");
        let parts: Vec<&str> = parts.split(" | ").collect();
        case.refused(model, "", body.as_bytes(), &parts);
    }
    case.end();
}

/// What no line of a text holds.
#[test]
fn json_of_odd_bytes_and_sizes() {
    let mut case = Case::new();
    let x = r#""name":"X","shape":[1,4],"datatype":"FP32""#;
    let long = "9".repeat(100_000);
    let open = "[".repeat(100_000);
    let close = "]".repeat(100_000);
    let ones = ["1"; 65].join(",");
    let rows: [(String, &[&str]); 11] = [
        ("\u{feff}{}".to_owned(), &["malformed", "a value", "0xef"]),
        ("{\"id\":\"a\nb\",\"inputs\":[]}".to_owned(), &["malformed", "control character"]),
        (format!(r#"{{"a":{open}{close}}}"#), &["deeper than 100"]),
        (open.clone(), &["the request", "an object"]),
        (format!(r#"{{"inputs":[{{{x},"data":{open}}}]}}"#), &["'X'", "[1, 4]"]),
        (format!(r#"{{"inputs":[{{"data":{open}{close},{x}}}]}}"#), &["deeper than 100"]),
        (format!(r#"{{"inputs":[{{"shape":[{ones}]}}]}}"#), &["inputs[0]", "64 dimensions"]),
        (
            format!(
                r#"{{"inputs":[{{"name":"X","shape":[1],"datatype":"INT64","data":[{long}]}}]}}"#
            ),
            &["'X'", "999", "INT64"],
        ),
        (
            format!(
                r#"{{"inputs":[{{"name":"{long}","shape":[1],"datatype":"FP32","data":[1]}}]}}"#
            ),
            &["999"],
        ),
        (format!(r#"{{"parameters":{{"{long}":1}},"inputs":[]}}"#), &["999", "256"]),
        (
            r#"{"inputs":[{"name":"a\u000d\u000ab","shape":[1],"datatype":"FP32","data":[1]}]}"#
                .to_owned(),
            &["'a", "'X'"],
        ),
    ];
    for (body, parts) in rows {
        case.refused("versioned", "", body.as_bytes(), parts);
    }
    for (body, part) in [
        (&b"{\"id\":\"\xff\",\"inputs\":[]}"[..], "UTF-8"),
        (b"{\"\xc0\xaf\":1}", "UTF-8"),
        (b"{\"inputs\":[{\"name\":\"\xed\xa0\x80\"}]}", "UTF-8"),
        (b"\0", "0x00"),
    ] {
        case.refused("versioned", "", body, &[part]);
    }
    case.end();
}

#[test]
fn binary_bodies_that_do_not_add_up() {
    let mut case = Case::new();
    let x = r#""name":"X","shape":[1,4],"datatype":"FP32""#;
    let head = |size: &str| {
        format!(r#"{{"inputs":[{{{x},"parameters":{{"binary_data_size":{size}}}}}]}}"#)
    };
    let two = |datatype: &str, size: usize| {
        format!(
            r#"{{"inputs":[{{"name":"X","shape":[2],"datatype":"{datatype}","parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    let both = format!(
        r#"{{"inputs":[{{{x},"data":[1,2,3,4],"parameters":{{"binary_data_size":16}}}}]}}"#
    );
    let rows: [(String, &[u8], &[&str]); 14] = [
        (head("16"), &[0; 15], &["'X'", "16", "15"]),
        (head("16"), &[0; 17], &["16", "17"]),
        (head("15"), &[0; 15], &["'X'", "16 bytes", "15"]),
        (head("18446744073709551615"), &[0; 16], &["'X'", "16 bytes"]),
        (head("18446744073709551616"), &[0; 16], &["binary_data_size", "64 bits"]),
        (head("-1"), &[0; 16], &["binary_data_size", "not negative"]),
        (head("1.5"), &[0; 16], &["binary_data_size"]),
        (head("\"16\""), &[0; 16], &["binary_data_size", "a string"]),
        (both, &[0; 16], &["'X'", "both"]),
        (two("BYTES", 6), b"\x02\0\0\0ab", &["'X'", "2 elements", "1"]),
        (two("BYTES", 6), b"\xff\xff\xff\xffab", &["'X'", "cut short"]),
        (two("BYTES", 3), b"\0\0\0", &["'X'", "cut short"]),
        (two("BYTES", 14), b"\x01\0\0\0a\x01\0\0\0b\0\0\0\0", &["'X'", "2 elements", "3"]),
        (two("BOOL", 2), &[1, 2], &["'X'", "element 1", "BOOL"]),
    ];
    for (json, tail, parts) in rows {
        let headers = format!("inference-header-content-length: {}\r\n", json.len());
        case.refused("versioned", &headers, &[json.as_bytes(), tail].concat(), parts);
    }
    let json = head("16");
    let body = [json.as_bytes(), &[0; 16]].concat();
    for length in ["999999", "-1", "1e2", "18446744073709551616", "0x10", "1 2"] {
        let headers = format!("inference-header-content-length: {length}\r\n");
        case.refused("versioned", &headers, &body, &["nference-", length]);
    }
    // Without the header the body is JSON alone.
    case.refused("versioned", "", json.as_bytes(), &["'X'", "Inference-Header-Content-Length"]);
    let headers = format!("inference-header-content-length: {}\r\n", json.len());
    assert_eq!(case.infer("versioned", &headers, &body).status, 200);
    case.end();
}

#[test]
fn names_that_try_to_leave() {
    let mut case = Case::new();
    let long = "m".repeat(5_000);
    let good = http::four(1.0).to_string();
    for name in [
        "..",
        "%2e%2e",
        "..%2fversioned",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "versioned%2f1",
        "versioned%00",
        "%252e%252e",
        "a%5c..%5cb",
        "%2fetc%2fpasswd",
        "versioned%0d%0aX:%20y",
        "%",
        "%zz",
        "%ff",
        "%c0%ae",
        &long,
    ] {
        for tail in
            ["/infer", "/ready", "/config", "/stats", "", "/versions/1", "/versions/1/infer"]
        {
            let path = format!("/v2/models/{name}{tail}");
            let (verb, body) = match tail.ends_with("infer") {
                true => ("POST", good.as_bytes()),
                false => ("GET", &b""[..]),
            };
            let answer = case.client.ask(verb, &path, "", body);
            case.error(&answer, &[400, 404], &[], &format!("{verb} {path}"));
        }
        case.serves();
    }
    for version in
        ["0", "9", "-1", "1.0", "+1", "%31%2f", "latest", "99999999999999999999", "..", "1%00"]
    {
        let path = format!("/v2/models/versioned/versions/{version}/infer");
        let answer = case.client.ask("POST", &path, "", good.as_bytes());
        case.error(&answer, &[400, 404], &[], &path);
    }
    // Of two mistakes, the name is the first to know of.
    let answer = case.client.ask("POST", &infer_path("nosuch"), "", b"{\"inputs\": [");
    case.error(&answer, &[404], &["nosuch"], "no model and no JSON");
    case.end();
}

#[test]
fn methods_and_lines_that_are_none() {
    let mut case = Case::new();
    for verb in ["TRACE", "OPTIONS", "get", "post", "PROPFIND", "A"] {
        let answer = case.client.ask(verb, &infer_path("versioned"), "", b"");
        case.error(&answer, &[405], &[verb], verb);
        assert_eq!(answer.header("allow"), Some("POST"), "{verb}");
        let answer = case.client.ask(verb, "/v2/models/versioned/config", "", b"");
        case.error(&answer, &[405], &[], verb);
        case.serves();
    }
    // Lines that are no request: an answer of 400 and its like or a closed connection, never silence.
    for line in [
        "CONNECT versioned:80 HTTP/1.1\r\n",
        "PRI * HTTP/1.1\r\n",
        "GET  /v2 HTTP/1.1\r\n",
        "GET /v2 HTTP/3.7\r\n",
        "\0\0\0\0\r\n",
        "GET /v2\x01 HTTP/1.1\r\n",
        "GET http://[::1 HTTP/1.1\r\n",
        "POST /v2/models/versioned/infer HTTP/1.1\r\ncontent-length: nine\r\n",
        "GET /v2 HTTP/1.1\r\nbad header\r\n",
        "GET /v2 HTTP/1.1\r\na: b\0c\r\n",
    ] {
        let mut client = Http::connect(&case.server.http);
        client.send(format!("{line}host: test\r\n\r\n").as_bytes());
        if let Ok(Some(answer)) = client.try_read(false) {
            let status = answer.status;
            case.complaints.that((400..500).contains(&status), || format!("{line:?}: {status}"));
        }
        case.serves();
    }
    case.end();
}
