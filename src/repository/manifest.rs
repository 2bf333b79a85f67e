//! A version's manifest: the digests of its files, as `sha256sum` writes them.

use std::collections::BTreeMap;

/// In the version's folder; made there by `sha256sum model.onnx … > SHA256SUMS`.
pub const FILE: &str = "SHA256SUMS";
pub const MOST_BYTES: u64 = 1 << 20;

/// Digests in hexadecimal, by the file's name relative to the version's folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, String>);

impl Manifest {
    /// Reads lines of a digest, two spaces (or a space and a star), and a name. The error names the line.
    pub fn read(bytes: &[u8]) -> Result<Manifest, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no UTF-8 text")?;
        let mut files = BTreeMap::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let parsed = line.split_once([' ', '\t']).and_then(|(digest, name)| {
                let hex = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
                let name = name.trim_start_matches([' ', '*']).trim_start_matches("./");
                (hex && !name.is_empty()).then(|| (digest.to_ascii_lowercase(), name))
            });
            let Some((digest, name)) = parsed else {
                return Err(format!(
                    "line {}: expected a SHA-256 digest and a name, as sha256sum writes them",
                    at + 1
                ));
            };
            files.insert(name.to_owned(), digest);
        }
        Ok(Manifest(files))
    }

    /// Every file with its digest, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, digest)| (&**name, &**digest))
    }

    /// Whether a file that was read is the one that is listed.
    pub fn check(&self, name: &str, sha256: &str) -> Result<(), String> {
        match self.0.get(name) {
            None => Err(format!("{FILE} does not list '{}'", name.escape_debug())),
            Some(listed) if listed == sha256 => Ok(()),
            Some(listed) => Err(format!(
                "'{}' has the digest {sha256}, {FILE} says {listed}: it is not whole, or another",
                name.escape_debug()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_sha256sum_writes_is_read() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let text = format!("{a}  model.onnx\n{b} *./data/weights.bin\n\n");
        let manifest = Manifest::read(text.as_bytes()).unwrap();
        assert_eq!(manifest.check("model.onnx", &a), Ok(()));
        assert_eq!(manifest.check("data/weights.bin", &"b".repeat(64)), Ok(()));
        let other = manifest.check("model.onnx", &"c".repeat(64)).unwrap_err();
        assert!(other.contains("'model.onnx' has the digest cccc"), "{other}");
        assert_eq!(manifest.check("x", &a).unwrap_err(), "SHA256SUMS does not list 'x'");
        for wrong in ["abc  model.onnx", &*a, &format!("{a}  "), &format!("\n{a}x f")] {
            let error = Manifest::read(wrong.as_bytes()).unwrap_err();
            assert!(error.starts_with("line "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::read(&bytes);
        }
    }
}
