//! What one thread notes of its requests: as it comes, unsorted, so that noting costs a push; put in order elsewhere.

use std::collections::BTreeMap;

use crate::record::{Cell, Code, EXAMPLES, Times};

/// Of one variant, due within one tenth of a second of its phase.
#[derive(Debug, Default)]
pub struct Raw {
    /// Latency and service time of each good answer, nanoseconds.
    pub good: Vec<(u64, u64)>,
    /// How late each request was taken up.
    pub lags: Vec<u64>,
    pub codes: Vec<(Code, u64)>,
    pub versions: Vec<(Box<[u8]>, u64)>,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

impl Raw {
    pub fn cell(self) -> Cell {
        let times = |values: &mut dyn Iterator<Item = u64>| -> Times {
            values.map(|value| (quantised(value), 1)).collect()
        };
        let text = |version: &[u8]| String::from_utf8_lossy(version).into_owned();
        Cell {
            latency: times(&mut self.good.iter().map(|(latency, _)| *latency)),
            service: times(&mut self.good.iter().map(|(_, service)| *service)),
            due: self.lags.len() as u64,
            lag: times(&mut self.lags.into_iter()),
            codes: self.codes.into_iter().collect(),
            bytes_out: self.bytes_out,
            bytes_in: self.bytes_in,
            versions: self.versions.iter().map(|(version, n)| (text(version), *n)).collect(),
        }
    }
}

/// The lower end of the bucket that a histogram of three digits has a value in.
fn quantised(value: u64) -> u64 {
    const EXACT: u32 = 11;
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(EXACT);
    value >> shift << shift
}

/// Adds to one of a few counts.
fn count<K: PartialEq>(
    counts: &mut Vec<(K, u64)>,
    is: impl Fn(&K) -> bool,
    key: impl FnOnce() -> K,
) {
    match counts.iter_mut().find(|(key, _)| is(key)) {
        Some((_, n)) => *n += 1,
        None => counts.push((key(), 1)),
    }
}

/// By tenth of the due moment, and variant.
pub type Note = ((u64, usize), Raw);

/// The notes of one phase that were not handed over yet.
#[derive(Debug, Default)]
pub struct Book {
    /// By tenth and variant; the newest last.
    open: Vec<Note>,
    /// What each kind of failure looked like, the first of them.
    examples: BTreeMap<Code, String>,
    news: Vec<String>,
}

impl Book {
    fn raw(&mut self, key: (u64, usize)) -> &mut Raw {
        let at = match self.open.iter().rposition(|(known, _)| *known == key) {
            Some(at) => at,
            None => {
                self.open.push((key, Raw::default()));
                self.open.len() - 1
            }
        };
        &mut self.open[at].1
    }

    /// A request was taken up, `lag` after it was due. `key`: tenth of its due moment, and variant.
    pub fn taken(&mut self, key: (u64, usize), lag: u64) {
        self.raw(key).lags.push(lag);
    }

    pub fn sent(&mut self, key: (u64, usize), bytes: usize) {
        self.raw(key).bytes_out += bytes as u64;
    }

    pub fn good(
        &mut self,
        key: (u64, usize),
        times: (u64, u64),
        bytes: u64,
        version: Option<&[u8]>,
    ) {
        let raw = self.raw(key);
        raw.good.push(times);
        raw.bytes_in += bytes;
        count(&mut raw.codes, |code| *code == Code::Ok, || Code::Ok);
        if let Some(version) = version {
            count(&mut raw.versions, |known| **known == *version, || version.into());
        }
    }

    /// `said`: what a person should know of it.
    pub fn failed(
        &mut self,
        key: (u64, usize),
        code: Code,
        bytes: u64,
        said: impl FnOnce() -> String,
    ) {
        if self.examples.len() < EXAMPLES && !self.examples.contains_key(&code) {
            let example = format!("{code}: {}", said());
            self.examples.insert(code.clone(), example.clone());
            self.news.push(example);
        }
        let raw = self.raw(key);
        raw.bytes_in += bytes;
        count(&mut raw.codes, |known| *known == code, || code.clone());
    }

    /// Hands over what was noted since the last time, and new examples.
    pub fn hand_over(&mut self) -> (Vec<Note>, Vec<String>) {
        (std::mem::take(&mut self.open), std::mem::take(&mut self.news))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::histogram;

    proptest! {
        #[test]
        fn values_have_the_buckets_of_the_histogram(value in 1u64..3_600_000_000_000) {
            prop_assert_eq!(quantised(value), histogram().lowest_equivalent(value));
        }
    }

    #[test]
    fn what_was_noted_is_handed_over_once() {
        let mut book = Book::default();
        for at in 0..30u64 {
            let key = (at / 10, (at % 2) as usize);
            book.taken(key, at);
            book.sent(key, 100);
            match at {
                3 => book.failed(key, Code::Http(500), 7, || "boom".to_owned()),
                4 => book.failed(key, Code::Http(500), 7, || "again".to_owned()),
                _ => book.good(key, (at * 1000, at * 900), 5, Some(b"1")),
            }
        }
        let (notes, examples) = book.hand_over();
        assert_eq!(examples, ["http_500: boom"]);
        assert_eq!(notes.len(), 6);
        let cells: Vec<Cell> = notes.into_iter().map(|(_, raw)| raw.cell()).collect();
        let cell = Cell::sum(&cells);
        assert_eq!((cell.due, cell.lag.count(), cell.latency.count()), (30, 30, 28));
        assert_eq!((cell.codes[&Code::Ok], cell.codes[&Code::Http(500)]), (28, 2));
        assert_eq!((cell.bytes_out, cell.bytes_in, cell.versions["1"]), (3000, 154, 28));
        assert!(book.hand_over().0.is_empty());
    }
}
