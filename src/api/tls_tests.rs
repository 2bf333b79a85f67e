//! Certificates read from files: who they say a client is, and what is refused.

use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;

fn named(common: &str, names: Vec<SanType>) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common);
    params.subject_alt_names = names;
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

#[test]
fn a_client_is_its_uri_else_its_dns_name_else_its_common_name() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let all = vec![dns("a.example"), uri("spiffe://x/one"), uri("spiffe://x/two")];
    let who = |certificate| identity(&certificate).map(|name| name.to_string());
    assert_eq!(who(named("common", all)), Some("spiffe://x/one".into()));
    assert_eq!(who(named("common", vec![dns("a.example"), dns("b")])), Some("a.example".into()));
    assert_eq!(who(named("common", vec![])), Some("common".into()));
    assert_eq!(who(named("a\nb", vec![])), None);
    assert_eq!(who(named("", vec![])), None);
    assert_eq!(identity(&CertificateDer::from(vec![1, 2, 3])), None);
}

/// A directory with `cert.pem` and `key.pem`, and the options that name them.
fn files() -> (tempfile::TempDir, TlsOptions) {
    let home = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(home.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(home.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let options = TlsOptions {
        certificate: home.path().join("cert.pem"),
        key: home.path().join("key.pem"),
        ..TlsOptions::default()
    };
    (home, options)
}

#[test]
fn what_cannot_serve_is_refused_by_the_name_of_its_file() {
    let (home, options) = files();
    assert!(Tls::load(&TlsOptions::default()).unwrap().is_none());
    assert!(Tls::load(&options).unwrap().is_some());
    let refused = |options: &TlsOptions, parts: [&str; 2]| {
        let error = Tls::load(options).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!error.contains("PRIVATE"), "{error}");
    };
    let other = KeyPair::generate().unwrap().serialize_pem();
    fs::write(home.path().join("other.pem"), &other).unwrap();
    fs::write(home.path().join("broken.pem"), &other[..60]).unwrap();
    let at = |name: &str| home.path().join(name);
    refused(&TlsOptions { key: at("other.pem"), ..options.clone() }, ["other.pem", "cert.pem"]);
    refused(&TlsOptions { key: at("broken.pem"), ..options.clone() }, ["tls.key", "broken.pem"]);
    refused(&TlsOptions { key: at("cert.pem"), ..options.clone() }, ["tls.key", "cert.pem"]);
    refused(&TlsOptions { key: at("none.pem"), ..options.clone() }, ["tls.key", "none.pem"]);
    refused(
        &TlsOptions { certificate: at("key.pem"), ..options.clone() },
        ["tls.certificate", "key.pem"],
    );
    refused(
        &TlsOptions { client_ca: at("none.pem"), ..options.clone() },
        ["tls.client_ca", "none.pem"],
    );
    let both = TlsOptions { client_ca: at("cert.pem"), ..options };
    assert!(Tls::load(&both).unwrap().is_some());
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let on = TlsOptions { certificate: "c".into(), key: "k".into(), ..TlsOptions::default() };
    assert!(TlsOptions::default().check().is_ok() && on.check().is_ok());
    assert!(on.covers(Listener::Operator) && !TlsOptions::default().covers(Listener::Http));
    let some = TlsOptions { listeners: vec![Listener::Grpc], ..on.clone() };
    assert!(some.covers(Listener::Grpc) && !some.covers(Listener::Http));
    for (bad, key) in [
        (TlsOptions { key: PathBuf::new(), ..on.clone() }, "key"),
        (TlsOptions { certificate: PathBuf::new(), ..on.clone() }, "certificate"),
        (TlsOptions { listeners: vec![], ..on.clone() }, "listeners"),
        (TlsOptions { handshake_timeout_ms: 0, ..on }, "handshake_timeout_ms"),
    ] {
        let error = bad.check().unwrap_err();
        assert!(error.starts_with(key), "{error}");
    }
}
