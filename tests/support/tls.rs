//! An authority of a test's own, the certificates it signs, and clients that speak TLS.

use std::{
    fs, io,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::{http::Http, server::Socket};

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    /// Writes both; the second write is what a server that looks in between must live through.
    pub fn write(&self, home: &Path, name: &str) {
        fs::write(home.join(format!("{name}.pem")), &self.certificate).expect("written");
        fs::write(home.join(format!("{name}.key")), &self.key).expect("written");
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM")
    }
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for localhost, as changed by `change`.
    pub fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    pub fn expired(&self) -> Pair {
        self.issue(|params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// A client that trusts this authority, and shows `pair`.
    pub fn client(&self, pair: Option<&Pair>) -> Client {
        self.client_of(pair, rustls::ALL_VERSIONS)
    }

    pub fn client_of(
        &self,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![pair.der()], key).expect("a pair")
            }
        };
        Client(config)
    }
}

/// What a client is set up with.
#[derive(Clone)]
pub struct Client(ClientConfig);

impl Client {
    /// For a connection that offers this protocol (ALPN).
    pub fn config(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let mut config = self.0.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    pub fn connect(&self, address: &str) -> io::Result<Http> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connection =
            ClientConnection::new(self.config(b"http/1.1"), name).map_err(io::Error::other)?;
        Ok(Http::over(Socket::Tls(Box::new(StreamOwned::new(connection, stream)))))
    }

    /// The status of a health request over a connection of its own; an error where TLS turns the client away.
    pub fn health(&self, address: &str) -> io::Result<u16> {
        let mut http = self.connect(address)?;
        http.try_send(&super::http::request("GET", "/v2/health/live", "", b""))?;
        http.try_read(false)?.map(|answer| answer.status).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// The certificate that the server shows to a new connection.
    pub fn shown(&self, address: &str) -> CertificateDer<'static> {
        let mut http = self.connect(address).expect("the server listens");
        assert_eq!(http.ask("GET", "/v2/health/live", "", b"").status, 200);
        let Socket::Tls(stream) = &http.socket else { panic!("this is TLS") };
        stream.conn.peer_certificates().expect("a certificate")[0].clone()
    }
}

/// Lets the server that `command` starts speak TLS on the data ports, with `home`'s `server.pem`.
pub fn set_up<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    let file = |name: &str| -> PathBuf { home.join(name) };
    command
        .env("ONNXD_TLS_CERTIFICATE", file("server.pem"))
        .env("ONNXD_TLS_KEY", file("server.key"))
        .env("ONNXD_TLS_LISTENERS", "[http, grpc]")
}
