//! What model.yaml may say, and how it is told what is wrong with it.

use super::*;

fn read(text: &str) -> Result<ModelOptions, String> {
    ModelOptions::read(text, "iris/model.yaml", &Defaults::default())
}

#[test]
fn nothing_is_needed() {
    for text in ["", "# only a comment\n", "{}", "format: 1"] {
        assert_eq!(read(text).unwrap(), ModelOptions::default(), "{text:?}");
    }
}

#[test]
fn every_form_of_versions() {
    let versions = |text: &str| read(text).map(|o| o.versions);
    assert_eq!(versions("versions: latest").unwrap(), Versions::Latest(1));
    assert_eq!(versions("versions:\n  latest: 3").unwrap(), Versions::Latest(3));
    assert_eq!(versions("versions: all").unwrap(), Versions::All);
    assert_eq!(versions("versions: [3, 1, 3]").unwrap(), Versions::Only(vec![1, 3]));
    for wrong in [
        "versions: newest",
        "versions: []",
        "versions: [0]",
        "versions: [-1]",
        "versions: [x]",
        "versions: {latest: 0}",
        "versions: {newest: 1}",
        "versions: {latest: 1, all: 2}",
        "versions: {}",
        "versions: 3",
    ] {
        let error = versions(wrong).unwrap_err();
        assert!(error.starts_with("iris/model.yaml"), "{wrong}: {error}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_known_ones() {
    let error = read("versions: all\nbatchin:\n  mode: turn\n").unwrap_err();
    assert!(error.starts_with("iris/model.yaml, line 2: unknown key 'batchin'"), "{error}");
    assert!(error.contains("batching") && error.contains("default_timeout_ms"), "{error}");
    let error = read("batching:\n  mode: turn\n  max_batch: 3\n").unwrap_err();
    assert!(error.starts_with("iris/model.yaml, line 3: unknown key 'max_batch'"), "{error}");
    assert!(error.contains("max_batch_size"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_its_line() {
    for (text, line) in [
        ("batching:\n  mode: fast", 2),
        ("backend: cuda", 1),
        ("format: 1\ndefault_timeout_ms: soon", 2),
        ("default_timeout_ms: -1", 1),
        ("a: [1", 1),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(&format!("iris/model.yaml, line {line}: ")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(read("batching: {max_batch_size: 0}").unwrap_err().contains("at least 1"));
    for wrong in ["multiple_of: 0", "buckets: [8, 8]", "buckets: [0, 8]"] {
        let error = read(&format!("batching: {{padding: {{x: {{{wrong}}}}}}}")).unwrap_err();
        let key = wrong.split(':').next().unwrap();
        assert!(error.contains(&format!("batching.padding: x: {key}: expected")), "{error}");
    }
    assert!(read("- all").unwrap_err().contains("keys and values"));
}

#[test]
fn another_format_is_named_before_its_unknown_keys() {
    let error = read("format: 2\nshiny: yes").unwrap_err();
    assert_eq!(error, "iris/model.yaml: format 2 is not known here, expected 1");
    assert!(read("format: 0").is_err());
    assert!(read("format: one").is_err());
}

#[test]
fn a_model_lies_over_the_defaults_key_by_key() {
    let mut defaults = Defaults { default_timeout_ms: 500, ..Defaults::default() };
    defaults.batching.max_batch_size = 8;
    defaults.batching.max_queue_delay_us = 300;
    let text = "batching:\n  max_queue_delay_us: 0\nversions: {latest: 2}";
    let options = ModelOptions::read(text, "m/model.yaml", &defaults).unwrap();
    assert_eq!(options.batching.max_batch_size, 8, "kept from the defaults");
    assert_eq!(options.batching.max_queue_delay_us, 0, "set, although to the built-in default");
    assert_eq!(options.default_timeout_ms, 500);
    assert_eq!(options.versions, Versions::Latest(2));
}

#[test]
fn options_survive_their_own_form() {
    let text = "versions: [2, 5]\nbackend: tract\nwarmup: false\nbatch_axis: none\n\
                labels:\n  y: [a, b]\n\
                batching: {mode: single, instances: 2, padding: {x: {value: -1, buckets: [8, 32]}}}\n";
    let options = read(text).unwrap();
    let again = read(&serde_json::to_string(&options).unwrap()).unwrap();
    assert_eq!(options, again);
}

#[test]
fn the_example_has_every_option_with_its_default() {
    let text = include_str!("../../docs/model.example.yaml");
    assert_eq!(read(text).unwrap(), ModelOptions::default());
    let shown: Value = parse_yaml(text).unwrap();
    let all = serde_json::to_value(ModelOptions::default()).unwrap();
    for block in ["", "/session", "/batching", "/cache", "/log"] {
        let keys = |v: &Value| -> Vec<String> {
            v.pointer(block).and_then(Value::as_object).unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&shown), keys(&all), "{block}");
    }
}

#[test]
fn load_reads_the_command_line_and_the_file() {
    assert_eq!("all".parse::<Load>().unwrap(), Load::All);
    assert_eq!("none".parse::<Load>().unwrap(), Load::None);
    assert_eq!("a, b".parse::<Load>().unwrap(), Load::Names(vec!["a".into(), "b".into()]));
    assert!("a,,b".parse::<Load>().is_err());
    assert!("".parse::<Load>().is_err());
    let load: Load = serde_json::from_str("[\"a\"]").unwrap();
    assert!(load.wants("a") && !load.wants("b"));
}
