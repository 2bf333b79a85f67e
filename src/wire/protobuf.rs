//! Protocol Buffers' wire format, read without a schema: tags, varints, lengths.

use std::ops::Range;

use crate::types::error::Error;

/// How a field is written. Groups do not exist in proto3 and are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Varint,
    Fixed64,
    Len,
    Fixed32,
}

/// Reads one message, or a part of one. Ranges are offsets in the whole, so that the caller can slice its `Bytes`.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// The part of `whole` at `range`, which another reader gave; empty where it lies outside.
    pub fn part(whole: &'a [u8], range: Range<usize>) -> Reader<'a> {
        let bytes = whole.get(..range.end).unwrap_or_default();
        Reader { bytes, at: range.start.min(bytes.len()) }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next field's number and wire type; `None` at the end.
    #[inline]
    pub fn field(&mut self) -> Result<Option<(u32, Wire)>, Error> {
        if self.done() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Len,
            5 => Wire::Fixed32,
            3 | 4 => return Err(malformed(start, "groups are not supported")),
            _ => return Err(malformed(start, "no such wire type")),
        };
        match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => Ok(Some((tag >> 3, wire))),
            _ => Err(malformed(start, "no such field number")),
        }
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, Error> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Error> {
        let start = self.at;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(malformed(start, "a varint is cut short"));
            };
            self.at += 1;
            // The tenth byte holds the 64th bit and nothing else.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed(start, "a varint does not fit 64 bits"))
    }

    /// The bytes of a length-delimited field.
    #[inline]
    pub fn range(&mut self) -> Result<Range<usize>, Error> {
        let start = self.at;
        let len = self.varint()?;
        match usize::try_from(len) {
            Ok(len) if len <= self.bytes.len() - self.at => {
                let from = self.at;
                self.at += len;
                Ok(from..self.at)
            }
            _ => Err(malformed(start, "a length reaches past the end")),
        }
    }

    /// The bytes of a fixed field of `len` bytes.
    pub fn fixed(&mut self, len: usize) -> Result<Range<usize>, Error> {
        let from = self.at;
        if self.bytes.len() - from < len {
            return Err(malformed(from, "a fixed field is cut short"));
        }
        self.at += len;
        Ok(from..self.at)
    }

    /// Steps over the value of a field that nobody knows.
    pub fn skip(&mut self, wire: Wire) -> Result<(), Error> {
        match wire {
            Wire::Varint => self.varint().map(|_| ()),
            Wire::Fixed64 => self.fixed(8).map(|_| ()),
            Wire::Len => self.range().map(|_| ()),
            Wire::Fixed32 => self.fixed(4).map(|_| ()),
        }
    }
}

/// The error for bytes that are no message.
#[cold]
pub fn malformed(at: usize, why: &str) -> Error {
    Error::invalid(format!("malformed protobuf message at byte {at}: {why}"))
}

/// The error for a field that we know, written as another type.
#[cold]
pub fn wrong_wire(at: usize, message: &str, field: u32, wire: Wire) -> Error {
    Error::invalid(format!(
        "malformed protobuf message before byte {at}: field {field} of {message} is written as {wire:?}"
    ))
}

/// Bytes that a varint takes.
pub const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}
