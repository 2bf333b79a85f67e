//! The parts of tensors that belong to rows, and their elements as values.

use std::borrow::Cow;

use half::{bf16, f16};

use super::{columns::Labelled, record::Record, subject::Subject};
use crate::types::{datatype::Datatype, tensor::bytes_elements};

/// One tensor of a record, cut into rows.
pub struct Part<'a> {
    datatype: Datatype,
    /// Of one row.
    dims: &'a [i64],
    bytes: &'a [u8],
    /// Of a BYTES tensor.
    texts: Vec<&'a [u8]>,
    /// Elements of a row.
    per: usize,
}

/// What belongs to one row.
#[derive(Clone, Copy)]
pub struct Row<'a, 'p> {
    part: &'p Part<'a>,
    first: usize,
}

impl<'a> Part<'a> {
    /// `None` where the tensor is not there, or does not divide into the record's rows.
    pub fn of(record: &'a Record, tensor: usize, table: bool) -> Option<Part<'a>> {
        let held = record.tensors.get(tensor)?.as_ref()?;
        let bytes = record.bytes(held);
        let (texts, count) = match held.datatype.size() {
            Some(size) => (Vec::new(), bytes.len() / size),
            None => {
                let texts: Vec<&[u8]> = bytes_elements(bytes).flatten().collect();
                let count = texts.len();
                (texts, count)
            }
        };
        let (rows, dims) = match (table, held.dims.as_slice()) {
            (true, [rows, rest @ ..]) => (usize::try_from(*rows).ok()?, rest),
            (_, dims) => (1, dims),
        };
        if rows != record.rows || rows == 0 || !count.is_multiple_of(rows) {
            return None;
        }
        Some(Part { datatype: held.datatype, dims, bytes, texts, per: count / rows })
    }

    pub fn row(&self, row: usize) -> Row<'a, '_> {
        Row { part: self, first: row * self.per }
    }
}

impl<'a> Row<'a, '_> {
    pub fn count(&self) -> usize {
        self.part.per
    }

    pub fn dims(&self) -> &'a [i64] {
        self.part.dims
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        match self.part.datatype.size() {
            Some(size) => self.part.per * size,
            None => self.texts().iter().map(|text| text.len()).sum(),
        }
    }

    fn texts(&self) -> &[&'a [u8]] {
        self.part.texts.get(self.first..self.first + self.part.per).unwrap_or_default()
    }

    /// Its bytes, as the protocol has them: of texts, each behind its length.
    pub fn raw(&self) -> Cow<'a, [u8]> {
        match self.part.datatype.size() {
            Some(size) => {
                let (from, to) = (self.first * size, (self.first + self.part.per) * size);
                Cow::Borrowed(self.part.bytes.get(from..to).unwrap_or_default())
            }
            None => {
                let mut bytes = Vec::new();
                for text in self.texts() {
                    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(text);
                }
                Cow::Owned(bytes)
            }
        }
    }

    fn fixed<const N: usize>(&self, at: usize) -> [u8; N] {
        let from = (self.first + at) * N;
        let bytes = self.part.bytes.get(from..from + N);
        bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    /// An element of floats of up to 32 bits.
    pub fn float(&self, at: usize) -> f32 {
        match self.part.datatype {
            Datatype::Fp32 => f32::from_le_bytes(self.fixed(at)),
            Datatype::Fp16 => f16::from_le_bytes(self.fixed(at)).to_f32(),
            Datatype::Bf16 => bf16::from_le_bytes(self.fixed(at)).to_f32(),
            _ => f32::NAN,
        }
    }

    /// An element of any floats.
    pub fn double(&self, at: usize) -> f64 {
        match self.part.datatype {
            Datatype::Fp64 => f64::from_le_bytes(self.fixed(at)),
            _ => f64::from(self.float(at)),
        }
    }

    /// An element of whole numbers, but those of 64 bits without a sign.
    pub fn whole(&self, at: usize) -> i64 {
        match self.part.datatype {
            Datatype::Int8 => i64::from(i8::from_le_bytes(self.fixed(at))),
            Datatype::Uint8 | Datatype::Bool => i64::from(u8::from_le_bytes(self.fixed(at))),
            Datatype::Int16 => i64::from(i16::from_le_bytes(self.fixed(at))),
            Datatype::Uint16 => i64::from(u16::from_le_bytes(self.fixed(at))),
            Datatype::Int32 => i64::from(i32::from_le_bytes(self.fixed(at))),
            Datatype::Uint32 => i64::from(u32::from_le_bytes(self.fixed(at))),
            _ => i64::from_le_bytes(self.fixed(at)),
        }
    }

    /// Any element, as text: numbers as they are written, text as UTF-8 where it is, else with replacement characters.
    pub fn text(&self, at: usize) -> String {
        match self.part.datatype {
            Datatype::Bytes => {
                let text = self.texts().get(at).copied().unwrap_or_default();
                String::from_utf8_lossy(text).into_owned()
            }
            Datatype::Uint64 => u64::from_le_bytes(self.fixed(at)).to_string(),
            Datatype::Bool => (self.whole(at) != 0).to_string(),
            Datatype::Fp32 | Datatype::Fp16 | Datatype::Bf16 => self.float(at).to_string(),
            Datatype::Fp64 => self.double(at).to_string(),
            _ => self.whole(at).to_string(),
        }
    }

    /// The largest of its floats and its place; `None` where there is none but NaN.
    fn best(&self) -> Option<(usize, f64)> {
        let all = (0..self.count()).map(|at| (at, self.double(at)));
        // Of equal ones the first, as argmax has it.
        all.filter(|(_, score)| !score.is_nan()).reduce(|a, b| if b.1 > a.1 { b } else { a })
    }
}

/// What was predicted for rows of a record, in the columns `pred_label` and `pred_score`.
pub struct Predicted<'a> {
    label: Option<Part<'a>>,
    names: Option<&'a [String]>,
    score: Option<Part<'a>>,
}

impl<'a> Predicted<'a> {
    pub fn of(record: &'a Record, subject: &'a Subject) -> Predicted<'a> {
        let (columns, inputs) = (&subject.columns, subject.signature.inputs.len());
        let part = |output: usize| Part::of(record, inputs + output, columns.table);
        let (label, names) = match &columns.label {
            None => (None, None),
            Some(Labelled::By(output)) => (part(*output), None),
            Some(Labelled::Best(output, names)) => (part(*output), Some(&names[..])),
        };
        Predicted { label, names, score: columns.score.and_then(part) }
    }

    pub fn label(&self, row: usize) -> Option<String> {
        let part = self.label.as_ref()?.row(row);
        match self.names {
            None => (part.count() > 0).then(|| part.text(0)),
            Some(names) => part.best().and_then(|(at, _)| names.get(at).cloned()),
        }
    }

    pub fn score(&self, row: usize) -> Option<f64> {
        let part = self.score.as_ref()?.row(row);
        match part.count() {
            1 => Some(part.double(0)),
            _ => part.best().map(|(_, score)| score),
        }
    }
}
