//! Who is at the other end of a connection.

use std::{net::IpAddr, sync::Arc};

/// Who is at the other end of a connection: made once when it is accepted, shared by all its requests. The operator's
/// routes find it in a request's extensions as `Arc<Peer>`; without it a caller counts as remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, an IPv4 one as such however it came; `None` for a Unix socket.
    pub ip: Option<IpAddr>,
    /// Who its client certificate says it is, where one was shown and verified.
    pub identity: Option<Arc<str>>,
}

impl Peer {
    /// The peer at this address; `None` for a Unix socket.
    pub fn at(address: Option<IpAddr>) -> Peer {
        Peer { ip: address.map(|ip| ip.to_canonical()), identity: None }
    }

    /// Whether it is on this machine: over loopback or a Unix socket.
    pub fn is_local(&self) -> bool {
        self.ip.is_none_or(|ip| ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_local() {
        assert!(Peer::at(None).is_local());
        for (ip, local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(Peer::at(Some(ip.parse().unwrap())).is_local(), local, "{ip}");
        }
    }
}
