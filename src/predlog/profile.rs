//! What the rows of a file amount to, column by column, such that those of several files are put together without their rows: counts,
//! moments, categories, sketches and a sample. Pure; `profile/build.rs` makes one of rows, `profile/file.rs` a file of one.

pub mod build;
pub mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datasketches::{
    hll::{HllSketch, HllType, HllUnion},
    tdigest::TDigestMut,
};

use super::footer::Role;

/// Values that are counted apart; the rest is `other`.
pub const CATEGORIES: usize = 100;
/// How finely the sketch of quantiles is kept, and that of different values (1.04 / sqrt(2^11) = 2.3 %).
const TDIGEST_K: u16 = 200;
const HLL_LG_K: u8 = 11;
/// Beyond it, sums in the sketch of quantiles would not be finite.
const LARGEST: f64 = 1e300;

/// What is known of a file's rows, or of those of several.
#[derive(Clone)]
pub struct Profile {
    pub rows: u64,
    pub columns: BTreeMap<String, Column>,
    pub sample: Sample,
}

/// Rows that stand for all: those whose ids have the smallest hashes, in that order. It is the same whoever takes it, and the sample
/// of all files is the sample of theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub keys: Vec<u64>,
    /// How many there are at most.
    pub most: usize,
}

/// What is known of a column.
#[derive(Clone)]
pub struct Column {
    pub role: Role,
    /// As in `list<float>`.
    pub kind: Arc<str>,
    /// Cells, those without a value among them.
    pub count: u64,
    pub nulls: u64,
    pub nan: u64,
    pub infinite: u64,
    /// Of numbers.
    pub moments: Moments,
    pub categories: Categories,
    pub sketches: Sketches,
    /// Where the model has a reference: how many values are in which of its bins.
    pub bins: Option<Bins>,
    /// The cells of the sample's rows, in its order.
    pub sample: Vec<Cell>,
}

/// A cell, as far as a sample tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value, or a row of a file that has no such column.
    Null,
    Number(f64),
    Text(Arc<str>),
}

/// Of finite numbers: how many, and what is needed for mean and variance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// The sum of squared distances from the mean.
    pub m2: f64,
}

/// How often each value is there. Numbers of many different values are not listed: all of them are `other`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories {
    pub counts: BTreeMap<Arc<str>, u64>,
    pub other: u64,
}

/// Values in the bins of a reference, which are `[a, b)`: the first is open below, the last above.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
    /// Of those, values below the reference's smallest and above its largest.
    pub range: (f64, f64),
    pub under: u64,
    pub over: u64,
}

/// Numbers and different values, roughly.
#[derive(Clone, Default)]
pub struct Sketches {
    pub quantiles: Option<TDigestMut>,
    pub distinct: Option<HllSketch>,
}

impl Sample {
    /// Which rows of two samples make that of both: for each, its place in one of them.
    pub fn united(&self, other: &[u64]) -> Vec<(u64, Place)> {
        let own = self.keys.iter().enumerate().map(|(at, key)| (*key, Place::Left(at)));
        let theirs = other.iter().enumerate().map(|(at, key)| (*key, Place::Right(at)));
        let mut all: Vec<(u64, Place)> = own.chain(theirs).collect();
        all.sort_unstable();
        all.dedup_by_key(|(key, _)| *key);
        all.truncate(self.most);
        all
    }
}

/// Of which of two samples a row is, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Left(usize),
    Right(usize),
}

impl Profile {
    pub fn empty(most: usize) -> Profile {
        let sample = Sample { keys: Vec::new(), most };
        Profile { rows: 0, columns: BTreeMap::new(), sample }
    }

    /// That of both files' rows.
    pub fn merge(&mut self, other: &Profile) {
        let order = self.sample.united(&other.sample.keys);
        let names: BTreeSet<&String> = self.columns.keys().chain(other.columns.keys()).collect();
        let mut columns = BTreeMap::new();
        for name in names {
            let (own, theirs) = (self.columns.get(name), other.columns.get(name));
            let Some(first) = own.or(theirs) else { continue };
            let cells = |column: Option<&Column>, at| {
                column.and_then(|column| column.sample.get(at)).cloned().unwrap_or(Cell::Null)
            };
            let sample = order.iter().map(|(_, place)| match place {
                Place::Left(at) => cells(own, *at),
                Place::Right(at) => cells(theirs, *at),
            });
            let sample = sample.collect();
            let mut merged = first.clone();
            if let (Some(_), Some(theirs)) = (own, theirs) {
                merged.merge(theirs);
            }
            columns.insert(name.clone(), Column { sample, ..merged });
        }
        self.columns = columns;
        self.rows += other.rows;
        self.sample.keys = order.into_iter().map(|(key, _)| key).collect();
    }
}

impl Column {
    pub fn new(role: Role, kind: &str) -> Column {
        Column {
            role,
            kind: kind.into(),
            count: 0,
            nulls: 0,
            nan: 0,
            infinite: 0,
            moments: Moments::default(),
            categories: Categories::default(),
            sketches: Sketches::default(),
            bins: None,
            sample: Vec::new(),
        }
    }

    /// All but the sample.
    fn merge(&mut self, other: &Column) {
        self.count += other.count;
        self.nulls += other.nulls;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.moments.merge(&other.moments);
        self.categories.merge(&other.categories);
        self.sketches.merge(&other.sketches);
        let both = self.bins.take().zip(other.bins.as_ref());
        // Of different references, there is no sum.
        self.bins = both.and_then(|(own, theirs)| own.plus(theirs));
    }
}

impl Moments {
    /// Of these numbers.
    pub fn of(values: &[f64]) -> Moments {
        if values.is_empty() {
            return Moments::default();
        }
        let count = values.len() as u64;
        let mean = values.iter().sum::<f64>() / count as f64;
        Moments {
            count,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mean,
            m2: values.iter().map(|value| (value - mean).powi(2)).sum(),
        }
    }

    pub fn merge(&mut self, other: &Moments) {
        if self.count == 0 || other.count == 0 {
            if self.count == 0 {
                *self = *other;
            }
            return;
        }
        let (own, theirs) = (self.count as f64, other.count as f64);
        let (all, apart) = (own + theirs, other.mean - self.mean);
        self.m2 += other.m2 + apart * apart * own * theirs / all;
        self.mean += apart * theirs / all;
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Of the numbers as they are: divided by their count.
    pub fn variance(&self) -> Option<f64> {
        (self.count > 0).then(|| self.m2 / self.count as f64)
    }
}

impl Categories {
    pub fn merge(&mut self, other: &Categories) {
        for (value, count) in &other.counts {
            *self.counts.entry(value.clone()).or_default() += count;
        }
        self.other += other.other;
        self.keep(CATEGORIES);
    }

    /// Keeps the most frequent; of equally frequent ones, those that come first by their text.
    pub fn keep(&mut self, most: usize) {
        if self.counts.len() <= most {
            return;
        }
        let mut all: Vec<(Arc<str>, u64)> = std::mem::take(&mut self.counts).into_iter().collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        self.other += all.drain(most..).map(|(_, count)| count).sum::<u64>();
        self.counts = all.into_iter().collect();
    }

    pub fn all(&self) -> u64 {
        self.other + self.counts.values().sum::<u64>()
    }
}

impl Bins {
    /// The bins of a reference: its tenths, where they differ.
    pub fn of(reference: &Column) -> Option<Bins> {
        let ranks: Vec<f64> = (1..10).map(|tenth| f64::from(tenth) / 10.0).collect();
        let mut edges = reference.sketches.quantiles(&ranks)?;
        edges.dedup();
        let counts = vec![0; edges.len() + 1];
        let range = (reference.moments.min, reference.moments.max);
        Some(Bins { edges, counts, range, under: 0, over: 0 })
    }

    /// A value that is there so many times.
    pub fn add(&mut self, value: f64, times: u64) {
        let at = self.edges.partition_point(|edge| *edge <= value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += times;
        }
        self.under += times * u64::from(value < self.range.0);
        self.over += times * u64::from(value > self.range.1);
    }

    fn plus(mut self, other: &Bins) -> Option<Bins> {
        if self.edges != other.edges || self.range != other.range {
            return None;
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, theirs)| *own += theirs);
        self.under += other.under;
        self.over += other.over;
        Some(self)
    }
}

impl Sketches {
    /// Puts numbers among those whose quantiles are asked for. What comes in order costs less.
    pub fn numbers(&mut self, values: &[f64]) {
        if self.quantiles.is_none() {
            self.quantiles = TDigestMut::new(TDIGEST_K).ok();
        }
        if let Some(quantiles) = &mut self.quantiles {
            values.iter().for_each(|value| quantiles.update(value.clamp(-LARGEST, LARGEST)));
        }
    }

    /// Puts a value among those of which the different ones are counted.
    pub fn value(&mut self, value: &impl std::hash::Hash) {
        if self.distinct.is_none() {
            self.distinct = HllSketch::new(HLL_LG_K, HllType::Hll8).ok();
        }
        if let Some(distinct) = &mut self.distinct {
            distinct.update(value);
        }
    }

    fn merge(&mut self, other: &Sketches) {
        match (&mut self.quantiles, &other.quantiles) {
            (Some(own), Some(theirs)) => own.merge(theirs),
            (None, Some(theirs)) => self.quantiles = Some(theirs.clone()),
            (_, None) => {}
        }
        match (&self.distinct, &other.distinct) {
            (Some(own), Some(theirs)) => {
                if let Ok(mut union) = HllUnion::new(HLL_LG_K) {
                    union.update(own);
                    union.update(theirs);
                    self.distinct = Some(union.to_sketch(HllType::Hll8));
                }
            }
            (None, Some(theirs)) => self.distinct = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    /// Roughly, the values below which these shares of all lie; `None` where there are no numbers.
    pub fn quantiles(&self, ranks: &[f64]) -> Option<Vec<f64>> {
        self.quantiles.clone()?.quantiles(ranks).ok()?
    }

    /// Roughly, how many different values there are.
    pub fn distinct(&self) -> f64 {
        self.distinct.as_ref().map_or(0.0, HllSketch::estimate)
    }
}

#[cfg(test)]
#[path = "profile/profile_tests.rs"]
mod tests;
