//! Digests of files, as the manifests and reports state them.

use std::{io, path::Path};

use sha2::{Digest, Sha256};

use super::{
    compact::journal,
    reader::{ReadError, failed},
};

/// SHA-256 of a file's bytes, in hexadecimal.
pub fn file(path: &Path) -> Result<String, ReadError> {
    let mut hasher = Sha256::new();
    let mut file = journal::open(path).map_err(|error| failed(path, error))?;
    io::copy(&mut file, &mut hasher).map_err(|error| failed(path, error))?;
    Ok(hex::encode(hasher.finalize()))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn bytes(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
