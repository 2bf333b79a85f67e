//! A pull parser over JSON text: strict, without recursion of its own, borrowing what needs no unescaping.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;

use super::{check::Shown, numbers};
use crate::types::{error::Error, text::Text};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: u32 = 100;

/// A place in the text of a body.
pub struct Cursor<'a> {
    body: &'a Bytes,
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Cursor<'a> {
    pub fn new(body: &'a Bytes) -> Cursor<'a> {
        Cursor { body, bytes: body, at: 0, depth: 0 }
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes on at `at`: where a caller has read by itself, or wants to read again.
    pub fn move_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Skips whitespace and looks at the next byte.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Takes the next byte if it is this one, after whitespace.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The error for text that is no JSON, at the current place.
    #[cold]
    pub fn malformed(&self, expected: &str) -> Error {
        let at = self.at;
        let got = match self.bytes.get(at..).unwrap_or_default() {
            [] => "the end of the body".to_owned(),
            [byte @ 0x21..=0x7e, ..] => format!("'{}'", *byte as char),
            [byte, ..] => format!("the byte 0x{byte:02x}"),
        };
        Error::invalid(format!("malformed JSON at byte {at}: expected {expected}, got {got}"))
    }

    /// The error for a value of another kind than `what` takes; or for what is no value at all.
    #[cold]
    pub fn wrong_kind(&mut self, what: fmt::Arguments<'_>, expected: &str) -> Error {
        let got = match self.peek() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b'-' | b'0'..=b'9') => "a number",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => return self.malformed("a value"),
        };
        Error::invalid(format!("{what}: expected {expected}, got {got} at byte {}", self.at))
    }

    /// Takes this literal if it comes next.
    #[inline]
    pub fn literal(&mut self, literal: &str) -> bool {
        self.peek();
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.starts_with(literal.as_bytes());
        if found {
            self.at += literal.len();
        }
        found
    }

    /// The end of the text: nothing but whitespace may follow.
    pub fn finish(&mut self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.malformed("the end of the body")),
        }
    }

    /// Reads an object: `each` is called at every value, which it must read.
    pub fn object(
        &mut self,
        what: fmt::Arguments<'_>,
        mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.take(b'{') {
            return Err(self.wrong_kind(what, "an object"));
        }
        self.enter()?;
        if !self.take(b'}') {
            loop {
                let key = self.key()?;
                each(self, key)?;
                if !self.take(b',') {
                    break;
                }
            }
            if !self.take(b'}') {
                return Err(self.malformed("',' or '}'"));
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads an array: `each` is called at every value, which it must read.
    pub fn array(
        &mut self,
        what: fmt::Arguments<'_>,
        mut each: impl FnMut(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.take(b'[') {
            return Err(self.wrong_kind(what, "an array"));
        }
        self.enter()?;
        if !self.take(b']') {
            loop {
                each(self)?;
                if !self.take(b',') {
                    break;
                }
            }
            if !self.take(b']') {
                return Err(self.malformed("',' or ']'"));
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn enter(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.too_deep()) } else { Ok(()) }
    }

    #[cold]
    fn too_deep(&self) -> Error {
        Error::invalid(format!("the JSON is nested deeper than {MAX_DEPTH} at byte {}", self.at))
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<Cow<'a, str>, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.malformed("a key"));
        }
        let key = self.string()?;
        if self.take(b':') { Ok(key) } else { Err(self.malformed("':'")) }
    }

    /// A string as a `Text` that shares the body's bytes, unless it has escapes.
    pub fn text(&mut self, what: fmt::Arguments<'_>) -> Result<Text, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong_kind(what, "a string"));
        }
        let string = self.string()?;
        Ok(self.share(string))
    }

    /// A string that this cursor read, as a `Text`.
    pub fn share(&self, string: Cow<'a, str>) -> Text {
        match string {
            // A borrowed one is a part of the body.
            Cow::Borrowed(part) => Text::from_utf8(self.body.slice_ref(part.as_bytes()))
                .unwrap_or_else(|| Text::from(part)),
            Cow::Owned(own) => Text::from(own),
        }
    }

    /// The string at the current place, whose opening quote comes next.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        let (inside, escaped) = match string_span(self.bytes, self.at) {
            Ok(span) => span,
            Err((at, expected)) => {
                self.at = at;
                return Err(self.malformed(expected));
            }
        };
        let raw = self.bytes.get(inside.clone()).unwrap_or_default();
        let Ok(text) = std::str::from_utf8(raw) else {
            return Err(Error::invalid(format!(
                "malformed JSON: the string at byte {} is not UTF-8",
                self.at
            )));
        };
        let text = if escaped {
            let mut own = Vec::with_capacity(raw.len());
            if let Err(at) = unescape(raw, &mut own) {
                self.at = inside.start + at;
                return Err(self.malformed("a valid escape"));
            }
            // Escapes are ASCII and write UTF-8, so what comes out is UTF-8 as what went in.
            Cow::Owned(String::from_utf8(own).unwrap_or_default())
        } else {
            Cow::Borrowed(text)
        };
        self.at = inside.end + 1;
        Ok(text)
    }

    /// Steps over a value of any kind, checked as JSON.
    pub fn skip(&mut self) -> Result<(), Error> {
        // One bit for each array (0) or object (1) that is open; the outermost are in `depth` alone.
        let mut open: u128 = 0;
        let outside = self.depth;
        loop {
            match self.peek() {
                Some(kind @ (b'{' | b'[')) => {
                    self.at += 1;
                    self.enter()?;
                    open = open << 1 | u128::from(kind == b'{');
                    if !self.take(closing(open)) {
                        if kind == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                    open >>= 1;
                    self.depth -= 1;
                }
                _ => self.skip_scalar()?,
            }
            // After a value: close what ends here, go on where there is more.
            loop {
                if self.depth == outside {
                    return Ok(());
                }
                if self.take(b',') {
                    if open & 1 == 1 {
                        self.key()?;
                    }
                    break;
                }
                if !self.take(closing(open)) {
                    let expected = if open & 1 == 1 { "',' or '}'" } else { "',' or ']'" };
                    return Err(self.malformed(expected));
                }
                open >>= 1;
                self.depth -= 1;
            }
        }
    }

    fn skip_scalar(&mut self) -> Result<(), Error> {
        let known = match self.peek() {
            Some(b'"') => return self.string().map(|_| ()),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => match numbers::scan(self.bytes, self.at) {
                Some(number) => {
                    self.at = number.end;
                    true
                }
                None => false,
            },
        };
        if known { Ok(()) } else { Err(self.malformed("a value")) }
    }

    /// Finds the end of a value by its brackets and strings alone and steps over it; whoever reads the value later
    /// checks the rest.
    pub fn span(&mut self) -> Result<Range<usize>, Error> {
        if self.peek().is_none() {
            return Err(self.malformed("a value"));
        }
        let start = self.at;
        let mut depth = self.depth;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => match string_span(self.bytes, self.at) {
                    Ok((inside, _)) => self.at = inside.end,
                    Err((at, expected)) => {
                        self.at = at;
                        return Err(self.malformed(expected));
                    }
                },
                b'[' | b'{' if depth == MAX_DEPTH => return Err(self.too_deep()),
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth == self.depth => break,
                b']' | b'}' => depth -= 1,
                b',' if depth == self.depth => break,
                _ => {}
            }
            self.at += 1;
        }
        Ok(start..self.at)
    }
}

fn closing(open: u128) -> u8 {
    if open & 1 == 1 { b'}' } else { b']' }
}

/// What lies between the quotes of the string that opens at `start`, and whether it has escapes. Does not look into
/// them, nor at UTF-8. The error is a place and what was expected there.
#[inline]
pub fn string_span(
    bytes: &[u8],
    start: usize,
) -> Result<(Range<usize>, bool), (usize, &'static str)> {
    let begin = start + 1;
    let mut at = begin;
    let mut escaped = false;
    loop {
        at = plain_run(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok((begin..at, escaped)),
            Some(b'\\') => {
                escaped = true;
                at += 2;
            }
            Some(_) => return Err((at, "no control character in a string")),
            None => return Err((bytes.len(), "the end of a string")),
        }
    }
}

/// The first place from `at` on that holds a quote, a backslash or a control character; the end if none does.
#[inline]
fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let v = u64::from_le_bytes(*eight);
        // A byte that is zero after the xor borrows; so does one below 0x20. Only the first hit is exact, as a borrow
        // may spoil those after it.
        let quote = (v ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let slash = (v ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let control = v.wrapping_sub(ONES * 0x20);
        // Bytes from 0x80 on are none of the three, whatever the subtraction made of them.
        let hits = (quote | slash | control) & !v & HIGH;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// Writes the string with its escapes resolved. The error is the offset of an escape that is none, or of half a
/// surrogate pair.
pub fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Result<(), usize> {
    let mut at = 0;
    while at < raw.len() {
        let run = plain_run(raw, at);
        out.extend_from_slice(raw.get(at..run).unwrap_or_default());
        at = run;
        if at == raw.len() {
            break;
        }
        let byte = match raw.get(at + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let (c, len) = unicode_escape(raw.get(at..).unwrap_or_default()).ok_or(at)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                at += len;
                continue;
            }
            _ => return Err(at),
        };
        out.push(byte);
        at += 2;
    }
    Ok(())
}

/// The character of `\uXXXX`, or of two of them that are a surrogate pair, and how long the text is.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    let high = hex4(text)?;
    if !(0xd800..0xe000).contains(&high) {
        return char::from_u32(high).map(|c| (c, 6));
    }
    let low = hex4(text.get(6..)?)?;
    if high >= 0xdc00 || !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|c| (c, 12))
}

fn hex4(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |all, digit| Some(all << 4 | (*digit as char).to_digit(16)?))
}

/// The keys of one object that have been seen.
#[derive(Default)]
pub struct Seen(u32);

impl Seen {
    /// Refuses the key, number `bit` of those that the object knows, the second time.
    pub fn once(&mut self, bit: u32, key: &str, at: usize) -> Result<(), Error> {
        if self.0 & (1 << bit) != 0 {
            return Err(twice(key, at));
        }
        self.0 |= 1 << bit;
        Ok(())
    }
}

/// The error for a key that an object has twice.
#[cold]
pub fn twice(key: &str, at: usize) -> Error {
    Error::invalid(format!(
        "the key '{}' appears twice in one object, again before byte {at}",
        Shown(key)
    ))
}
