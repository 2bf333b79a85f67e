//! Regions on real files of `/dev/shm`: what is confined, and what a client that changes its file gets.

use std::{fs, path::PathBuf};

use super::*;
use crate::types::{datatype::Datatype, request::InputTensor};

/// A file of shared memory that goes with the test.
struct Shared(PathBuf);

impl Shared {
    fn new(name: &str, bytes: &[u8]) -> Shared {
        let path = Path::new(DIRECTORY).join(format!("onnxd-test-{}-{name}", std::process::id()));
        fs::write(&path, bytes).expect("shared memory can be written");
        Shared(path)
    }

    fn key(&self) -> String {
        format!("/{}", self.0.file_name().expect("a name").to_str().expect("UTF-8"))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn regions() -> Regions {
    let options = RegionOptions { allow: vec!["onnxd-test-".into()], max_regions: 2 };
    Regions::new(options, 1 << 20)
}

fn status(name: &str, key: &str, offset: u64, byte_size: u64) -> Status {
    Status { name: name.into(), key: key.into(), offset, byte_size }
}

/// A request whose one input, two FP32, lies in `region`, and whose output goes there.
fn request(region: Region) -> (InferRequest, Places) {
    let input = InputTensor {
        name: "x".into(),
        datatype: Datatype::Fp32,
        dims: [2].as_slice().into(),
        data: Bytes::new(),
    };
    let places = Places { inputs: vec![(0, region.clone())], outputs: vec![("y".into(), region)] };
    (InferRequest { inputs: [input].into_iter().collect(), ..Default::default() }, places)
}

fn gather(regions: &Regions, region: Region) -> Result<Bytes, Error> {
    let (mut request, places) = request(region);
    regions.gather(None, &mut request, places, &Budget::new(1 << 20))?;
    Ok(request.inputs[0].data.clone())
}

#[test]
fn what_lies_in_a_region_is_read() {
    let file = Shared::new("read", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let regions = regions();
    regions.register(None, status("r", &file.key(), 2, 10)).expect("it is there");
    let part = |offset, byte_size| Region { name: "r".into(), offset, byte_size };
    assert_eq!(gather(&regions, part(1, 8)).expect("within")[..], [4, 5, 6, 7, 8, 9, 10, 11]);
    assert!(gather(&regions, part(3, 8)).expect_err("outside").message.contains("not within"));
    assert!(gather(&regions, part(u64::MAX, 8)).is_err());
    assert!(gather(&regions, part(0, u64::MAX)).is_err());
    let short = gather(&regions, part(0, 4)).expect_err("two FP32 take eight bytes");
    assert!(short.message.contains("'x'"), "{short}");
    let unknown = Region { name: "other".into(), offset: 0, byte_size: 8 };
    assert_eq!(gather(&regions, unknown).expect_err("unknown").code, Code::NotFound);
    // A file that is cut short is an error, and no signal.
    fs::write(&file.0, [1]).expect("cut");
    assert!(gather(&regions, part(0, 8)).expect_err("cut").message.contains("shorter"));
}

#[test]
fn keys_are_confined() {
    let regions = regions();
    let file = Shared::new("confined", &[0; 8]);
    let register = |name: &str, key: &str, size| regions.register(None, status(name, key, 0, size));
    let code = |key: &str| register("r", key, 8).expect_err(key).code;
    assert_eq!(code("/other"), Code::PermissionDenied);
    let outside = ["/onnxd-test-/../../etc/passwd", "/../etc/passwd", "", "/", "..", "a/b", "a\0"];
    for key in outside {
        assert_eq!(code(key), Code::InvalidArgument, "{key}");
    }
    assert_eq!(code("/onnxd-test-that-is-not-there"), Code::InvalidArgument);
    let link = Shared::new("link", &[]);
    fs::remove_file(&link.0).expect("removed");
    std::os::unix::fs::symlink(&file.0, &link.0).expect("a link");
    assert_eq!(code(&link.key()), Code::InvalidArgument);
    let directory = Shared::new("directory", &[]);
    fs::remove_file(&directory.0).expect("removed");
    fs::create_dir(&directory.0).expect("a directory");
    assert_eq!(code(&directory.key()), Code::InvalidArgument);
    fs::remove_dir(&directory.0).expect("removed");

    for size in [0, 9, u64::MAX] {
        let error = register("r", &file.key(), size).expect_err("no such size");
        assert_eq!(error.code, Code::InvalidArgument);
    }
    register("r", &file.key(), 8).expect("allowed");
    assert!(register("r", &file.key(), 8).expect_err("taken").message.contains("already"));
    register("s", &file.key(), 8).expect("allowed");
    assert_eq!(register("t", &file.key(), 8).expect_err("too many").code, Code::Overloaded);
    regions.unregister(None, "s");
    regions.unregister(None, "nosuch");
    assert_eq!(regions.status(None, "").expect("all"), [status("r", &file.key(), 0, 8)]);

    let none = Regions::new(RegionOptions::default(), 1);
    let off = none.register(None, status("r", &file.key(), 0, 8)).expect_err("off");
    assert_eq!(off.code, Code::Unimplemented);
}

#[test]
fn callers_have_regions_of_their_own() {
    let file = Shared::new("callers", &[0; 8]);
    let regions = regions();
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    regions.register(Some(&a), status("r", &file.key(), 0, 8)).expect("allowed");
    assert_eq!(regions.status(Some(&b), "r").expect_err("not b's").code, Code::NotFound);
    regions.unregister(Some(&b), "");
    assert_eq!(regions.status(Some(&a), "").expect("a's").len(), 1);
    regions.unregister(Some(&a), "");
    assert!(regions.status(Some(&a), "").expect("none").is_empty());
}

#[test]
fn options_are_names_and_no_paths() {
    let options = |prefix: &str| RegionOptions { allow: vec![prefix.into()], max_regions: 1 };
    assert!(options("triton_").check().is_ok() && options("").check().is_ok());
    assert!(options("/a").check().expect_err("a path").contains("'/a'"));
}
