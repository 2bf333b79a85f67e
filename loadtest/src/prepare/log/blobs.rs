//! Large tensors that rows refer to: files by their digest, in `_blobs` beside the rows of their hour (docs/logging.md).

use std::{fs, path::Path};

use sha2::{Digest, Sha256};

use crate::prepare::tensor::Datatype;

/// The bytes that a row refers to, which are as they were sent.
///
/// # Errors
/// In words, behind the input's name: they are not there, or others.
pub fn read(hour: &Path, reference: &str) -> Result<Vec<u8>, String> {
    let digest = reference.rsplit('/').next().unwrap_or_default();
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("is said to be in '{}', which is no blob", reference.escape_debug()));
    }
    let bytes = fs::read(hour.join("_blobs").join(digest))
        .map_err(|error| format!("is in a blob that cannot be read: {error}"))?;
    match hex::encode(Sha256::digest(&bytes)) == digest {
        true => Ok(bytes),
        false => Err("is in a blob that was changed since".to_owned()),
    }
}

/// How many elements bytes are; `None` where they are not whole.
pub fn count(datatype: Datatype, bytes: &[u8]) -> Option<usize> {
    if let Some(size) = datatype.size() {
        return bytes.len().is_multiple_of(size).then(|| bytes.len() / size);
    }
    let (mut rest, mut count) = (bytes, 0);
    while let Some((head, behind)) = rest.split_first_chunk() {
        rest = behind.get(u32::from_le_bytes(*head) as usize..)?;
        count += 1;
    }
    rest.is_empty().then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_counted_where_they_are_whole() {
        assert_eq!(count(Datatype::Fp32, &[0; 8]), Some(2));
        assert_eq!(count(Datatype::Fp32, &[0; 9]), None);
        assert_eq!(count(Datatype::Bytes, b"\x02\0\0\0hi\0\0\0\0"), Some(2));
        for torn in [&b"\x03\0\0\0hi"[..], b"\x02\0\0\0hi\0", b"\x02"] {
            assert_eq!(count(Datatype::Bytes, torn), None, "{torn:?}");
        }
    }

    #[test]
    fn what_is_not_what_its_name_says_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("_blobs");
        fs::create_dir_all(&dir).unwrap();
        let digest = hex::encode(Sha256::digest(b"hi"));
        fs::write(dir.join(&digest), b"hi").unwrap();
        let reference = format!("log/v1/model=m/_blobs/{digest}");
        assert_eq!(read(home.path(), &reference).unwrap(), b"hi");
        fs::write(dir.join(&digest), b"ho").unwrap();
        assert_eq!(
            read(home.path(), &reference).unwrap_err(),
            "is in a blob that was changed since"
        );
        let gone = format!("log/v1/_blobs/{}", "0".repeat(64));
        assert!(read(home.path(), &gone).unwrap_err().contains("cannot be read"));
        assert!(read(home.path(), "../../etc/passwd").unwrap_err().contains("no blob"));
    }
}
