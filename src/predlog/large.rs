//! The rows' parts of tensors that are too large for a cell, and what stands for them there: a digest, and where their bytes are kept,
//! a reference. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    blobs, cells::Part, columns::Source, digest, encode::Anchor, layout::Partition, record::Record,
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

/// All of some records, by tensor, which counts the inputs first, and row.
#[derive(Default)]
pub struct Larges<'a>(BTreeMap<(usize, usize), Large<'a>>);

impl<'a> Larges<'a> {
    /// Of records of one version; `anchor` tells in which hour their rows are.
    pub fn of(records: &'a [Record], anchor: Anchor) -> Larges<'a> {
        let Some(first) = records.first() else { return Larges::default() };
        // Whether their bytes are kept.
        let mut tensors: BTreeMap<usize, bool> = BTreeMap::new();
        for column in &first.subject.columns.columns {
            match column.source {
                Source::Digest { tensor } => drop(tensors.entry(tensor).or_default()),
                Source::Reference { tensor } => drop(tensors.insert(tensor, true)),
                _ => {}
            }
        }
        let mut larges = Larges::default();
        for (tensor, kept) in tensors {
            let mut before = 0;
            for record in records {
                larges.add(record, (tensor, kept), before, anchor);
                before += record.rows;
            }
        }
        larges
    }

    /// What a record's rows have that is too large, behind so many of others.
    fn add(
        &mut self,
        record: &'a Record,
        (tensor, kept): (usize, bool),
        before: usize,
        anchor: Anchor,
    ) {
        let subject = &record.subject;
        let Some(part) = Part::of(record, tensor, subject.columns.table) else { return };
        let wall_us = anchor.wall_us(record.received);
        for at in 0..record.rows {
            let row = part.row(at);
            if row.bytes() <= subject.options.max_inline_bytes {
                continue;
            }
            let bytes = row.raw();
            let digest = digest::bytes(&bytes);
            let hour = || Partition::of(&subject.model, &subject.version, wall_us);
            let hour = kept.then(hour).flatten();
            let reference = hour.map(|hour| blobs::reference(&hour, &digest));
            self.0.insert((tensor, before + at), Large { digest, reference, bytes });
        }
    }

    pub fn at(&self, tensor: usize, row: usize) -> Option<&Large<'a>> {
        self.0.get(&(tensor, row))
    }

    /// Those whose bytes are kept.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.values().filter_map(|large| Some((large.reference.as_deref()?, &*large.bytes)))
    }
}
