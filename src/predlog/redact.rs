//! What becomes of a column before it is written anywhere: pure rules on single values.

use std::fmt::Write;

use hmac::{Hmac, Mac};
use regex::Regex;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// One rule of `redact`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// As it is.
    #[default]
    Keep,
    /// The column is not there.
    Drop,
    /// The keyed hash of the value: equal values stay equal, and nobody without the key can try values.
    Hash,
    /// So many characters of the text's beginning.
    Truncate(usize),
    /// The interval that holds the number, as in `[18,30)`.
    Bucket(Vec<f64>),
    /// The nearest multiple of the step.
    Round(f64),
    /// `***` in place of each match.
    Mask(String),
}

impl Rule {
    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Rule::Bucket(edges) => {
                let sorted = edges.windows(2).all(|pair| pair[0] < pair[1]);
                let finite = edges.iter().all(|edge| edge.is_finite());
                match !edges.is_empty() && sorted && finite {
                    true => Ok(()),
                    false => Err(format!("bucket: expected edges that rise, got {edges:?}")),
                }
            }
            Rule::Round(step) if !(step.is_finite() && *step > 0.0) => {
                Err(format!("round: expected a step above 0, got {step}"))
            }
            Rule::Mask(pattern) => match Regex::new(pattern) {
                Ok(_) => Ok(()),
                Err(error) => {
                    let error = error.to_string();
                    let last = error.lines().last().unwrap_or("no regular expression");
                    Err(format!("mask: '{pattern}': {}", last.trim_start_matches("error: ")))
                }
            },
            _ => Ok(()),
        }
    }

    /// Whether what it gives is text, whatever it was given.
    pub fn gives_text(&self) -> bool {
        matches!(self, Rule::Hash | Rule::Truncate(_) | Rule::Bucket(_) | Rule::Mask(_))
    }

    /// Its name, as people write it.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Keep => "keep",
            Rule::Drop => "drop",
            Rule::Hash => "hash",
            Rule::Truncate(_) => "truncate",
            Rule::Bucket(_) => "bucket",
            Rule::Round(_) => "round",
            Rule::Mask(_) => "mask",
        }
    }
}

/// The log's key, for hashes that nobody else can make.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// Bytes of a hash that are written, in hex: enough that no two values of a log are taken for one.
const HASH_BYTES: usize = 16;

impl Key {
    /// `None` where the secret is too short to be one.
    pub fn new(secret: &[u8]) -> Option<Key> {
        if secret.len() < 16 {
            return None;
        }
        Hmac::new_from_slice(secret).ok().map(Key)
    }

    /// The hash of a value for a purpose: the same value has another hash for another purpose.
    pub fn hash(&self, purpose: &str, value: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(value);
        hex::encode(&mac.finalize().into_bytes()[..HASH_BYTES])
    }
}

/// A rule made ready: its regular expression compiled, the key at hand.
#[derive(Clone)]
pub enum Redaction {
    Hash(Key),
    Truncate(usize),
    Bucket(Vec<f64>),
    Round(f64),
    Mask(Regex),
}

impl Redaction {
    /// `None`: nothing is to be done (`Keep`), or there is nothing left to do it to (`Drop`).
    ///
    /// # Errors
    /// The key is missing, or the rule is wrong.
    pub fn new(rule: &Rule, key: Option<&Key>) -> Result<Option<Redaction>, String> {
        rule.check()?;
        Ok(match rule {
            Rule::Keep | Rule::Drop => None,
            Rule::Hash => {
                let key = key.ok_or("hash: expected prediction_log.key_file, which is not set")?;
                Some(Redaction::Hash(key.clone()))
            }
            Rule::Truncate(characters) => Some(Redaction::Truncate(*characters)),
            Rule::Bucket(edges) => Some(Redaction::Bucket(edges.clone())),
            Rule::Round(step) => Some(Redaction::Round(*step)),
            Rule::Mask(pattern) => {
                Some(Redaction::Mask(Regex::new(pattern).map_err(|error| error.to_string())?))
            }
        })
    }

    /// The text that takes the place of `text`.
    pub fn text(&self, column: &str, text: &str) -> String {
        match self {
            Redaction::Hash(key) => key.hash(column, text.as_bytes()),
            Redaction::Truncate(characters) => text.chars().take(*characters).collect(),
            Redaction::Mask(pattern) => pattern.replace_all(text, "***").into_owned(),
            Redaction::Bucket(edges) => match text.trim().parse() {
                Ok(number) => bucket(edges, number),
                // Nothing of what is no number.
                Err(_) => "other".into(),
            },
            Redaction::Round(step) => match text.trim().parse() {
                Ok(number) => round(*step, number).to_string(),
                Err(_) => "other".into(),
            },
        }
    }

    /// The number that takes the place of `number`; as it is under rules that give text.
    pub fn number(&self, number: f64) -> f64 {
        match self {
            Redaction::Round(step) => round(*step, number),
            _ => number,
        }
    }
}

fn round(step: f64, number: f64) -> f64 {
    (number / step).round() * step
}

/// The interval of `number`, closed below and open above.
fn bucket(edges: &[f64], number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    let above = edges.partition_point(|edge| *edge <= number);
    let mut text = String::from("[");
    let written = match above.checked_sub(1).and_then(|below| edges.get(below)) {
        Some(edge) => write!(text, "{edge}"),
        None => text.write_str("-inf"),
    };
    let written = written.and_then(|()| match edges.get(above) {
        Some(edge) => write!(text, ",{edge})"),
        None => text.write_str(",inf)"),
    });
    debug_assert!(written.is_ok(), "a String takes everything");
    text
}

/// Whether the name fits the pattern: `*` stands for any text, also none.
pub fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut parts = tail.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ready(rule: Rule) -> Redaction {
        let key = Key::new(b"0123456789abcdef").expect("a key");
        Redaction::new(&rule, Some(&key)).expect("a rule").expect("something to do")
    }

    #[test]
    fn each_rule_does_its_work() {
        assert_eq!(ready(Rule::Truncate(2)).text("c", "äbc"), "äb");
        assert_eq!(ready(Rule::Mask(r"\d+".into())).text("c", "a12b3"), "a***b***");
        let ages = ready(Rule::Bucket(vec![18.0, 30.5]));
        let buckets = ["17.9", "18", "30.5", "NaN", "x"].map(|text| ages.text("c", text));
        assert_eq!(buckets, ["[-inf,18)", "[18,30.5)", "[30.5,inf)", "nan", "other"]);
        assert!((ready(Rule::Round(0.5)).number(1.3) - 1.5).abs() < 1e-12);
    }

    #[test]
    fn hashes_depend_on_key_purpose_and_value() {
        let one = Key::new(b"0123456789abcdef").expect("a key");
        let two = Key::new(b"0123456789abcdeg").expect("a key");
        let hashes =
            [one.hash("a", b"x"), one.hash("b", b"x"), one.hash("a", b"y"), two.hash("a", b"x")];
        for (at, hash) in hashes.iter().enumerate() {
            assert_eq!(hash.len(), 32);
            assert!(!hashes[..at].contains(hash));
        }
        assert_eq!(one.hash("a", b"x"), hashes[0]);
        assert!(Key::new(b"short").is_none());
        let refused = Redaction::new(&Rule::Hash, None);
        assert!(refused.is_err_and(|why| why.contains("key_file")));
    }

    proptest! {
        /// Every number lies in exactly the interval that its bucket says.
        #[test]
        fn a_bucket_holds_its_number(edges in proptest::collection::btree_set(-100i32..100, 1..6), number in -200f64..200.0) {
            let edges: Vec<f64> = edges.into_iter().map(f64::from).collect();
            let text = bucket(&edges, number);
            let (low, high) = text.trim_matches(['[', ')']).split_once(',').expect("two");
            let parse = |text: &str| text.parse::<f64>().expect("a number");
            prop_assert!(parse(low) <= number && number < parse(high), "{} {}", text, number);
        }
    }
}
