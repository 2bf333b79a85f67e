//! A server's address as a person writes it, and the target that it means.

use std::path::PathBuf;

use crate::{
    plan::{Address, Protocol, Target, Tls},
    url::{self, host_and_port},
};

/// What a URL may look like, for errors.
const FORMS: &str =
    "expected grpc://HOST:PORT, http://HOST:PORT, the same with an s for TLS, or unix:PATH";

/// Reads a URL. `protocol`: where it is asked for beside the URL; without it `grpc` URLs are gRPC, others JSON. `tls`: how a server
/// is held to its certificate, where the URL asks for TLS.
///
/// # Errors
/// In words: a URL of another form, a port that is none, a protocol that the URL contradicts.
pub fn parse(text: &str, protocol: Option<Protocol>, tls: Tls) -> Result<Target, String> {
    let bad = |why: &str| format!("'{text}' is no address of a server: {why}; {FORMS}");
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(bad("it names no socket"));
        }
        return Ok(Target {
            protocol: protocol.unwrap_or(Protocol::Json),
            address: Address::Unix(PathBuf::from(path)),
            tls: None,
            authority: "localhost".to_owned(),
        });
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
    let (grpc, secure) = match scheme {
        "grpc" => (true, false),
        "grpcs" => (true, true),
        "http" => (false, false),
        "https" => (false, true),
        _ => return Err(bad("its scheme is unknown")),
    };
    let protocol = match (protocol, grpc) {
        (None, true) | (Some(Protocol::Grpc), _) => Protocol::Grpc,
        (Some(other), true) => {
            return Err(bad(&format!("it says gRPC, but the protocol asked for is {other:?}")));
        }
        (None, false) => Protocol::Json,
        (Some(other), false) => other,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(bad("it has more than a host and a port"));
    }
    let (host, port) = host_and_port(authority).map_err(bad)?;
    // Triton's, which this kind of server has by custom.
    let port = port.unwrap_or(if grpc { 8001 } else { 8000 });
    Ok(Target {
        protocol,
        address: Address::Tcp { host: host.to_owned(), port },
        tls: secure.then_some(tls),
        authority: url::authority(host, port),
    })
}

/// Percent-encodes a name for a path.
pub fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Tls {
        Tls::default()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn urls_are_read() {
        let read = |url| parse(url, None, none()).unwrap();
        let grpc = read("grpc://models:9000");
        assert_eq!((grpc.protocol, grpc.address), (Protocol::Grpc, tcp("models", 9000)));
        assert_eq!(grpc.authority, "models:9000");
        assert_eq!(read("grpc://a").address, tcp("a", 8001));
        assert_eq!(read("http://a/").address, tcp("a", 8000));
        assert_eq!(read("http://[::1]:7").address, tcp("::1", 7));
        assert_eq!(read("http://[::1]").authority, "[::1]:8000");
        assert!(read("https://a:1").tls.is_some() && read("http://a:1").tls.is_none());
        assert_eq!(read("unix:/run/s").address, Address::Unix("/run/s".into()));
        let binary = parse("http://a:1", Some(Protocol::Binary), none()).unwrap();
        assert_eq!(binary.protocol, Protocol::Binary);
        assert_eq!(encoded("a b/ü.1"), "a%20b%2F%C3%BC.1");
    }

    #[test]
    fn what_is_no_url_is_said() {
        for (url, why) in [
            ("localhost:8000", "no scheme"),
            ("ftp://a", "unknown"),
            ("http://a:b", "no number"),
            ("http://a:99999", "no number"),
            ("http://", "no host"),
            ("http://a/v2", "more than"),
            ("unix:", "no socket"),
        ] {
            let error = parse(url, None, none()).unwrap_err();
            assert!(error.contains(why) && error.contains(FORMS), "{error}");
        }
        assert!(parse("grpc://a", Some(Protocol::Json), none()).unwrap_err().contains("Json"));
    }
}
