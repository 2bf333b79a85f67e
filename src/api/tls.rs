//! TLS of the listeners: the certificate that serves, who may come in, and taking up files that were replaced.

use std::{
    convert::Infallible,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::{extensions::GeneralName, prelude::*};

use super::stream::Plain;
use crate::telemetry::registry::{Listener, registry};

/// TLS. Off unless a certificate is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsOptions {
    /// PEM file of the server's certificate, the ones between it and its root behind it. Empty (default): no TLS. This
    /// file, `key` and `client_ca` are read again when they change; connections that are open keep what they have.
    pub certificate: PathBuf,
    /// PEM file of the certificate's private key.
    pub key: PathBuf,
    /// PEM file of the authorities that sign clients' certificates. Empty (default): clients are asked for none.
    pub client_ca: PathBuf,
    /// With `client_ca`, whether a client without a certificate is turned away: `required` (default) or `optional`.
    pub client_certificates: ClientCertificates,
    /// The oldest TLS that is spoken: `1.2` (default, for clients that are some years old) or `1.3`.
    pub min_version: MinVersion,
    /// The ports that speak TLS, and nothing but TLS. Default: all three.
    pub listeners: Vec<Listener>,
    /// Milliseconds that a handshake may take. Default: 10000, some round trips over a bad line.
    pub handshake_timeout_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    #[default]
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

impl Default for TlsOptions {
    fn default() -> Self {
        TlsOptions {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            client_certificates: ClientCertificates::default(),
            min_version: MinVersion::default(),
            listeners: Listener::ALL.to_vec(),
            handshake_timeout_ms: 10_000,
        }
    }
}

impl TlsOptions {
    pub fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    /// Whether this port speaks TLS.
    pub fn covers(&self, listener: Listener) -> bool {
        self.is_on() && self.listeners.contains(&listener)
    }

    /// What is wrong with these values together, if anything. Looks into no file.
    pub fn check(&self) -> Result<(), String> {
        let empty = |path: &Path| path.as_os_str().is_empty();
        if self.is_on() && empty(&self.key) {
            return Err("key: expected the file of the certificate's key, got nothing".into());
        }
        let alone = !empty(&self.key) || !empty(&self.client_ca);
        if alone && !self.is_on() {
            return Err("certificate: expected a file, since key or client_ca is set".into());
        }
        if self.is_on() && self.listeners.is_empty() {
            return Err("listeners: expected at least one of http, grpc and operator".into());
        }
        if self.handshake_timeout_ms == 0 {
            return Err("handshake_timeout_ms: expected at least 1, got 0".into());
        }
        Ok(())
    }
}

/// How often the files are looked at. Their contents are compared: replaced through links, as an orchestrator mounts
/// secrets, or in place, they are noticed.
const LOOK: Duration = Duration::from_secs(1);

/// A certificate that ends sooner than this is worth a line in the log when it is taken up.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What new connections are served with.
pub struct Tls {
    options: TlsOptions,
    config: ArcSwap<ServerConfig>,
    /// What `config` was made of.
    first: Fingerprint,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.options.certificate).finish()
    }
}

impl Tls {
    /// Reads the files; `None` where TLS is off. The error names the file.
    pub fn load(options: &TlsOptions) -> Result<Option<Arc<Tls>>, String> {
        if !options.is_on() {
            return Ok(None);
        }
        let files = Files::read(options);
        let config = files.config(options)?;
        let first = files.fingerprint();
        let config = ArcSwap::from_pointee(config);
        Ok(Some(Arc::new(Tls { options: options.clone(), config, first })))
    }

    /// The handshake of one connection, with who the client's certificate says it is.
    pub async fn accept(&self, plain: Plain) -> io::Result<(TlsStream<Plain>, Option<Arc<str>>)> {
        let limit = Duration::from_millis(self.options.handshake_timeout_ms);
        let accepting = TlsAcceptor::from(self.config.load_full()).accept(plain);
        let stream = tokio::time::timeout(limit, accepting).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the handshake did not end in time")
        })??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let identity = shown.and_then(|certificate| identity(certificate));
        Ok((stream, identity))
    }

    /// Takes up files that were replaced, for as long as it is polled. A pair that cannot serve is reported once, and
    /// the one before serves on.
    pub async fn keep_fresh(&self) -> Infallible {
        let (mut served, mut before, mut reported) = (self.first, self.first, self.first);
        loop {
            tokio::time::sleep(LOOK).await;
            let files = Files::read(&self.options);
            let now = files.fingerprint();
            if now != served {
                match files.config(&self.options) {
                    Ok(config) => {
                        self.config.store(Arc::new(config));
                        served = now;
                        tracing::info!("tls: the files were replaced: new connections use them");
                    }
                    // Seen twice: not just the moment between two files being written.
                    Err(error) if now == before && now != reported => {
                        tracing::error!("tls: the one before serves on: {error}");
                        reported = now;
                    }
                    Err(_) => {}
                }
            }
            before = now;
        }
    }
}

type Fingerprint = [u8; 32];

/// The contents of the files, or why they cannot be read.
struct Files {
    certificate: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    client_ca: Option<Result<Vec<u8>, String>>,
}

impl Files {
    fn read(options: &TlsOptions) -> Files {
        let read = |key: &str, path: &Path| {
            fs::read(path)
                .map_err(|e| format!("tls.{key}: {}: cannot be read: {e}", path.display()))
        };
        let ca = !options.client_ca.as_os_str().is_empty();
        Files {
            certificate: read("certificate", &options.certificate),
            key: read("key", &options.key),
            client_ca: ca.then(|| read("client_ca", &options.client_ca)),
        }
    }

    /// Tells contents apart, so that the key itself need not be kept.
    fn fingerprint(&self) -> Fingerprint {
        let mut all = Sha256::new();
        for file in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()] {
            let bytes = match file {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => error.as_bytes(),
                None => &[],
            };
            all.update((bytes.len() as u64).to_be_bytes());
            all.update(bytes);
        }
        all.finalize().into()
    }

    fn config(&self, options: &TlsOptions) -> Result<ServerConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("certificate", &options.certificate, &self.certificate)?;
        let key = self.key(options)?;
        let versions: &[&SupportedProtocolVersion] = match options.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let until = expiry(&chain[0])
            .map_err(|e| format!("tls.certificate: {}: {e}", options.certificate.display()))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| format!("tls: {error}"))?;
        let builder = match self.verifier(options, &provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let (certificate, key) = (options.certificate.display(), options.key.display());
            format!("tls: {key} does not serve as the key of {certificate}: {error}")
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        registry().set_certificate_expiry(until);
        warn_of_the_end(until, options);
        Ok(config)
    }

    /// The error says nothing of what is in the file.
    fn key(&self, options: &TlsOptions) -> Result<PrivateKeyDer<'static>, String> {
        let bytes = self.key.as_ref().map_err(Clone::clone)?;
        PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
            format!("tls.key: {}: expected a private key in PEM", options.key.display())
        })
    }

    fn verifier(
        &self,
        options: &TlsOptions,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let Some(file) = &self.client_ca else { return Ok(None) };
        let named =
            |error: String| format!("tls.client_ca: {}: {error}", options.client_ca.display());
        let mut roots = RootCertStore::empty();
        for root in certificates("client_ca", &options.client_ca, file)? {
            roots.add(root).map_err(|error| named(error.to_string()))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = match options.client_certificates {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map(Some).map_err(|error| named(error.to_string()))
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(
    key: &str,
    path: &Path,
    file: &Result<Vec<u8>, String>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = file.as_ref().map_err(Clone::clone)?;
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!("tls.{key}: {}: expected certificates in PEM", path.display())),
    }
}

/// The end of a certificate's life, in seconds since the Unix epoch.
fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed.validity().not_after.timestamp()),
        Err(error) => Err(format!("the certificate cannot be read: {error}")),
    }
}

fn warn_of_the_end(until: i64, options: &TlsOptions) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = until.saturating_sub_unsigned(now);
    let certificate = options.certificate.display();
    if left <= 0 {
        tracing::warn!("tls: {certificate} has expired: clients will refuse it");
    } else if left.unsigned_abs() < SOON.as_secs() {
        tracing::warn!("tls: {certificate} expires in {} days", left / 86_400);
    }
}

/// Who a client is: the first URI among its certificate's alternative names (as SPIFFE has it), else the first DNS name,
/// else the subject's common name. What is not printable is nobody's name.
fn identity(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let dns = || {
        names.iter().find_map(|name| match name {
            GeneralName::DNSName(dns) => Some(*dns),
            _ => None,
        })
    };
    let common = || parsed.subject().iter_common_name().next()?.as_str().ok();
    let name = uri.or_else(dns).or_else(common)?;
    let printable = !name.is_empty() && !name.chars().any(char::is_control);
    printable.then(|| name.into())
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
