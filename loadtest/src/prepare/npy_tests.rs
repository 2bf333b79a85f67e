//! Arrays as NumPy writes them.

use proptest::prelude::*;

use super::*;

/// The bytes of an .npy of version 1.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [MAGIC, &[1, 0], &(head.len() as u16).to_le_bytes(), head.as_bytes(), data].concat()
}

#[test]
fn numbers_and_texts_are_read() {
    let data: Vec<u8> = [1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let read = array("x", &npy("<f4", "(2, 1)", &data)).unwrap();
    assert_eq!((read.datatype, read.shape, read.raw), (Datatype::Fp32, vec![2, 1], data));
    assert_eq!(array("", &npy("|u1", "(3,)", &[1, 2, 3])).unwrap().shape, [3]);
    assert_eq!(array("", &npy("|b1", "()", &[1])).unwrap().shape, [0; 0]);
    let bytes = array("", &npy("|S3", "(2,)", b"a\0\0bcd")).unwrap();
    assert_eq!(bytes.elements().unwrap(), [&b"a"[..], b"bcd"]);
    let points: Vec<u8> = "ü\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
    let text = array("", &npy("<U2", "(1,)", &points)).unwrap();
    assert_eq!(text.elements().unwrap(), ["ü".as_bytes()]);
}

#[test]
fn what_cannot_be_read_is_said() {
    let fortran = [
        MAGIC,
        b"\x01\x00",
        &[62, 0],
        b"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }     ",
    ]
    .concat();
    for (bytes, why) in [
        (b"PK".to_vec(), "'x': it is no array of NumPy"),
        (npy("<f4", "(2,)", &[0; 7]), "7 bytes, its shape asks for more"),
        (npy("<f4", "(99999999999, 99999999999)", &[]), "more elements"),
        (npy(">f4", "(1,)", &[0; 4]), "big-endian"),
        (npy("<c8", "(1,)", &[0; 8]), "'<c8' has no counterpart"),
        (npy("|O", "(1,)", &[0; 8]), "no counterpart"),
        (npy("<f4", "(a,)", &[]), "no number"),
        (MAGIC.to_vec(), "cut off"),
        (fortran, "Fortran"),
    ] {
        let error = array("x", &bytes).unwrap_err();
        assert!(error.starts_with("'x': ") && error.contains(why), "{error}");
    }
}

#[test]
fn archives_have_names() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inputs.npz");
    let mut archive = zip::ZipWriter::new(fs::File::create(&file).unwrap());
    for (name, method) in
        [("a.npy", zip::CompressionMethod::Stored), ("b.npy", zip::CompressionMethod::Deflated)]
    {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        archive.start_file(name, options).unwrap();
        archive.write_all(&npy("<i8", "(1,)", &7i64.to_le_bytes())).unwrap();
    }
    archive.finish().unwrap();
    let arrays = read(&file).unwrap();
    let names: Vec<&str> = arrays.iter().map(|array| array.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(arrays[1].datatype, Datatype::Int64);
    fs::write(&file, b"nothing").unwrap();
    assert!(read(&file).unwrap_err().contains("no .npz"));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = array("", &[MAGIC, &[1, 0], &bytes].concat());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = array("", &npy(&text, "(1,)", &[]));
        let _ = array("", &npy("<f4", &text, &[]));
    }
}
