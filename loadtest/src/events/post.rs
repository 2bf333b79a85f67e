//! One call over HTTP as an event: it costs the machine nothing but the call.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Ended,
    command::{Ran, Tail},
};
use crate::{
    drive::ask::{Said, ask_while},
    plan::{Tls, Wire},
    record::Code,
    url::Url,
};

/// `{post: http://HOST:PORT/PATH, body: {…}, headers: {…}}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Post {
    #[serde(rename = "post")]
    pub url: Url,
    /// Sent as JSON; a text as it is.
    #[serde(default = "empty")]
    pub body: Value,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Headers are not shown: keys are among them.
impl fmt::Display for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "POST {}", self.url)
    }
}

impl Post {
    /// # Errors
    /// A header that is none, or that is ours to say.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in &self.headers {
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(token) || value.chars().any(char::is_control) {
                return Err(format!("header '{name}': expected a name and a value on one line"));
            }
            let ours = ["host", "content-length", "transfer-encoding", "connection"];
            if ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                return Err(format!("header '{name}' follows from the call; expected others"));
            }
        }
        Ok(())
    }

    /// Waits for the answer until `timeout`, or until `stop` says so. `tls`: how a certificate is looked at.
    pub fn run(&self, tls: &Tls, timeout: Duration, stop: impl Fn() -> bool) -> Ran {
        let target = self.url.target(tls);
        let began = Instant::now();
        let goes_on = || began.elapsed() < timeout && !stop();
        let (ended, output) = match ask_while(&target, Wire::Http(self.bytes().into()), goes_on) {
            Ok(Some(Said::Good(body, _))) => {
                (Ended::Status(200), String::from_utf8_lossy(&body).into_owned())
            }
            Ok(Some(Said::Bad(Code::Http(status), said))) => (Ended::Status(status), said),
            Ok(Some(Said::Bad(code, said))) => {
                (Ended::NoAnswer(format!("{code}: {said}")), String::new())
            }
            Ok(None) if stop() => (Ended::Interrupted, String::new()),
            Ok(None) => (Ended::TimedOut, String::new()),
            Err(why) => (Ended::NoAnswer(why), String::new()),
        };
        let mut tail = Tail::default();
        tail.push(output.as_bytes());
        Ran { ended, output: tail.text() }
    }

    fn bytes(&self) -> Vec<u8> {
        let body = match &self.body {
            Value::String(text) => text.clone(),
            body => body.to_string(),
        };
        let path = if self.url.path.is_empty() { "/" } else { &*self.url.path };
        let mut head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\n", self.url.authority());
        if !self.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
            head += "content-type: application/json\r\n";
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n{body}", body.len());
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpListener},
        thread,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(120);

    fn read(yaml: &str) -> Post {
        serde_saphyr::from_str(yaml).unwrap()
    }

    /// What came of a post to a server that answers with these bytes, and the request as it got it.
    fn posted(rest: &str, answer: &'static str) -> (Ran, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let (mut request, mut part) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"}") && !request.ends_with(b"text") {
                let n = peer.read(&mut part).unwrap();
                assert!(n > 0, "it went before all of its request was here");
                request.extend_from_slice(&part[..n]);
            }
            peer.write_all(answer.as_bytes()).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            let _ = peer.read(&mut part);
            String::from_utf8(request).unwrap()
        });
        let post = read(&format!("post: http://{address}/a?b=c\n{rest}"));
        post.check().unwrap();
        let ran = post.run(&Tls::default(), LONG, || false);
        (ran, server.join().unwrap())
    }

    #[test]
    fn it_posts_what_it_is_told_and_says_what_came() {
        let (ran, request) = posted("", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(ran, Ran { ended: Ended::Status(200), output: "ok".to_owned() });
        assert!(request.starts_with("POST /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        assert!(request.contains("\r\ncontent-type: application/json\r\n"), "{request}");
        assert!(request.ends_with("\r\ncontent-length: 2\r\n\r\n{}"), "{request}");

        let rest = "body: {models: [{name: wine}]}\nheaders: {authorization: Bearer x}";
        let (ran, request) = posted(rest, "HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\nno");
        assert_eq!(ran, Ran { ended: Ended::Status(409), output: "no".to_owned() });
        assert!(request.contains("\r\nauthorization: Bearer x\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n{\"models\":[{\"name\":\"wine\"}]}"), "{request}");

        let rest = "body: some text\nheaders: {Content-Type: text/plain}";
        let (ran, request) = posted(rest, "");
        assert!(matches!(ran.ended, Ended::NoAnswer(_)), "{ran:?}");
        assert!(
            request.ends_with("\r\nContent-Type: text/plain\r\ncontent-length: 9\r\n\r\nsome text")
        );
        assert!(!request.contains("json"), "{request}");
    }

    #[test]
    fn who_does_not_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let post = read(&format!("post: http://{}/a", listener.local_addr().unwrap()));
        let short = Duration::from_millis(30);
        assert_eq!(post.run(&Tls::default(), short, || false).ended, Ended::TimedOut);
        assert_eq!(post.run(&Tls::default(), LONG, || true).ended, Ended::Interrupted);
        drop(listener);
        let ran = post.run(&Tls::default(), LONG, || false);
        assert!(matches!(&ran.ended, Ended::NoAnswer(why) if why.contains("refused")), "{ran:?}");
    }

    #[test]
    fn headers_that_are_none_are_refused_and_no_value_is_shown() {
        for wrong in ["'a b': c", "a: \"b\\r\\nc: d\"", "Host: h", "content-length: '3'"] {
            let post = read(&format!("post: http://h/\nheaders: {{{wrong}}}"));
            assert!(post.check().unwrap_err().starts_with("header '"), "{wrong}");
        }
        let post = read("post: http://h/x\nheaders: {authorization: Bearer secret}");
        assert_eq!(post.to_string(), "POST http://h:80/x");
    }
}
