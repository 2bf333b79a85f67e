//! Where a listener listens, and binding it.

use std::{
    fmt, io,
    net::{TcpListener, ToSocketAddrs},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use super::tls::Tls;
use crate::telemetry::registry;

/// Where a listener listens: `HOST:PORT`, `unix:PATH` or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
    Off,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if text == "off" {
            return Ok(Address::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path after it".into()),
                path => Ok(Address::Unix(path.into())),
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(text.to_owned()))
            }
            _ => Err(format!("'{text}' is none of HOST:PORT, unix:PATH and off")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Off => f.write_str("off"),
        }
    }
}

/// A bound listener.
pub struct Listener {
    pub(super) socket: Bound,
    /// Which of the server's three it is, for the metrics.
    pub(super) role: registry::Listener,
    /// Where it speaks TLS.
    pub(super) tls: Option<Arc<Tls>>,
}

pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds; `None` for `off`. The error names the address.
    pub fn bind(address: &Address, role: registry::Listener) -> Result<Option<Listener>, String> {
        let bound = match address {
            Address::Off => return Ok(None),
            Address::Tcp(address) => bind_tcp(address).map(Bound::Tcp),
            Address::Unix(path) => bind_unix(path).map(|l| Bound::Unix(l, path.clone())),
        };
        bound
            .map(|socket| Some(Listener { socket, role, tls: None }))
            .map_err(|error| format!("cannot listen on {address}: {error}"))
    }

    /// The listener, speaking TLS where that is given.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Listener {
        Listener { tls, ..self }
    }

    /// The address actually bound (port 0 resolved).
    pub fn address(&self) -> String {
        match &self.socket {
            Bound::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".into(), |a| a.to_string())
            }
            Bound::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.to_socket_addrs()? {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        // Why: a restart must not wait for the old connections' TIME_WAIT. It does not share a port that is taken.
        socket.set_reuse_address(true)?;
        let bound = socket.bind(&address.into()).and_then(|()| socket.listen(1024));
        match bound.and_then(|()| socket.set_nonblocking(true)) {
            Ok(()) => return Ok(socket.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_unix(path: &PathBuf) -> io::Result<UnixListener> {
    // A socket that nobody answers on is a leftover of a killed process; one that answers is taken.
    if path.exists() && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_port_or_unix_or_off() {
        let parse = |text: &str| text.parse::<Address>().map(|a| a.to_string());
        assert_eq!(parse("127.0.0.1:0"), Ok("127.0.0.1:0".into()));
        assert_eq!(parse("[::1]:8000"), Ok("[::1]:8000".into()));
        assert_eq!(parse("unix:/run/onnxd.sock"), Ok("unix:/run/onnxd.sock".into()));
        assert_eq!(parse("off"), Ok("off".into()));
        for bad in ["", "8000", ":8000", "host:", "host:99999", "unix:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
