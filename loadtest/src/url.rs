//! An `http://` or `https://` URL of something that is asked once in a while, beside the load itself.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::plan::{Address, Protocol, Target, Tls};

/// `http://HOST[:PORT][/PATH]`, the same with an s for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    /// With its query; empty where none is given.
    pub path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(url: &str) -> Result<Url, String> {
        let wrong = |why: &str| format!("'{url}': {why}; expected http://HOST:PORT/PATH");
        let (secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong("its scheme is unknown")),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = host_and_port(authority).map_err(wrong)?;
        // What would end the request's line or head early is no path.
        if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("there is a space in it"));
        }
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        Ok(Url { secure, host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Url {
    /// What a request's `host` says.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The server; `tls` says how its certificate is looked at, where it has one.
    pub fn target(&self, tls: &Tls) -> Target {
        Target {
            protocol: Protocol::Json,
            address: Address::Tcp { host: self.host.clone(), port: self.port },
            tls: self.secure.then(|| tls.clone()),
            authority: self.authority(),
        }
    }
}

/// What `HOST[:PORT]` names; an IPv6 address without its brackets.
///
/// # Errors
/// In words: a port that is none, no host.
pub fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, Some(port.parse().map_err(|_| "its port is no number up to 65535")?))
        }
        _ => (authority, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.is_empty() { Err("it names no host") } else { Ok((bare, port)) }
}

/// The reverse.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_as_it_is_asked() {
        for (url, shown) in [
            ("http://localhost:8002/metrics", "http://localhost:8002/metrics"),
            ("http://localhost:8002", "http://localhost:8002"),
            ("http://h/", "http://h:80/"),
            ("http://[::1]:9/x?y=1", "http://[::1]:9/x?y=1"),
            ("http://[::1]", "http://[::1]:80"),
            ("https://h", "https://h:443"),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        for (wrong, why) in [
            ("", "its scheme"),
            ("localhost:8002", "its scheme"),
            ("ftp://h/", "its scheme"),
            ("http://", "no host"),
            ("http://[]:1/", "no host"),
            ("http://h:99999/", "its port"),
            ("http://h/a b", "a space"),
            ("http://h/\r\nx: y", "a space"),
        ] {
            let error = wrong.parse::<Url>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
