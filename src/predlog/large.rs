//! The rows' parts of tensors that are too large for a cell, and what stands for them there: a digest, and where their bytes are kept,
//! a reference. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    blobs,
    cells::{Part, Row},
    columns::Source,
    encode::Anchor,
    layout::Partition,
    record::Record,
};

/// A row's part of a tensor.
pub struct Large<'a> {
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// Where these lie, as `blobs::reference` has it; `None` where they are not kept.
    pub reference: Option<String>,
    /// As the protocol has them: little-endian elements, texts each behind its length.
    pub bytes: Cow<'a, [u8]>,
}

/// All of some records, by tensor, which counts the inputs first, and by row.
#[derive(Default)]
pub struct Larges<'a>(BTreeMap<usize, Vec<Option<Large<'a>>>>);

impl<'a> Larges<'a> {
    /// Of records of one version; `anchor` tells in which hour their rows are.
    pub fn of(records: &'a [Record], anchor: Anchor) -> Larges<'a> {
        let Some(first) = records.first() else { return Larges::default() };
        let mut tensors: BTreeMap<usize, bool> = BTreeMap::new();
        for column in &first.subject.columns.columns {
            match column.source {
                Source::Digest { tensor } => drop(tensors.entry(tensor).or_default()),
                Source::Reference { tensor } => drop(tensors.insert(tensor, true)),
                _ => {}
            }
        }
        let of = |(tensor, kept)| {
            let rows = records.iter().flat_map(|record| rows(record, (tensor, kept), anchor));
            (tensor, rows.collect())
        };
        Larges(tensors.into_iter().map(of).collect())
    }

    pub fn at(&self, tensor: usize, row: usize) -> Option<&Large<'a>> {
        self.0.get(&tensor)?.get(row)?.as_ref()
    }

    /// Those whose bytes are kept.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.0.values().flatten().flatten();
        all.filter_map(|large| Some((large.reference.as_deref()?, &*large.bytes)))
    }
}

/// What each row of a record has that is too large.
fn rows<'a>(
    record: &'a Record,
    (tensor, kept): (usize, bool),
    anchor: Anchor,
) -> Vec<Option<Large<'a>>> {
    let subject = &record.subject;
    let most = subject.options.max_inline_bytes;
    let part = Part::of(record, tensor, subject.columns.table);
    let hour = || Partition::of(&subject.model, &subject.version, anchor.wall_us(record.received));
    let hour = kept.then(hour).flatten();
    let large = |row: Row<'a, '_>| {
        let bytes = row.raw();
        let digest = super::digest::bytes(&bytes);
        let reference = hour.as_ref().map(|hour| blobs::reference(hour, &digest));
        Large { digest, reference, bytes }
    };
    let one = |row| part.as_ref().map(|part| part.row(row)).filter(|row| row.bytes() > most);
    (0..record.rows).map(|row| one(row).map(large)).collect()
}
