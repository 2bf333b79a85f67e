//! Every way to a server and every way of arriving, by flags: TLS, Unix sockets, several addresses, ramps, steps, recorded moments.

use std::{collections::BTreeMap, net::TcpListener, process::Command};

use onnxd_loadtest::{record::Code, report::json::Report};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::support::{
    onnxd::Onnxd,
    process::{run_to_end, sibling},
    run::{Home, echo},
};

/// Writes an authority and what it signed: for the server, for a client, and another one that nobody knows.
fn certificates(home: &Home) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    home.write("ca.pem", &params.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        home.write(&format!("{name}.pem"), &certificate.pem());
        home.write(&format!("{name}.key"), &key.serialize_pem());
    }
    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).expect("signed");
    home.write("stranger.pem", &stranger.cert.pem());
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("a port").1
}

const LOAD: &str = "--model wine --rate 100 --duration 1s --warm-up 0s --metrics off --slo p50<5s";

#[track_caller]
fn all_good(report: &Report) {
    let total = &report.summary.total;
    assert!(total.good > 50 && total.good == total.due, "{} of {}", total.good, total.due);
}

#[test]
fn a_server_with_tls_is_trusted_by_its_authority_or_not_at_all() {
    let home = Home::new();
    certificates(&home);
    let Some(server) = Onnxd::start_with(|command| {
        command.env("ONNXD_TLS_CERTIFICATE", home.file("server.pem"));
        command.env("ONNXD_TLS_KEY", home.file("server.key"));
        command.env("ONNXD_TLS_LISTENERS", "[http, grpc]");
    }) else {
        return;
    };
    for url in [
        format!("grpcs://localhost:{}", port(&server.grpc)),
        format!("https://localhost:{} --protocol binary", port(&server.http)),
        format!("https://127.0.0.1:{}", port(&server.http)),
    ] {
        let run = |rest: &str| format!("run --url {url} {LOAD} {rest}");
        all_good(&home.report(0, &run("--ca ca.pem"), &[]).0);
        all_good(&home.report(0, &run("--insecure"), &[]).0);
        // The system's authorities do not know it, nor does a stranger.
        home.fails(1, &run(""), &[], &["certificate"]);
        home.fails(1, &run("--ca stranger.pem"), &[], &["certificate"]);
        home.fails(1, &run("--ca none.pem"), &[], &["none.pem"]);
        home.fails(1, &run("--ca server.key"), &[], &["server.key", "no certificate"]);
    }
    let both = home.call(&format!("run --url https://a {LOAD} --ca ca.pem --insecure"), &[]);
    assert_eq!(both.code, Some(2), "{}", both.stderr);
    // A scenario says the same.
    let scenario = format!(
        "target: {{url: 'grpcs://localhost:{}', tls: {{insecure: true}}}}\nmix: [{{model: wine}}]\n\
         phases: [{{arrivals: {{constant: 100}}, duration: 1s}}]\n",
        port(&server.grpc)
    );
    home.write("s.yaml", &scenario);
    all_good(&home.report(0, "run s.yaml --metrics off", &[]).0);
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_one() {
    let home = Home::new();
    certificates(&home);
    let Some(server) = Onnxd::start_with(|command| {
        command.env("ONNXD_TLS_CERTIFICATE", home.file("server.pem"));
        command.env("ONNXD_TLS_KEY", home.file("server.key"));
        command.env("ONNXD_TLS_CLIENT_CA", home.file("ca.pem"));
        command.env("ONNXD_TLS_LISTENERS", "[grpc]");
    }) else {
        return;
    };
    let url = format!("grpcs://localhost:{}", port(&server.grpc));
    let run = |rest: &str| format!("run --url {url} {LOAD} --ca ca.pem {rest}");
    let shown = "--client-certificate client.pem --client-key client.key";
    all_good(&home.report(0, &run(shown), &[]).0);
    home.fails(1, &run(""), &[], &["cannot be"]);
    let words = run("--client-certificate client.pem --client-key ca.pem");
    home.fails(1, &words, &[], &["ca.pem", "private key"]);
    let half = home.call(&run("--client-certificate client.pem"), &[]);
    assert_eq!(half.code, Some(2), "{}", half.stderr);
}

#[test]
fn a_unix_socket_is_a_server_like_any_other() {
    let home = Home::new();
    let socket = home.file("s.sock");
    let Some(server) = Onnxd::start_on(&format!("unix:{}", socket.display())) else { return };
    for protocol in ["json", "binary", "grpc"] {
        let words = format!("run --url unix:{} --protocol {protocol} {LOAD}", socket.display());
        all_good(&home.report(0, &words, &[]).0);
    }
    drop(server);
    let words = format!("run --url unix:{} {LOAD}", home.file("none.sock").display());
    home.fails(1, &words, &[], &["none.sock"]);
}

/// `localhost` is ::1 and 127.0.0.1 in many a hosts file, and servers listen on one of them.
#[test]
fn a_name_of_several_addresses_is_the_one_that_answers() {
    let server = echo("constant:1ms");
    let port = server.address.port();
    let words = format!("run --url http://localhost:{port} {LOAD}");
    all_good(&Home::new().report(0, &words, &[]).0);
    if let Ok(listener) = TcpListener::bind("[::1]:0") {
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let words = format!("run --url http://localhost:{port} {LOAD}");
        Home::new().fails(1, &words, &[], &[&format!("localhost:{port}"), "refused"]);
    }
}

/// A key goes with every request, the one for the model's metadata too; deadlines and priorities reach the server.
#[test]
fn requests_carry_what_the_flags_say() {
    let Some(onnxd) = sibling("onnxd") else { return };
    let made = run_to_end(Command::new(onnxd).args(["key", "--output", "json"]));
    let made: Value = serde_json::from_str(&made.stdout).expect("JSON");
    let (key, hash) = (made["key"].as_str().expect("a key"), &made["hash"]);
    let callers = format!("[{{name: load, keys: {hash}, roles: [infer]}}]");
    let more = |command: &mut Command| {
        command.env("ONNXD_AUTH_CALLERS", &callers);
    };
    let Some(server) = Onnxd::start_with(more) else { return };
    let home = Home::new();
    let header = ["--header", &format!("Authorization: Bearer {key}")];
    for (url, refused, late) in [
        (format!("grpc://{}", server.grpc), "grpc_16", Code::Grpc(4)),
        (format!("http://{}", server.http), "http_401", Code::Http(504)),
        (format!("http://{} --protocol binary", server.http), "http_401", Code::Http(504)),
    ] {
        let run = |rest: &str| format!("run --url {url} {LOAD} {rest}");
        all_good(&home.report(0, &run("--rows 3 --priority 1 --deadline 9s"), &header).0);
        home.fails(1, &run(""), &[], &["'wine'", refused]);
        let wrong = ["--header", "Authorization: Bearer onnxd_wrong"];
        home.fails(1, &run(""), &wrong, &["'wine'", refused]);
        home.fails(1, &run(""), &["--header", "a b: c"], &["'a b: c' is no header"]);
        // Nobody answers within a microsecond.
        let (report, _) = home.report(3, &run("--deadline 1us --slo error_rate<50%"), &header);
        let total = &report.summary.total;
        assert_eq!(total.codes.get(&late), Some(&total.due), "{:?}", total.codes);
    }
}

/// Requests that were due in each second.
fn by_second(report: &Report) -> Vec<u64> {
    let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
    for stretch in &report.stretches {
        *seconds.entry(stretch.tenth / 10).or_default() += stretch.cell.due;
    }
    seconds.into_values().collect()
}

#[test]
fn arrivals_are_what_the_flag_says() {
    let server = echo("constant:1ms");
    let home = Home::new();
    let moments: String = (0..30).map(|at| format!("17641432{:02}.5\n", at / 10 * 2)).collect();
    home.write("moments.txt", &moments);
    let run =
        |rest: &str| format!("run --url http://{} --model m --warm-up 0s {rest}", server.address);
    for (flags, expected) in [
        // From 0 to 200 a second in 4 s: 25, 75, 125, 175.
        ("--arrivals even-ramp:0..200 --duration 4s", vec![25, 75, 125, 175]),
        ("--arrivals even-steps:50,100,20/1s", vec![50, 100, 20]),
        ("--arrivals bursts:32/500ms --duration 2s", vec![64, 64]),
        ("--arrivals constant --rate 80 --duration 2s", vec![80, 80]),
        // Ten at once, every two seconds, as recorded.
        ("--arrivals trace:moments.txt", vec![10, 10, 10]),
    ] {
        let (report, ended) = home.report(0, &run(flags), &[]);
        let came = by_second(&report);
        assert_eq!(came.len(), expected.len(), "{flags}: {came:?}");
        // An arrival on the edge of a second is of either.
        let close = |(a, b): (&u64, &u64)| a.abs_diff(*b) <= 1;
        assert!(came.iter().zip(&expected).all(close), "{flags}: {came:?}\n{}", ended.stdout);
    }
    let (report, _) = home.report(0, &run("--arrivals closed:3/50ms --duration 2s"), &[]);
    // Each of three asks, waits for some milliseconds and thinks for 50.
    assert!((30..=120).contains(&report.summary.total.due), "{}", report.summary.total.due);
    let (report, _) = home.report(0, &run("--arrivals ramp:0..200 --duration 4s"), &[]);
    assert!((320..480).contains(&report.summary.total.due), "{}", report.summary.total.due);
    for (flags, says) in [
        ("--arrivals ramp:1", "no .. in it"),
        ("--arrivals steps:1,x/5s", "x"),
        ("--arrivals trace:none.txt", "none.txt"),
        ("--arrivals waves:3", "waves"),
        ("--arrivals ramp:1..5 --rate 3", "--rate goes with"),
    ] {
        let ended = home.call(&run(flags), &[]);
        assert!(matches!(ended.code, Some(1 | 2)), "{flags}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{flags}: {}", ended.stderr);
    }
}
