//! A total reader of the protobuf wire format: slices only, nothing is allocated, no input makes it panic.

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    /// A fixed field of 8 or 4 bytes; ONNX models have none that we read.
    Fixed(&'a [u8]),
    /// A string, bytes, a nested message, or a packed list.
    Len(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited field; empty for another wire type.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Len(bytes) => bytes,
            _ => &[],
        }
    }

    /// The number in a varint field, as protobuf reads `int32`, `int64` and enums; 0 for another wire type.
    pub fn int(self) -> i64 {
        match self {
            Value::Varint(n) => n as i64,
            _ => 0,
        }
    }

    /// The field as text, or what is wrong with it.
    pub fn text(self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()).map_err(|_| "a name in it is not UTF-8".to_owned())
    }
}

/// Walks the fields of one message.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    /// The next field's number and value; `None` at the end. The error says what is wrong with the bytes.
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = u32::try_from(tag >> 3).unwrap_or(0);
        if field == 0 || field >= 1 << 29 {
            return Err(format!("a field has the number {}", tag >> 3));
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed(self.take(8)?),
            2 => {
                let len = self.varint()?;
                Value::Len(self.take(len)?)
            }
            5 => Value::Fixed(self.take(4)?),
            wire => return Err(format!("field {field} has the wire type {wire}")),
        };
        Ok(Some((field, value)))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((taken, rest)) = split else {
            let left = self.rest.len();
            return Err(format!("a field of {len} bytes has only {left} (a truncated file?)"));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0u64;
        for shift in 0..10u32 {
            let Some((&byte, rest)) = self.rest.split_first() else {
                return Err("it ends inside a number (a truncated file?)".to_owned());
            };
            self.rest = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift * 7).unwrap_or(0);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is longer than ten bytes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, String> {
        let mut fields = Fields::of(message);
        let mut out = Vec::new();
        while let Some(field) = fields.next()? {
            out.push(field);
        }
        Ok(out)
    }

    #[test]
    fn reads_every_wire_type() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 2, 3, 4];
        let fields = all(&message).unwrap();
        assert_eq!(
            fields,
            [(1, Value::Varint(150)), (2, Value::Len(b"hi")), (3, Value::Fixed(&[1, 2, 3, 4]))]
        );
    }

    #[test]
    fn negative_numbers_are_ten_bytes() {
        let message = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(all(&message).unwrap()[0].1.int(), -1);
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(all(&[0x12, 0x7f, 1]).unwrap_err().contains("truncated"));
        assert!(all(&[0x08]).unwrap_err().contains("truncated"));
        assert!(all(&[0x0b]).unwrap_err().contains("wire type 3"));
        assert!(all(&[0x00, 0x01]).unwrap_err().contains("number 0"));
        assert!(
            all(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err()
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
        }
    }
}
