//! Looks at the heads of HTTP/1.1 requests: their size, and shapes that two readers could read differently (smuggling).
//!
//! Why beside hyper's parser: it settles these quietly (of a Content-Length beside a Transfer-Encoding it takes the second
//! and closes afterwards). That is safe here, but whoever sends them means somebody's harm or has a bug.
//! Invariant: it only refuses. What it does not see (a request that came in one read with the one before it) hyper reads as
//! ever.

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    LengthAndEncoding,
    TwoLengths,
    TwoEncodings,
    BareLineFeed,
    TooLarge,
}

impl Fault {
    const ALL: [Fault; 5] = [
        Fault::LengthAndEncoding,
        Fault::TwoLengths,
        Fault::TwoEncodings,
        Fault::BareLineFeed,
        Fault::TooLarge,
    ];

    pub const fn message(self) -> &'static str {
        match self {
            Fault::LengthAndEncoding => {
                "the request has a Content-Length and a Transfer-Encoding, expected one of them"
            }
            Fault::TwoLengths => "the request has more than one Content-Length",
            Fault::TwoEncodings => "the request has more than one Transfer-Encoding",
            Fault::BareLineFeed => {
                "a line of the request's head ends with LF alone, expected CR LF"
            }
            Fault::TooLarge => "the head of the request is larger than max_header_bytes",
        }
    }

    /// As a number that is not 0, and back.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    pub fn of(code: u8) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.code() == code)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    RequestLine,
    Headers,
    /// Behind the head, or in something that is no head.
    Passed,
}

/// Bytes of a line's beginning that are kept: the longer of the two names and its colon.
const KEPT: usize = TRANSFER_ENCODING.len();
const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";

/// One head, in as many pieces as it comes.
#[derive(Debug)]
pub struct Framing {
    place: Place,
    /// Bytes that the head may still have.
    left: usize,
    /// The beginning of a line that has not ended yet.
    begun: [u8; KEPT],
    held: usize,
    /// The last byte of what came of that line.
    last: u8,
    lengths: u8,
    encodings: u8,
}

impl Framing {
    /// The beginning of a head that may have `max` bytes.
    pub fn new(max: usize) -> Framing {
        Framing {
            place: Place::RequestLine,
            left: max,
            begun: [0; KEPT],
            held: 0,
            last: 0,
            lengths: 0,
            encodings: 0,
        }
    }

    /// Looks at the next bytes; says what is wrong as soon as it is seen.
    pub fn look(&mut self, mut bytes: &[u8]) -> Option<Fault> {
        while self.place != Place::Passed {
            let end = memchr::memchr(b'\n', bytes);
            let size = end.map_or(bytes.len(), |end| end + 1);
            match self.left.checked_sub(size) {
                None => return Some(Fault::TooLarge),
                Some(left) => self.left = left,
            }
            let Some(end) = end else {
                self.hold(bytes);
                return None;
            };
            let fault = self.line(&bytes[..end]);
            (self.held, self.last) = (0, 0);
            if fault.is_some() {
                return fault;
            }
            bytes = &bytes[size..];
        }
        None
    }

    /// Whether the request's line has not ended yet.
    pub fn in_request_line(&self) -> bool {
        self.place == Place::RequestLine
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = &mut self.begun[self.held..];
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.held += taken;
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// A line's end, without its LF; what came of it before is held.
    fn line(&mut self, end: &[u8]) -> Option<Fault> {
        let empty = self.held == 0 && matches!(end, b"" | b"\r")
            || self.begun[..self.held] == *b"\r" && end.is_empty();
        if empty {
            // Empty lines may come before a request; after the headers, one ends the head.
            if self.place == Place::Headers {
                self.place = Place::Passed;
            }
            return self.bare(end);
        }
        if self.place == Place::RequestLine {
            let known = end.strip_suffix(b"\r").unwrap_or(end);
            if known.len() >= 9 && !known[..known.len() - 1].ends_with(b" HTTP/1.") {
                // The rest of a body that nobody read, perhaps.
                self.place = Place::Passed;
                return None;
            }
            self.place = Place::Headers;
            return self.bare(end);
        }
        self.header(end).or(self.bare(end))
    }

    fn bare(&self, end: &[u8]) -> Option<Fault> {
        let before = end.last().copied().unwrap_or(self.last);
        (before != b'\r').then_some(Fault::BareLineFeed)
    }

    fn header(&mut self, end: &[u8]) -> Option<Fault> {
        let first = if self.held > 0 { self.begun[0] } else { end[0] };
        // Nearly all lines end here.
        if !matches!(first, b'c' | b'C' | b't' | b'T') {
            return None;
        }
        self.hold(end);
        let begun = &self.begun[..self.held];
        let is = |name: &[u8]| {
            begun.get(..name.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(name))
        };
        if is(CONTENT_LENGTH) {
            self.lengths = self.lengths.saturating_add(1);
        } else if is(TRANSFER_ENCODING) {
            self.encodings = self.encodings.saturating_add(1);
        }
        match (self.lengths, self.encodings) {
            (1.., 1..) => Some(Fault::LengthAndEncoding),
            (2.., _) => Some(Fault::TwoLengths),
            (_, 2..) => Some(Fault::TwoEncodings),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

    fn whole(head: &str) -> Option<Fault> {
        Framing::new(MAX).look(head.as_bytes())
    }

    #[test]
    fn ordinary_heads_pass() {
        for headers in [
            "",
            "Host: a\r\nContent-Length: 5\r\n",
            "transfer-encoding: chunked\r\nContent-Type: x\r\n",
            "Content-Lengths: 5\r\nContent-Length: 5\r\nX-Content-Length: 9\r\nTE: trailers\r\n",
        ] {
            assert_eq!(whole(&format!("POST /a HTTP/1.1\r\n{headers}\r\n")), None, "{headers}");
            assert_eq!(whole(&format!("\r\nPOST /a HTTP/1.0\r\n{headers}\r\n")), None);
        }
    }

    #[test]
    fn shapes_that_two_readers_read_differently_do_not() {
        for (headers, fault) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Fault::LengthAndEncoding),
            (
                "TRANSFER-ENCODING: chunked\r\nA: b\r\ncontent-length:5\r\n",
                Fault::LengthAndEncoding,
            ),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Fault::TwoLengths),
            ("Transfer-Encoding: a\r\nTransfer-Encoding: chunked\r\n", Fault::TwoEncodings),
            ("Host: a\nTransfer-Encoding: chunked\r\n", Fault::BareLineFeed),
            ("Host: a\r\nContent-Length: 5\n", Fault::BareLineFeed),
        ] {
            assert_eq!(whole(&format!("POST /a HTTP/1.1\r\n{headers}\r\n")), Some(fault));
            assert_eq!(Fault::of(fault.code()), Some(fault));
        }
        assert_eq!(whole("GET / HTTP/1.1\nHost: a\r\n\r\n"), Some(Fault::BareLineFeed));
        assert_eq!(whole("GET / HTTP/1.1\r\nHost: a\r\n\n"), Some(Fault::BareLineFeed));
    }

    #[test]
    fn heads_have_a_size_and_bodies_may_have_another() {
        let line = "GET / HTTP/1.1\r\n";
        let head = |size: usize| format!("{line}a: {}\r\n\r\n", "b".repeat(size - line.len() - 7));
        assert_eq!(whole(&head(MAX)), None);
        assert_eq!(whole(&head(MAX + 1)), Some(Fault::TooLarge));
        assert_eq!(whole(&head(MAX + 2)[..MAX + 1]), Some(Fault::TooLarge));
        assert_eq!(whole(&(head(MAX) + &"c".repeat(MAX))), None);
    }

    #[test]
    fn bodies_are_not_heads() {
        let two = "Content-Length: 5\r\nContent-Length: 5\r\n\n";
        assert_eq!(whole(&format!("POST /a HTTP/1.1\r\nHost: a\r\n\r\n{two}")), None);
        // The rest of a body that was not read.
        assert_eq!(whole(&format!("{{\"inputs\": [1, 2]}}\r\n{two}")), None);
    }

    proptest! {
        #[test]
        fn pieces_say_the_same_as_the_whole(
            lines in proptest::collection::vec("[cCtTx]?[a-zA-Z-]{0,4}(ontent-length:|ransfer-encoding:)?[ -~]{0,8}", 0..6),
            ends in proptest::collection::vec(0..9u8, 6),
            cuts in proptest::collection::vec(1..12usize, 0..40),
        ) {
            let mut head = "POST /v2/models/a/infer HTTP/1.1\r\n".to_owned();
            for (line, end) in lines.iter().zip(ends) {
                head.push_str(line);
                head.push_str(if end == 0 { "\n" } else { "\r\n" });
            }
            head.push_str("\r\n");
            let mut rest = head.as_bytes();
            let mut framing = Framing::new(MAX);
            let mut found = None;
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                found = found.or_else(|| framing.look(piece));
                rest = after;
            }
            found = found.or_else(|| framing.look(rest));
            prop_assert_eq!(found, whole(&head), "{:?}", head);
        }

        #[test]
        fn nothing_makes_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..8)) {
            let mut framing = Framing::new(MAX);
            for piece in pieces {
                let _ = framing.look(&piece);
            }
        }
    }
}
