//! Typed contents of a gRPC input (`InferTensorContents`), converted to the bytes of a raw tensor.

use std::ops::Range;

use bytes::Bytes;

use super::{
    check::{self, Shown},
    protobuf::{Reader, Wire, malformed, wrong_wire},
};
use crate::types::{datatype::Datatype, error::Error};

/// The names of the fields of `InferTensorContents`, by number.
const FIELDS: [&str; 9] = [
    "",
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
];

const BYTES_FIELD: u32 = 8;

/// The field that carries a datatype; `None` for those that travel raw only.
const fn field_of(datatype: Datatype) -> Option<u32> {
    match datatype {
        Datatype::Bool => Some(1),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some(2),
        Datatype::Int64 => Some(3),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some(4),
        Datatype::Uint64 => Some(5),
        Datatype::Fp32 => Some(6),
        Datatype::Fp64 => Some(7),
        Datatype::Bytes => Some(BYTES_FIELD),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// An input whose typed contents are wanted.
pub struct Contents<'a> {
    pub message: &'a Bytes,
    /// Where the `InferInputTensor` lies in the message.
    pub input: Range<usize>,
    pub name: &'a str,
    pub datatype: Datatype,
    pub dims: &'a [i64],
}

/// What the first walk finds.
#[derive(Default)]
struct Tally {
    elements: usize,
    /// BYTES: what the framed tensor takes.
    framed: usize,
    runs: usize,
    last: Range<usize>,
}

impl Contents<'_> {
    /// The tensor's bytes, or `None` where there is not one element. Fixed-width fields in one packed run (what every
    /// client writes) are not copied.
    ///
    /// Walks twice: the first counts, so that what is allocated has been seen to be there and to fit the shape.
    pub fn read(&self) -> Result<Option<Bytes>, Error> {
        let tally = self.tally()?;
        if tally.elements == 0 {
            return Ok(None);
        }
        let expected = check::elements(self.name, self.dims)?;
        if tally.elements != expected {
            return Err(check::wrong_count(self.name, self.dims, expected, tally.elements));
        }
        if tally.runs == 1 && matches!(self.datatype, Datatype::Fp32 | Datatype::Fp64) {
            return Ok(Some(self.message.slice(tally.last)));
        }
        let len = self.datatype.size().map_or(tally.framed, |size| size * expected);
        let mut out = Vec::with_capacity(len);
        self.walk(|field, run| self.convert(field, run, &mut out))?;
        Ok(Some(Bytes::from(out)))
    }

    fn tally(&self) -> Result<Tally, Error> {
        let wanted = field_of(self.datatype);
        let mut tally = Tally::default();
        self.walk(|field, run| {
            if field != BYTES_FIELD && run.is_empty() {
                return Ok(());
            }
            if wanted != Some(field) {
                return Err(self.wrong_field(wanted, field));
            }
            let bytes = self.message.get(run.clone()).unwrap_or_default();
            match field {
                6 | 7 => {
                    let size = if field == 6 { 4 } else { 8 };
                    if bytes.len() % size != 0 {
                        return Err(malformed(run.end, "a packed field is cut short"));
                    }
                    tally.elements += bytes.len() / size;
                }
                BYTES_FIELD => {
                    if u32::try_from(bytes.len()).is_err() {
                        return Err(malformed(run.start, "an element is longer than 4 GiB"));
                    }
                    tally.elements += 1;
                    tally.framed += 4 + bytes.len();
                }
                _ => {
                    // A varint ends at the byte without the high bit.
                    if bytes.last().is_some_and(|b| *b >= 0x80) {
                        return Err(malformed(run.end, "a varint is cut short"));
                    }
                    tally.elements += bytes.iter().filter(|b| **b < 0x80).count();
                }
            }
            tally.runs += 1;
            tally.last = run;
            Ok(())
        })?;
        Ok(tally)
    }

    /// Calls `each` with the field's number and bytes of every run of elements: a packed field, or a single element
    /// written on its own, which has the same bytes as a packed run of one. Contents in several pieces merge.
    fn walk(
        &self,
        mut each: impl FnMut(u32, Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut input = Reader::part(self.message, self.input.clone());
        while let Some((field, wire)) = input.field()? {
            if (field, wire) != (5, Wire::Len) {
                input.skip(wire)?;
                continue;
            }
            let mut contents = Reader::part(self.message, input.range()?);
            while let Some((field, wire)) = contents.field()? {
                let run = match (field, wire) {
                    (1..=8, Wire::Len) => contents.range()?,
                    (1..=5, Wire::Varint) => {
                        let from = contents.at();
                        contents.varint()?;
                        from..contents.at()
                    }
                    (6, Wire::Fixed32) => contents.fixed(4)?,
                    (7, Wire::Fixed64) => contents.fixed(8)?,
                    (1..=8, _) => {
                        return Err(wrong_wire(contents.at(), "InferTensorContents", field, wire));
                    }
                    _ => {
                        contents.skip(wire)?;
                        continue;
                    }
                };
                each(field, run)?;
            }
        }
        Ok(())
    }

    fn convert(&self, field: u32, run: Range<usize>, out: &mut Vec<u8>) -> Result<(), Error> {
        /// Appends a varint as `$t`, read as `$wide`, unless it is out of range.
        macro_rules! narrow {
            ($t:ty, $wide:ty) => {
                self.varints(run, out, |value, out| match <$t>::try_from(value as $wide) {
                    Ok(n) => {
                        out.extend_from_slice(&n.to_le_bytes());
                        true
                    }
                    Err(_) => false,
                })
            };
        }
        // The first walk let nothing else through; an empty run of another field may still come by.
        if run.is_empty() && field != BYTES_FIELD {
            return Ok(());
        }
        let bytes = self.message.get(run.clone()).unwrap_or_default();
        match self.datatype {
            Datatype::Bool => self.varints(run, out, |value, out| {
                out.push(u8::from(value != 0));
                true
            }),
            Datatype::Int8 => narrow!(i8, i64),
            Datatype::Int16 => narrow!(i16, i64),
            Datatype::Int32 => narrow!(i32, i64),
            Datatype::Int64 => narrow!(i64, i64),
            Datatype::Uint8 => narrow!(u8, u64),
            Datatype::Uint16 => narrow!(u16, u64),
            Datatype::Uint32 => narrow!(u32, u64),
            Datatype::Uint64 => narrow!(u64, u64),
            Datatype::Bytes => {
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
                Ok(())
            }
            Datatype::Fp32 | Datatype::Fp64 | Datatype::Fp16 | Datatype::Bf16 => {
                out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn varints(
        &self,
        run: Range<usize>,
        out: &mut Vec<u8>,
        put: impl Fn(u64, &mut Vec<u8>) -> bool,
    ) -> Result<(), Error> {
        let mut reader = Reader::part(self.message, run);
        while !reader.done() {
            let value = reader.varint()?;
            if !put(value, out) {
                return Err(self.out_of_range(value, out.len()));
            }
        }
        Ok(())
    }

    #[cold]
    fn out_of_range(&self, value: u64, written: usize) -> Error {
        let index = written / self.datatype.size().unwrap_or(1);
        let signed = field_of(self.datatype) == Some(2);
        let value = if signed { (value as i64).to_string() } else { value.to_string() };
        Error::invalid(format!(
            "input '{}': element {index} is {value}, which is not in the range of {}",
            Shown(self.name),
            self.datatype
        ))
    }

    #[cold]
    fn wrong_field(&self, wanted: Option<u32>, got: u32) -> Error {
        let (name, datatype) = (Shown(self.name), self.datatype);
        let got = FIELDS[got as usize % FIELDS.len()];
        Error::invalid(match wanted {
            Some(field) => format!(
                "input '{name}': datatype {datatype} is carried by {}, got {got}",
                FIELDS[field as usize]
            ),
            None => format!(
                "input '{name}': datatype {datatype} is carried by raw_input_contents only, got {got}"
            ),
        })
    }
}
