//! Tests of how a store's objects become a repository's models.

use proptest::prelude::*;

use super::*;

fn object(key: &str) -> Object {
    Object { key: key.into(), bytes: Some(1), tag: "t".into(), etag: None, sha256: None }
}

fn sorted(keys: &[&str]) -> Result<Listed, String> {
    Listed::of(keys.iter().map(|key| object(key)).collect(), "alone")
}

/// Every file of it, as it would lie in the mirror.
fn paths(listed: &Listed) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, model) in &listed.models {
        paths.extend(model.files.keys().map(|path| format!("{name}/{path}")));
        for (number, files) in &model.versions {
            paths.extend(files.keys().map(|path| format!("{name}/{number}/{path}")));
        }
    }
    paths.sort();
    paths
}

#[test]
fn a_listing_is_sorted_into_models_versions_and_what_lies_beside_them() {
    let listed = sorted(&[
        "README.md",
        "wine",
        "wine/1",
        "wine/1/model.onnx",
        "wine/1/data/weights.bin",
        "wine/2/.git/x",
        "wine/model.yaml",
        "wine/samples/a.json",
        "wine/02/model.onnx",
        ".hidden/1/model.onnx",
        "new model/1/model.onnx",
    ])
    .unwrap();
    let expected = [
        "wine/02/model.onnx",
        "wine/1/data/weights.bin",
        "wine/1/model.onnx",
        "wine/model.yaml",
        "wine/samples/a.json",
    ];
    assert_eq!(paths(&listed), expected);
    assert_eq!(listed.models["wine"].versions.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(listed.refused.len(), 1, "{:?}", listed.refused);
    assert_eq!(listed.refused[0].0, "new model/1/model.onnx");
}

#[test]
fn keys_that_lead_elsewhere_are_refused() {
    let deep = "wine/1/".to_owned() + &"d/".repeat(20) + "x";
    let long = format!("wine/1/{}", "x".repeat(300));
    let wrong =
        ["../x", "wine/../../x", "wine/1/./x", "/etc/x", "wine//x", "wine/1/a\\b", "wine/1/\0"];
    let keys: Vec<&str> = wrong.into_iter().chain([&*deep, &*long]).collect();
    let listed = sorted(&keys).unwrap();
    assert_eq!(listed.refused.len(), keys.len(), "{listed:?}");
    assert!(listed.models.is_empty(), "{listed:?}");
}

#[test]
fn one_model_alone_is_version_1() {
    let listed = sorted(&["iris.onnx", "iris.data", "model.yaml", "samples/a.json"]).unwrap();
    let expected =
        ["alone/1/iris.data", "alone/1/model.onnx", "alone/1/samples/a.json", "alone/model.yaml"];
    assert_eq!(paths(&listed), expected);
    assert_eq!(listed.models["alone"].versions[&1]["model.onnx"].key, "iris.onnx");
    let two = sorted(&["a.onnx", "b.onnx"]).unwrap_err();
    assert!(two.contains("a.onnx and b.onnx"), "{two}");
    let renamed = sorted(&["a.onnx", "SHA256SUMS"]).unwrap_err();
    assert!(renamed.contains("model.onnx"), "{renamed}");
    assert!(sorted(&["model.onnx", "SHA256SUMS"]).is_ok());
    // Versions elsewhere: what lies at the top is no model.
    let folders = sorted(&["a.onnx", "wine/1/model.onnx"]).unwrap();
    assert_eq!(paths(&folders), ["wine/1/model.onnx"]);
}

#[test]
fn both_indexes_are_read() {
    let digest = "aB".repeat(32);
    let json = format!(
        r#"{{"format": 1, "files": [{{"path": "m/1/model.onnx", "sha256": "{digest}", "bytes": 7}}]}}"#
    );
    let read = read_index(json.as_bytes()).unwrap();
    assert_eq!((&*read[0].key, read[0].bytes), ("m/1/model.onnx", Some(7)));
    assert_eq!(read[0].sha256.as_deref(), Some(&*"ab".repeat(32)));
    let sums = read_sums(format!("{digest}  ./m/1/model.onnx\n").as_bytes()).unwrap();
    assert_eq!((&*sums[0].key, &sums[0].tag), ("m/1/model.onnx", &read[0].tag));
    for (text, why) in [
        (r#"{"format": 2, "files": []}"#, "expected 1, got 2"),
        (r#"{"format": 1, "files": [{"path": "x", "sha256": "12"}]}"#, "'x': sha256"),
        (r#"{"format": 1, "files": [{"path": "x"}]}"#, "sha256"),
        ("", "EOF"),
    ] {
        let error = read_index(text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

proptest! {
    /// Whatever a store lists: what is made files of stays below the model's folder, visible, and is no folder as well.
    #[test]
    fn no_key_leads_out(keys in prop::collection::vec("([a-c.\\\\ \0]{0,3}/){0,5}[1-3a.]{0,4}(\\.onnx)?", 0..20)) {
        let Ok(listed) = Listed::of(keys.iter().map(|key| object(key)).collect(), "alone") else {
            return Ok(());
        };
        let paths = paths(&listed);
        for path in &paths {
            prop_assert!(path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "{path}");
            prop_assert!(!path.contains('\\') && !path.chars().any(char::is_control), "{path}");
            prop_assert!(!paths.iter().any(|other| other.starts_with(&format!("{path}/"))), "{path}");
        }
    }

    #[test]
    fn no_index_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (read_index(&bytes), read_sums(&bytes));
    }
}
