//! Connections that never wait: TCP, Unix sockets, and TLS over both.

use std::{
    fs, io,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::plan::{Address, Protocol, Target, Tls};

/// A target that was looked up: what is needed to connect again and again.
#[derive(Clone)]
pub struct Peer {
    place: Place,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

#[derive(Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(SocketAddrUnix),
}

impl Peer {
    /// Looks the host up and reads the certificates.
    pub fn of(target: &Target) -> Result<Peer, String> {
        let place = match &target.address {
            Address::Tcp { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs();
                let found = found.map_err(|e| format!("the host '{host}' is unknown: {e}"))?;
                let answers =
                    |address: &SocketAddr| TcpStream::connect_timeout(address, TRY).is_ok();
                let one = choose(&found.collect::<Vec<_>>(), answers);
                Place::Tcp(one.ok_or(format!("the host '{host}' has no address"))?)
            }
            Address::Unix(path) => {
                let bad = |e| format!("the socket '{}' cannot be named: {e}", path.display());
                Place::Unix(SocketAddrUnix::new(path).map_err(bad)?)
            }
        };
        let tls = target.tls.as_ref().map(|tls| {
            let host = match &target.address {
                Address::Tcp { host, .. } => host.clone(),
                Address::Unix(_) => host_of(&target.authority).to_owned(),
            };
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                .map_err(|_| format!("'{host}' is no name that a certificate could have"))?;
            Ok::<_, String>((Arc::new(config(tls, target.protocol)?), name))
        });
        Ok(Peer { place, tls: tls.transpose()? })
    }
}

/// How long one of several addresses may take to accept a connection.
const TRY: Duration = Duration::from_secs(1);

/// Of several addresses the first that answers: `localhost` is often one of IPv6 and one of IPv4, of which a server has one. Where none
/// does, the first: what it says is the error. One alone is not asked.
fn choose(found: &[SocketAddr], answers: impl Fn(&SocketAddr) -> bool) -> Option<SocketAddr> {
    let good = if found.len() > 1 { found.iter().find(|address| answers(address)) } else { None };
    good.or(found.first()).copied()
}

fn host_of(authority: &str) -> &str {
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn config(tls: &Tls, protocol: Protocol) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.authority {
        _ if tls.insecure => {}
        Some(path) => {
            for certificate in certificates(path)? {
                let bad = |e| format!("{}: a certificate cannot be trusted: {e}", path.display());
                roots.add(certificate).map_err(bad)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?;
    let builder = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let bad = |e| format!("{}: no private key can be read: {e}", key.display());
            let secret = PrivateKeyDer::from_pem_file(key).map_err(bad)?;
            let unfit = |e| format!("{}: the certificate cannot be used: {e}", chain.display());
            builder.with_client_auth_cert(certificates(chain)?, secret).map_err(unfit)?
        }
    };
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Json | Protocol::Binary => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// Takes every certificate, for `Tls::insecure`; that the other side holds its key is checked still.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let pem = fs::read(path).map_err(|e| format!("{shown}: {e}"))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let read = read.map_err(|e| format!("{shown}: a certificate cannot be read: {e}"))?;
    if read.is_empty() {
        return Err(format!("{shown}: there is no certificate in it, expected PEM"));
    }
    Ok(read)
}

/// A connection, perhaps still on its way.
pub struct Socket {
    fd: OwnedFd,
    tls: Option<Box<ClientConnection>>,
}

impl Socket {
    /// Begins to connect.
    pub fn begin(peer: &Peer) -> io::Result<Socket> {
        let open = |family| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            socket_with(family, SocketType::STREAM, flags, None)
        };
        let (fd, begun) = match &peer.place {
            Place::Tcp(address) => {
                let v4 = address.is_ipv4();
                let fd = open(if v4 { AddressFamily::INET } else { AddressFamily::INET6 })?;
                sockopt::set_tcp_nodelay(&fd, true)?;
                let begun = connect(&fd, address);
                (fd, begun)
            }
            Place::Unix(path) => {
                let fd = open(AddressFamily::UNIX)?;
                let begun = connect(&fd, path);
                (fd, begun)
            }
        };
        match begun {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = peer.tls.as_ref().map(|(config, name)| {
            let client = ClientConnection::new(config.clone(), name.clone());
            client.map(Box::new).map_err(io::Error::other)
        });
        Ok(Socket { fd, tls: tls.transpose()? })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Once the system says that it can be written to: whether the connection is made. For TLS this does not say that the other
    /// side is who it should be; the first bytes read do.
    pub fn made(&self) -> io::Result<()> {
        sockopt::socket_error(&self.fd)?.map_err(io::Error::from)
    }

    /// Reads what is there; 0: the other side has closed.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return Ok(rustix::io::read(&self.fd, buffer)?) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end without a goodbye is an end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            let came = tls.read_tls(&mut Plain(&self.fd))?;
            let state = tls.process_new_packets().map_err(io::Error::other);
            // An alert, too, has to go out.
            let flushed = flush(tls, &self.fd);
            state?;
            flushed?;
            if came == 0 {
                return Ok(0);
            }
        }
    }

    /// Writes what fits now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return Ok(rustix::io::write(&self.fd, bytes)?) };
        flush(tls, &self.fd)?;
        if tls.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write(bytes)?;
        flush(tls, &self.fd)?;
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Whether something that was taken by `write` did not go out yet.
    pub fn behind(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends what `behind` speaks of.
    pub fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| flush(tls, &self.fd))
    }
}

/// Sends what TLS has to send, as far as that goes without waiting.
fn flush(tls: &mut ClientConnection, fd: &OwnedFd) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut Plain(fd)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The socket below TLS.
struct Plain<'a>(&'a OwnedFd);

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

impl Write for Plain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn of_several_addresses_one_that_answers_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        // Nobody listens at this port of another loopback address.
        let gone = SocketAddr::from(([127, 0, 0, 2], there.port()));
        let ask = |address: &SocketAddr| TcpStream::connect_timeout(address, TRY).is_ok();
        assert_eq!(choose(&[gone, there], ask), Some(there));
        assert_eq!(choose(&[there, gone], ask), Some(there));
        assert_eq!(choose(&[gone, gone], ask), Some(gone), "the error is the first one's");
        let never = |_: &SocketAddr| unreachable!("one alone is not asked");
        assert_eq!((choose(&[gone], never), choose(&[], never)), (Some(gone), None));
    }
}
