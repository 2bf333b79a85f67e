//! The store over real files: what is listed, what is read, and what is refused.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn write(root: &Path, file: &str, bytes: &[u8]) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn problem(repository: &Repository, model: &str) -> String {
    repository.models[model].problem.clone().unwrap_or_default()
}

#[test]
fn a_repository_is_listed() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "iris/1/model.onnx", b"a");
    write(dir.path(), "iris/12/model.onnx", b"b");
    write(dir.path(), "iris/03/model.onnx", b"leading zero");
    write(dir.path(), "iris/0/model.onnx", b"zero");
    write(dir.path(), "iris/99999999999999999999/model.onnx", b"no number");
    write(dir.path(), "iris/.tmp/model.onnx", b"hidden");
    write(dir.path(), "iris/model.yaml", b"");
    write(dir.path(), ".git/1/model.onnx", b"hidden");
    write(dir.path(), "README.md", b"text");
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    let repository = Repository::scan(dir.path()).unwrap();
    assert_eq!(repository.models.keys().collect::<Vec<_>>(), ["iris"]);
    let iris = &repository.models["iris"];
    assert_eq!(iris.options.as_deref(), Some("iris/model.yaml"));
    assert_eq!(iris.numbers(), BTreeSet::from([1, 12]));
    assert_eq!(iris.problem, None);
    assert_eq!(repository.read_model(&iris.versions[&12]).unwrap().bytes, &b"b"[..]);
}

#[test]
fn what_is_hashed_is_what_is_read() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "m/1/model.onnx", b"abc");
    let content = Repository::scan(dir.path()).unwrap().read_model("m/1/model.onnx").unwrap();
    assert_eq!(content.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(content.bytes, &b"abc"[..]);
}

#[test]
fn a_place_that_is_not_there_is_named() {
    let error = Repository::scan(Path::new("/no/such/place")).unwrap_err();
    assert_eq!(error, "the model repository '/no/such/place' does not exist");
}

#[test]
fn a_file_and_a_flat_directory_serve_as_version_one() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "kserve/model.onnx", b"m");
    write(dir.path(), "kserve/model.yaml", b"");
    write(dir.path(), "kserve/labels.txt", b"");
    let flat = Repository::scan(&dir.path().join("kserve")).unwrap();
    assert_eq!(flat.models["kserve"].versions[&1], "model.onnx");
    assert_eq!(flat.models["kserve"].options.as_deref(), Some("model.yaml"));
    assert!(flat.read_model("model.onnx").is_ok());

    write(dir.path(), "iris.onnx", b"m");
    let file = Repository::scan(&dir.path().join("iris.onnx")).unwrap();
    assert_eq!(file.models["iris"].versions[&1], "iris.onnx");
    assert!(file.read_model("iris.onnx").is_ok());

    write(dir.path(), "two/a.onnx", b"m");
    write(dir.path(), "two/b.onnx", b"m");
    let error = Repository::scan(&dir.path().join("two")).unwrap_err();
    assert!(error.contains("a.onnx, b.onnx") && error.contains("<model>/<version>"), "{error}");
    assert!(Repository::scan(&dir.path().join("kserve/labels.txt")).is_err());
    assert!(Repository::scan(&dir.path().join("kserve")).is_ok());
}

#[test]
fn a_model_without_a_version_says_what_is_expected() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "iris/model.onnx", b"m");
    write(dir.path(), "empty/notes.txt", b"m");
    write(dir.path(), "good/1/model.onnx", b"m");
    write(dir.path(), "my model/1/model.onnx", b"m");
    let repository = Repository::scan(dir.path()).unwrap();
    assert!(problem(&repository, "iris").contains("move iris/model.onnx to iris/1/model.onnx"));
    assert!(problem(&repository, "empty").contains("expected empty/<version>/model.onnx"));
    assert!(problem(&repository, "my model").contains("no name for a model"));
    assert_eq!(problem(&repository, "good"), "");
    // The model's own folder given as the repository.
    let inner = Repository::scan(&dir.path().join("good")).unwrap();
    assert!(problem(&inner, "1").contains("the repository is the folder above"));
}

#[test]
fn names_are_held_to_the_rule() {
    for good in ["a", "A-b_c.9", &"x".repeat(128)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in ["", ".a", "a/b", "ä", "a b", "a\n", &"x".repeat(129)] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_models_link_stays_inside() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "repo/blobs/1/model.onnx", b"blob");
    write(dir.path(), "outside.onnx", b"secret");
    fs::create_dir_all(dir.path().join("repo/m/1")).unwrap();
    fs::create_dir_all(dir.path().join("repo/m/2")).unwrap();
    fs::create_dir_all(dir.path().join("repo/m/3/model.onnx")).unwrap();
    symlink("../../blobs/1/model.onnx", dir.path().join("repo/m/1/model.onnx")).unwrap();
    symlink("../../../outside.onnx", dir.path().join("repo/m/2/model.onnx")).unwrap();
    write(dir.path(), "repo/m/5/model.onnx", b"");
    let repository = Repository::scan(&dir.path().join("repo")).unwrap();
    let read = |v: u64| repository.read_model(&format!("m/{v}/model.onnx"));
    assert_eq!(read(1).unwrap().bytes, &b"blob"[..]);
    assert!(read(2).unwrap_err().contains("leads out of the repository"));
    assert!(read(3).unwrap_err().contains("no plain file"));
    assert_eq!(read(4).unwrap_err(), "m/4/model.onnx: the file does not exist");
    assert_eq!(read(5).unwrap_err(), "m/5/model.onnx: the file is empty");
}

#[test]
fn external_data_is_a_plain_file_in_the_versions_directory() {
    let dir = TempDir::new().unwrap();
    let version = dir.path().join("m/1");
    write(dir.path(), "m/1/model.onnx", b"m");
    write(dir.path(), "m/1/data.bin", b"weights");
    write(dir.path(), "m/1/deep/er.bin", b"more");
    write(dir.path(), "m/outside.bin", b"secret");
    write(dir.path(), "m/1/two.bin", b"x");
    fs::hard_link(version.join("two.bin"), version.join("second.bin")).unwrap();
    symlink("data.bin", version.join("link.bin")).unwrap();
    symlink("..", version.join("up")).unwrap();
    symlink("deep", version.join("linked")).unwrap();
    let repository = Repository::scan(dir.path()).unwrap();
    let read = |location: &str| repository.read_external("m/1/model.onnx", location);
    assert_eq!(read("data.bin").unwrap().bytes, &b"weights"[..]);
    assert_eq!(read("./deep/er.bin").unwrap().bytes, &b"more"[..]);
    for (location, why) in [
        ("../outside.bin", "'..'"),
        ("deep/../data.bin", "'..'"),
        ("/etc/passwd", "absolute"),
        ("", "no name"),
        (".", "no name"),
        ("link.bin", "symbolic link"),
        ("up/outside.bin", "no plain directory"),
        ("linked/er.bin", "no plain directory"),
        ("two.bin", "2 hard links"),
        ("deep", "no plain file"),
        ("missing.bin", "does not exist"),
        ("nul\0.bin", "NUL"),
    ] {
        let error = read(location).unwrap_err();
        assert!(error.starts_with("m/1/model.onnx: external data '"), "{error}");
        assert!(error.contains(why), "{location}: {error}");
        assert!(!error.contains(&*dir.path().to_string_lossy()), "{error}");
    }
}
