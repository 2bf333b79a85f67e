//! Header blocks of HTTP/2 (RFC 7541) without a dynamic table: ours are literals, the server's are asked to be stateless.

use std::collections::HashMap;

/// Blocks that are remembered, at most: a server's answers have a few.
const REMEMBERED: usize = 256;

/// A header block of literals without indexing; the names in lower case, pseudo-headers first.
pub fn encode<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        match (name, value) {
            (":method", "GET") => block.push(0x82),
            (":method", "POST") => block.push(0x83),
            (":scheme", "http") => block.push(0x86),
            (":scheme", "https") => block.push(0x87),
            _ => {
                match name {
                    ":authority" => block.push(1),
                    ":path" => block.push(4),
                    // The last index that four bits hold is 14; from there a byte more.
                    "content-type" => block.extend([0x0f, 31 - 15]),
                    _ => {
                        block.push(0);
                        text(name, &mut block);
                    }
                }
                text(value, &mut block);
            }
        }
    }
    block
}

/// A string without Huffman's code.
fn text(text: &str, block: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

/// What a block of an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `:status`
    pub status: Option<u16>,
    pub grpc_status: Option<u32>,
    pub grpc_message: Option<String>,
}

/// Reads blocks; the same bytes mean the same, since there is no table that changes.
#[derive(Default)]
pub struct Decoder {
    known: HashMap<Box<[u8]>, Head>,
}

impl Decoder {
    /// What a block says; `None` where it is no block.
    pub fn decode(&mut self, block: &[u8]) -> Option<Head> {
        if let Some(head) = self.known.get(block) {
            return Some(head.clone());
        }
        let mut decoder = loona_hpack::Decoder::new();
        decoder.set_max_table_size(0);
        let pairs = decoder.decode(block).ok()?;
        let mut head = Head::default();
        for (name, value) in &pairs {
            let text = || std::str::from_utf8(value).ok();
            match &name[..] {
                b":status" => head.status = text().and_then(|text| text.parse().ok()),
                b"grpc-status" => head.grpc_status = text().and_then(|text| text.parse().ok()),
                b"grpc-message" => head.grpc_message = text().map(str::to_owned),
                _ => {}
            }
        }
        if self.known.len() < REMEMBERED {
            self.known.insert(block.into(), head.clone());
        }
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_are_read_and_remembered() {
        let long = "x".repeat(5000);
        let pairs = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", "8"),
            ("grpc-message", "full"),
            ("long", &long),
        ];
        let block = encode(pairs);
        let mut decoder = Decoder::default();
        for _ in 0..2 {
            let head = decoder.decode(&block).unwrap();
            assert_eq!((head.status, head.grpc_status), (Some(200), Some(8)));
            assert_eq!(head.grpc_message.as_deref(), Some("full"));
        }
        // As servers write it: an index of the static table, a literal with Huffman's code.
        let head = decoder.decode(&[0x88]).unwrap();
        assert_eq!(head.status, Some(200));
        assert_eq!(decoder.decode(&[0xff; 9]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec("[ -~]{0,300}", 1..5)) {
            let pairs: Vec<(&str, &str)> =
                values.iter().map(|value| ("content-type", value.as_str())).collect();
            let mut decoder = loona_hpack::Decoder::new();
            let read = decoder.decode(&encode(pairs)).unwrap();
            let read: Vec<String> =
                read.into_iter().map(|(_, v)| String::from_utf8(v).unwrap()).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Decoder::default().decode(&bytes);
        }
    }
}
