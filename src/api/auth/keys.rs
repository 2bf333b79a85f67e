//! API keys: made at random, kept as SHA-256 hashes, compared without telling by time how close a guess was.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What a hash begins with in a configuration.
const SCHEME: &str = "sha256:";
/// What a key of ours begins with, so that a scanner for secrets knows one when it sees it.
const PREFIX: &str = "onnxd_";
/// Longer ones are no keys: nothing of them is hashed.
const MOST: usize = 512;

/// The hash of a key. It never shows itself: not in `Debug`, not in an error.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key as it was sent. Why plain SHA-256: a key holds 256 random bits, so there is nothing to guess.
    pub fn of(key: &[u8]) -> KeyHash {
        KeyHash(Sha256::digest(key).into())
    }

    /// As a configuration has it.
    pub fn text(&self) -> String {
        format!("{SCHEME}{}", hex::encode(self.0))
    }

    fn parse(text: &str) -> Result<KeyHash, String> {
        let digits = text.trim().strip_prefix(SCHEME).unwrap_or_default();
        let mut hash = [0; 32];
        // Why without what came: it may be the key itself, by mistake.
        hex::decode_to_slice(digits, &mut hash).map_err(|_| EXPECTED.to_owned())?;
        Ok(KeyHash(hash))
    }

    /// Whether both are the same, in a time that does not depend on where they differ.
    pub fn same(&self, other: &KeyHash) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

const EXPECTED: &str = "expected hashes of keys, each 'sha256:' and 64 hexadecimal digits (onnxd key makes one); what stands \
                        there is not shown";

impl PartialEq for KeyHash {
    fn eq(&self, other: &KeyHash) -> bool {
        self.same(other).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(***)")
    }
}

/// The hashes of a caller's keys: several, so that a new key can come before the old one goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyHashes(pub Vec<KeyHash>);

impl Serialize for KeyHashes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(KeyHash::text))
    }
}

impl<'de> Deserialize<'de> for KeyHashes {
    /// One or a list. By way of a value, since serde's own errors quote what they do not like.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyHashes, D::Error> {
        let value = Value::deserialize(deserializer).map_err(|_| D::Error::custom(EXPECTED))?;
        let one = |value: &Value| {
            KeyHash::parse(value.as_str().unwrap_or_default()).map_err(D::Error::custom)
        };
        match &value {
            Value::Array(values) => {
                Ok(KeyHashes(values.iter().map(one).collect::<Result<_, _>>()?))
            }
            value => Ok(KeyHashes(vec![one(value)?])),
        }
    }
}

/// A key from 32 random bytes.
pub fn key(random: [u8; 32]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random))
}

/// The key of an `Authorization` header: `Bearer`, in any case, a space, and what follows.
pub fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(6)?;
    let key = rest.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && (1..=MOST).contains(&key.len())).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_again_by_its_hash() {
        let key = key([7; 32]);
        assert!(key.starts_with("onnxd_") && key.len() == 6 + 43, "{key}");
        let text = KeyHash::of(key.as_bytes()).text();
        assert_eq!(KeyHash::parse(&text), Ok(KeyHash::of(key.as_bytes())));
        assert_ne!(KeyHash::of(b"a"), KeyHash::of(b"b"));
        // As `printf %s abc | sha256sum` has it.
        assert_eq!(
            KeyHash::of(b"abc").text(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn nothing_shows_a_hash_or_what_stands_in_its_place() {
        let hash = KeyHash::of(b"abc");
        assert_eq!(format!("{:?}", KeyHashes(vec![hash])), "KeyHashes([KeyHash(***)])");
        for text in ["\"hunter2\"", "[\"hunter2\"]", "31337", "[31337]", "{\"31337\": 1}", "true"] {
            let error = serde_json::from_str::<KeyHashes>(text).unwrap_err().to_string();
            assert!(error.starts_with("expected hashes of keys"), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("31337"), "{error}");
        }
        let one: KeyHashes = serde_json::from_str(&format!("\"{}\"", hash.text())).unwrap();
        assert_eq!(one, KeyHashes(vec![hash]));
        let back = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<KeyHashes>(&back).unwrap(), one);
    }

    #[test]
    fn a_bearer_is_read_as_it_stands() {
        for (header, key) in [
            (&b"Bearer abc"[..], Some(&b"abc"[..])),
            (b"bearer  abc ", Some(b"abc")),
            (b"BEARER a b", Some(b"a b")),
            (b"Bearer", None),
            (b"Bearer ", None),
            (b"Bearerabc", None),
            (b"Basic abc", None),
            (b"", None),
        ] {
            assert_eq!(bearer(header), key, "{}", String::from_utf8_lossy(header));
        }
        let long = [&b"Bearer "[..], &[b'a'; MOST + 1]].concat();
        assert_eq!(bearer(&long), None);
    }
}
