//! The `data` of a JSON input, read straight into the little-endian bytes of its tensor.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    check::{self, Shown},
    json_read::{Cursor, string_span, unescape},
    numbers,
};
use crate::types::{datatype::Datatype, error::Error};

/// An input whose data comes next.
pub struct Data<'a> {
    pub name: &'a str,
    pub datatype: Datatype,
    pub dims: &'a [i64],
    /// An element of BYTES may also be `{"b64": …}`.
    pub base64: bool,
}

/// What became of one element.
enum Put {
    /// Stored; the text goes on there.
    Next(usize),
    /// The tensor is full already.
    Full,
    /// Not a value of the datatype, or no value at all.
    Wrong,
}

/// Where elements go.
trait Sink {
    /// Reads the element at `at` and stores it.
    fn put(&mut self, bytes: &[u8], at: usize) -> Put;
    /// Elements stored, the one that was refused last among them.
    fn len(&self) -> usize;
}

/// The text of one element of `N` bytes.
trait Element<const N: usize> {
    /// Stores the element at `at` and says where it ends; `None` where there is none of this datatype.
    fn read(bytes: &[u8], at: usize, slot: &mut [u8; N]) -> Option<usize>;
}

struct Fixed<'a, const N: usize, E> {
    slots: std::slice::IterMut<'a, [u8; N]>,
    len: usize,
    element: std::marker::PhantomData<E>,
}

impl<const N: usize, E: Element<N>> Sink for Fixed<'_, N, E> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8], at: usize) -> Put {
        let Some(slot) = self.slots.next() else { return Put::Full };
        E::read(bytes, at, slot).map_or(Put::Wrong, Put::Next)
    }

    fn len(&self) -> usize {
        self.len - self.slots.len()
    }
}

/// BYTES: strings, framed one after the other.
struct Strings {
    out: Vec<u8>,
    len: usize,
    limit: usize,
    base64: bool,
}

impl Sink for Strings {
    fn put(&mut self, bytes: &[u8], at: usize) -> Put {
        if self.len == self.limit {
            return Put::Full;
        }
        // Counted whatever becomes of it, as `Fixed` does.
        self.len += 1;
        if self.base64 && bytes.get(at) == Some(&b'{') {
            return self.encoded(bytes, at);
        }
        if bytes.get(at) != Some(&b'"') {
            return Put::Wrong;
        }
        let Ok((inside, escaped)) = string_span(bytes, at) else { return Put::Wrong };
        let raw = bytes.get(inside.clone()).unwrap_or_default();
        if std::str::from_utf8(raw).is_err() {
            return Put::Wrong;
        }
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        if !escaped {
            self.out.extend_from_slice(raw);
        } else if unescape(raw, &mut self.out).is_err() {
            return Put::Wrong;
        }
        self.framed(start, inside.end + 1)
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Strings {
    /// Writes the length of the element that begins at `start`, behind which the text goes on at `end`.
    fn framed(&mut self, start: usize, end: usize) -> Put {
        let Ok(len) = u32::try_from(self.out.len() - start - 4) else { return Put::Wrong };
        if let Some(prefix) = self.out.get_mut(start..start + 4) {
            prefix.copy_from_slice(&len.to_le_bytes());
        }
        Put::Next(end)
    }

    /// `{"b64": "…"}`.
    fn encoded(&mut self, bytes: &[u8], at: usize) -> Put {
        let expect = |at: usize, byte: u8| {
            let at = blank(bytes, at);
            (bytes.get(at) == Some(&byte)).then_some(at + 1)
        };
        let text = |at: usize| {
            let at = expect(at, b'"')?;
            let (inside, escaped) = string_span(bytes, at - 1).ok()?;
            let end = inside.end + 1;
            // Neither the key nor base64 needs an escape, but for the slash that some writers escape.
            let raw = bytes.get(inside)?;
            let mut own = Vec::new();
            if escaped {
                unescape(raw, &mut own).ok()?;
            }
            Some((if escaped { own } else { raw.to_vec() }, end))
        };
        let value = || {
            let (key, at) = text(at + 1)?;
            let (value, at) = text(expect(at, b':')?)?;
            let end = expect(at, b'}')?;
            (key == b"b64").then_some((value, end))
        };
        let Some((value, end)) = value() else { return Put::Wrong };
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        if STANDARD.decode_vec(value, &mut self.out).is_err() {
            return Put::Wrong;
        }
        self.framed(start, end)
    }
}

/// The first place from `at` on that is no whitespace.
fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

impl Data<'_> {
    /// Reads the array, nested as the shape is or flat; a scalar's may also be a bare value.
    ///
    /// # Errors
    /// Malformed text, a value outside the datatype, a number of elements or a nesting that is not the shape's.
    pub fn read(&self, cursor: &mut Cursor<'_>) -> Result<Bytes, Error> {
        match self.datatype {
            Datatype::Bool => self.fixed::<1, Bool>(cursor),
            Datatype::Uint8 => self.fixed::<1, Uint8>(cursor),
            Datatype::Uint16 => self.fixed::<2, Uint16>(cursor),
            Datatype::Uint32 => self.fixed::<4, Uint32>(cursor),
            Datatype::Uint64 => self.fixed::<8, Uint64>(cursor),
            Datatype::Int8 => self.fixed::<1, Int8>(cursor),
            Datatype::Int16 => self.fixed::<2, Int16>(cursor),
            Datatype::Int32 => self.fixed::<4, Int32>(cursor),
            Datatype::Int64 => self.fixed::<8, Int64>(cursor),
            Datatype::Fp16 => self.fixed::<2, Fp16>(cursor),
            Datatype::Fp32 => self.fixed::<4, Fp32>(cursor),
            Datatype::Fp64 => self.fixed::<8, Fp64>(cursor),
            Datatype::Bf16 => self.fixed::<2, Bf16>(cursor),
            Datatype::Bytes => {
                let limit = check::elements(self.name, self.dims)?;
                // A guess that the text bounds; escapes and short strings may make it grow.
                let rest = cursor.bytes().len() - cursor.at();
                let out = Vec::with_capacity(limit.saturating_mul(16).min(rest));
                let mut sink = Strings { out, len: 0, limit, base64: self.base64 };
                self.value(cursor, &mut sink, limit)?;
                Ok(Bytes::from(sink.out))
            }
        }
    }

    fn fixed<const N: usize, E: Element<N>>(
        &self,
        cursor: &mut Cursor<'_>,
    ) -> Result<Bytes, Error> {
        let expected = check::elements(self.name, self.dims)?;
        // What the text cannot fill is not allocated: the count is refused when the text ends.
        let len = expected.min(most_elements(cursor));
        let mut out = vec![0u8; len * N];
        let slots = out.as_chunks_mut::<N>().0.iter_mut();
        let mut sink = Fixed::<N, E> { slots, len, element: std::marker::PhantomData };
        self.value(cursor, &mut sink, expected)?;
        Ok(Bytes::from(out))
    }

    fn value<S: Sink>(
        &self,
        cursor: &mut Cursor<'_>,
        sink: &mut S,
        expected: usize,
    ) -> Result<(), Error> {
        if cursor.take(b'[') {
            if cursor.peek() == Some(b'[') {
                self.nested(cursor, sink)?;
            } else {
                self.row(cursor, sink)?;
            }
        } else if self.dims.is_empty() {
            match sink.put(cursor.bytes(), cursor.at()) {
                Put::Next(at) => cursor.move_to(at),
                _ => return Err(self.wrong(cursor, 0)),
            }
        } else {
            let of = format_args!("input '{}', 'data'", Shown(self.name));
            return Err(cursor.wrong_kind(of, "an array"));
        }
        if sink.len() == expected {
            return Ok(());
        }
        Err(check::wrong_count(self.name, self.dims, expected, sink.len()))
    }

    /// The elements of one array, behind its bracket, and the bracket that closes it.
    #[inline(never)]
    fn row<S: Sink>(&self, cursor: &mut Cursor<'_>, sink: &mut S) -> Result<(), Error> {
        if cursor.take(b']') {
            return Ok(());
        }
        let bytes = cursor.bytes();
        let mut at = cursor.at();
        let mut gap = 1;
        loop {
            let before = at;
            match sink.put(bytes, at) {
                Put::Next(next) => at = next,
                refused => {
                    cursor.move_to(before);
                    let full = matches!(refused, Put::Full);
                    return Err(if full {
                        self.full(cursor, sink.len())
                    } else {
                        self.wrong(cursor, sink.len().saturating_sub(1))
                    });
                }
            }
            // What clients write, a comma and perhaps one space, without the general loop over whitespace. Where the next
            // element begins is a guess from the last gap, so that it waits for no look at this one.
            if bytes.get(at) == Some(&b',')
                && bytes.get(at + gap).is_some_and(|b| *b > b' ')
                && (gap == 1 || bytes[at + 1] == b' ')
            {
                at += gap;
                continue;
            }
            cursor.move_to(at);
            if cursor.take(b']') {
                return Ok(());
            }
            if !cursor.take(b',') {
                return Err(cursor.malformed("',' or ']'"));
            }
            cursor.peek();
            gap = (cursor.at() - at).clamp(1, 2);
            at = cursor.at();
        }
    }

    /// Nested arrays, behind the first bracket: as many levels as the shape has, each as long as it says. Walks with a
    /// counter for each open level, since the text decides how deep it goes.
    fn nested<S: Sink>(&self, cursor: &mut Cursor<'_>, sink: &mut S) -> Result<(), Error> {
        let Some(last) = self.dims.len().checked_sub(1) else { return Err(self.too_nested()) };
        let mut counts: SmallVec<[i64; 8]> = SmallVec::new();
        counts.push(0);
        loop {
            let level = counts.len() - 1;
            if level < last {
                // An array of arrays: either its first entry opens, or it is empty.
                if !cursor.take(b']') {
                    if !cursor.take(b'[') {
                        return Err(self.not_an_array(cursor, level));
                    }
                    counts.push(0);
                    continue;
                }
            } else {
                let before = sink.len();
                self.row(cursor, sink)?;
                counts[level] = (sink.len() - before) as i64;
            }
            // This array is closed; so may be those around it.
            loop {
                self.length(counts.len() - 1, counts.pop().unwrap_or_default())?;
                let Some(count) = counts.last_mut() else { return Ok(()) };
                *count += 1;
                if cursor.take(b',') {
                    if !cursor.take(b'[') {
                        return Err(self.not_an_array(cursor, counts.len() - 1));
                    }
                    counts.push(0);
                    break;
                }
                if !cursor.take(b']') {
                    return Err(cursor.malformed("',' or ']'"));
                }
            }
        }
    }

    /// Holds the length of an array at `level` against the shape.
    fn length(&self, level: usize, got: i64) -> Result<(), Error> {
        let expected = self.dims.get(level).copied().unwrap_or_default();
        if got == expected {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "input '{}': the nested data does not match the shape {:?}: an array at depth {} has {got} entries, expected \
             {expected}",
            Shown(self.name),
            self.dims,
            level + 1,
        )))
    }

    #[cold]
    fn not_an_array(&self, cursor: &mut Cursor<'_>, level: usize) -> Error {
        let of = format_args!(
            "input '{}': the nested data does not match the shape {:?} at depth {}",
            Shown(self.name),
            self.dims,
            level + 1
        );
        cursor.wrong_kind(of, "an array")
    }

    #[cold]
    fn too_nested(&self) -> Error {
        Error::invalid(format!(
            "input '{}': the data is nested deeper than the shape {:?}",
            Shown(self.name),
            self.dims
        ))
    }

    /// The error for more elements than the shape has room for, at the first of them.
    #[cold]
    fn full(&self, cursor: &mut Cursor<'_>, stored: usize) -> Error {
        let mut got = stored;
        loop {
            if let Err(error) = cursor.skip() {
                return error;
            }
            got += 1;
            if !cursor.take(b',') {
                return check::wrong_count(self.name, self.dims, stored, got);
            }
        }
    }

    /// The error for the element at the cursor.
    #[cold]
    fn wrong(&self, cursor: &mut Cursor<'_>, index: usize) -> Error {
        if cursor.peek() == Some(b'[') {
            return self.too_nested();
        }
        let start = cursor.at();
        let end = match special(cursor.bytes(), start) {
            Some((_, end)) => end,
            None => match cursor.skip() {
                Ok(()) => cursor.at(),
                Err(error) => return error,
            },
        };
        let text = cursor.bytes().get(start..end).unwrap_or_default();
        let expected = match self.datatype {
            Datatype::Bool => "true or false",
            Datatype::Bytes if self.base64 => "a string or {\"b64\": …}",
            Datatype::Bytes => "a string",
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
                "a number in its range, or \"NaN\", \"Infinity\" or \"-Infinity\""
            }
            _ => "an integer in its range",
        };
        Error::invalid(format!(
            "input '{}': element {index} is {}, expected {expected} for {}",
            Shown(self.name),
            Shown(&String::from_utf8_lossy(text)),
            self.datatype
        ))
    }
}

/// More elements than the rest of the text can hold: each takes a character and a separator.
fn most_elements(cursor: &Cursor<'_>) -> usize {
    (cursor.bytes().len() - cursor.at()) / 2 + 1
}

/// The floats that are no numbers, as strings (the Protocol Buffers JSON mapping) and bare, as Python writes them.
fn special(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let rest = bytes.get(at..)?;
    let quoted = rest.first() == Some(&b'"');
    let token = rest.get(usize::from(quoted)..)?;
    let (value, len) =
        [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)]
            .into_iter()
            .find_map(|(name, value)| {
                token.starts_with(name.as_bytes()).then_some((value, name.len()))
            })?;
    if !quoted {
        return Some((value, at + len));
    }
    (token.get(len) == Some(&b'"')).then_some((value, at + len + 2))
}

struct Bool;

impl Element<1> for Bool {
    #[inline(always)]
    fn read(bytes: &[u8], at: usize, slot: &mut [u8; 1]) -> Option<usize> {
        let rest = bytes.get(at..)?;
        if rest.starts_with(b"true") {
            *slot = [1];
            return Some(at + 4);
        }
        if rest.starts_with(b"false") {
            return Some(at + 5);
        }
        let (negative, magnitude, end) = numbers::integer(bytes, at)?;
        if negative || magnitude > 1 {
            return None;
        }
        *slot = [magnitude as u8];
        Some(end)
    }
}

/// An integer datatype: its name, its type, and how sign and magnitude make the widest of its kind.
macro_rules! integer {
    ($name:ident, $t:ty, $size:literal, $wide:path) => {
        struct $name;

        impl Element<$size> for $name {
            #[inline(always)]
            fn read(bytes: &[u8], at: usize, slot: &mut [u8; $size]) -> Option<usize> {
                let (negative, magnitude, end) = numbers::integer(bytes, at)?;
                *slot = <$t>::try_from($wide(negative, magnitude)?).ok()?.to_le_bytes();
                Some(end)
            }
        }
    };
}

integer!(Uint8, u8, 1, numbers::unsigned);
integer!(Uint16, u16, 2, numbers::unsigned);
integer!(Uint32, u32, 4, numbers::unsigned);
integer!(Uint64, u64, 8, numbers::unsigned);
integer!(Int8, i8, 1, numbers::signed);
integer!(Int16, i16, 2, numbers::signed);
integer!(Int32, i32, 4, numbers::signed);
integer!(Int64, i64, 8, numbers::signed);

/// A float datatype: its name, its size, from a scanned number, and from an f64 that is no number.
macro_rules! float {
    ($name:ident, $size:literal, $finite:expr, $special:expr) => {
        struct $name;

        impl Element<$size> for $name {
            #[inline(always)]
            fn read(bytes: &[u8], at: usize, slot: &mut [u8; $size]) -> Option<usize> {
                let Some(number) = numbers::scan(bytes, at) else {
                    let (value, end) = special(bytes, at)?;
                    *slot = $special(value).to_le_bytes();
                    return Some(end);
                };
                *slot = $finite(&number, bytes, at)?.to_le_bytes();
                Some(number.end)
            }
        }
    };
}

float!(Fp32, 4, numbers::to_f32, |value| value as f32);
float!(Fp64, 8, numbers::to_f64, |value: f64| value);
float!(Fp16, 2, numbers::to_f16, numbers::f16_of);
float!(Bf16, 2, numbers::to_bf16, numbers::bf16_of);
