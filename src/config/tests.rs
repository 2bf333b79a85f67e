//! The configuration: what wins over what, where errors point, and that the example is complete.

use super::*;

const EXAMPLE: &str = include_str!("../../config.example.yaml");

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn flag(key: &'static str, flag: &'static str, value: &str) -> Flag {
    Flag { key, flag, value: value.to_owned() }
}

fn file(text: &str) -> Result<Loaded, String> {
    resolve(Some(("onnxd.yaml", text)), &[], &[])
}

/// Every option stands in the example with its default, under a comment; nothing else does.
#[test]
fn the_example_is_complete_and_says_the_defaults() {
    let present: Value = parse_yaml(EXAMPLE).expect("the example is YAML");
    assert_eq!(present, to_value(&Config::default()).expect("a value"));
    let typed = file(EXAMPLE).expect("the example is accepted").config;
    assert_eq!(typed, Config::default());
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if !line.trim().is_empty() && !line.trim().starts_with('#') {
            let above = at.checked_sub(1).map_or("", |at| lines[at].trim());
            assert!(above.starts_with('#'), "no comment above line {}: {line}", at + 1);
        }
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let text = "http: 127.0.0.1:1\ngrpc: 127.0.0.1:2\noperator: off\nlog:\n  level: warn\n";
    let environment = env(&[("ONNXD_GRPC", "127.0.0.1:3"), ("ONNXD_OPERATOR", "127.0.0.1:4")]);
    let flags = [flag("operator", "--operator", "unix:/run/o.sock")];
    let loaded = resolve(Some(("f.yaml", text)), &environment, &flags).expect("fits");
    let config = &loaded.config;
    let addresses = [&config.http, &config.grpc, &config.operator].map(Address::to_string);
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.1:3", "unix:/run/o.sock"]);
    assert_eq!(config.log.level, "warn");
    let origin = |wanted: &str| {
        let (.., origin) =
            loaded.values().into_iter().find(|(key, ..)| key == wanted).expect("a key");
        origin.to_string()
    };
    assert_eq!(origin("http"), "f.yaml");
    assert_eq!(origin("grpc"), "ONNXD_GRPC");
    assert_eq!(origin("operator"), "--operator");
    assert_eq!(origin("log.level"), "f.yaml");
    assert_eq!(origin("log.format"), "default");
    assert_eq!(origin("defaults.batching.max_batch_size"), "default");
}

#[test]
fn the_environment_reaches_every_option() {
    for (key, value) in leaves(&to_value(&Config::default()).expect("a value")) {
        let name = format!("ONNXD_{}", key.replace('.', "_").to_uppercase());
        let text = match &value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let loaded = resolve(None, &env(&[(&name, &text)]), &[]).expect("the default fits");
        assert_eq!(loaded.origins.get(&key), Some(&Origin::Environment(name)));
        assert_eq!(loaded.config, Config::default(), "{key}");
    }
    let loaded = resolve(
        None,
        &env(&[
            ("ONNXD_LOAD", "a,b"),
            ("ONNXD_CONTROL", "1"),
            ("ONNXD_MODELS", "2024"),
            ("ONNXD_DEFAULTS_SESSION_INTRA_OP_THREADS", "2"),
        ]),
        &[],
    )
    .expect("fits");
    assert_eq!(loaded.config.load, Load::Names(vec!["a".into(), "b".into()]));
    assert!(loaded.config.control);
    assert_eq!(loaded.config.models, PathBuf::from("2024"));
    assert_eq!(loaded.config.defaults.session.intra_op_threads, 2);
}

#[test]
fn errors_say_where() {
    let error = file("http: 127.0.0.1:1\nhtpp: 127.0.0.1:2\n").unwrap_err();
    assert!(error.starts_with("onnxd.yaml, line 2: unknown key 'htpp'"), "{error}");
    let error = file("log:\n  format: xml\n").unwrap_err();
    assert!(error.starts_with("onnxd.yaml, line 2: 'xml' is none of"), "{error}");
    let error = file("http: 8000\n").unwrap_err();
    assert!(error.starts_with("onnxd.yaml, line 1: "), "{error}");
    assert!(error.contains("HOST:PORT"), "{error}");
    assert!(file("- a").unwrap_err().contains("keys and values"));
    let error = resolve(None, &env(&[("ONNXD_THREADS", "many")]), &[]).unwrap_err();
    assert!(error.starts_with("ONNXD_THREADS: 'many': "), "{error}");
    let error = resolve(None, &[], &[flag("grpc", "--grpc", "8001")]).unwrap_err();
    assert!(error.starts_with("--grpc: '8001': "), "{error}");
}

/// Neither a hash nor what somebody wrote in its place, by mistake the key itself.
#[test]
fn nothing_shows_what_stands_under_auth() {
    let hash = format!("sha256:{}", "5ec2e7".repeat(11)[..64].to_owned());
    let good = format!("auth:\n  callers:\n    - {{name: a, keys: '{hash}', roles: [read]}}\n");
    let loaded = file(&good).expect("a caller");
    assert_eq!(loaded.config.auth.callers.len(), 1);
    let shown = format!("{:?} {loaded:?}", loaded.values());
    assert!(shown.contains("sha256:***") && !shown.contains("5ec2e7"), "{shown}");

    let hidden = |error: String| {
        assert!(!error.contains("5ec2e7") && !error.contains("s3cr3t"), "{error}");
        error
    };
    let broken = [
        "auth:\n  callers:\n    - name: a\n      keys: s3cr3t\n",
        "auth:\n  callers:\n    - name: a\n      key: s3cr3t\n",
        "auth:\n  callers:\n    - name: a\n      keys: sha256:5ec2e7\n",
        "auth:\n  callers:\n    - {name: a, roles: [s3cr3t]}\n",
        "auth:\n  callers: s3cr3t\n",
        "auth:\n  s3cr3t: 1\n",
        "auth: s3cr3t\n",
        "http: off\nauth: {callers: [{name: a, keys: s3cr3t}]}\n",
        "{auth: {callers: [{name: a, keys: s3cr3t}]}}",
        "{\"http\": \"off\",\n\"auth\": {\"callers\": [\n{\"name\": \"a\", \"keys\": \"s3cr3t\"}]}}",
    ];
    for text in broken {
        let error = hidden(file(text).unwrap_err());
        assert!(error.starts_with("onnxd.yaml, line "), "{error}");
    }
    let twice = format!("auth:\n  callers:\n    - {{name: a, keys: ['{hash}', '{hash}']}}\n");
    assert!(hidden(file(&twice).unwrap_err()).contains("the same key"));
    for text in ["[{name: a, keys: s3cr3t}]", "s3cr3t", "[s3cr3t", "[{s3cr3t: 1}]"] {
        let error = resolve(None, &env(&[("ONNXD_AUTH_CALLERS", text)]), &[]).unwrap_err();
        assert!(hidden(error).starts_with("ONNXD_AUTH_CALLERS: "));
    }
    // Elsewhere the line is shown, as ever.
    let error = file("auth:\n  identity: off\nlog:\n  format: xml\n").unwrap_err();
    assert!(error.contains("'xml'"), "{error}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |text: &str, part: &str| {
        let error = file(text).unwrap_err();
        assert!(error.starts_with("onnxd.yaml: ") && error.contains(part), "{error}");
    };
    refused("http: off\ngrpc: off\noperator: off", "all off");
    refused("http: 127.0.0.1:8001", "http and grpc have the same address");
    refused("request_memory_bytes: 5", "at least max_request_bytes (67108864), got 5");
    refused("max_connections: 0", "max_connections: expected at least 1");
    refused("threads: 100000", "at most 4096");
    refused("defaults: {session: {intra_op_threads: 2000}}", "intra_op_threads");
    assert!(file("http: 127.0.0.1:0\ngrpc: 127.0.0.1:0").is_ok());
    assert!(file("").is_ok() && file("# nothing\n").is_ok());
}

#[test]
fn unknown_variables_are_pointed_out_but_not_kubernetes_own() {
    let environment = env(&[
        ("ONNXD_HTPP", "x"),
        ("ONNXD_CONFIG", "x"),
        ("ONNXD_SERVICE_HOST", "10.0.0.1"),
        ("ONNXD_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("ONNXD_SERVICE_PORT_HTTP", "8000"),
    ]);
    let loaded = resolve(None, &environment, &[]).expect("stops nothing");
    assert_eq!(loaded.warnings, ["the environment's ONNXD_HTPP is no option of onnxd"]);
}
