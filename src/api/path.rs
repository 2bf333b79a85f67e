//! Percent-decoding of one segment of a path, once and no more.

use crate::types::{error::Error, text::Text};

/// The text of a segment; refuses broken escapes and what is no UTF-8.
pub fn decode(segment: &str) -> Result<Text, Error> {
    if !segment.contains('%') {
        return Ok(Text::from(segment));
    }
    let bad = || Error::invalid("the path has a broken percent-escape");
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let digit = |d: u8| (d as char).to_digit(16).ok_or_else(bad);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = tail;
    }
    Text::from_utf8(bytes.into()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_once() {
        assert_eq!(&*decode("a%2Fb%252e").expect("decodes"), "a/b%2e");
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
