//! Calls against canned servers: answers in pieces, windows, resets, goodbyes, nonsense.

use std::sync::Arc;

use proptest::prelude::*;

use super::{super::hpack::encode, *};

/// Frames as (kind, flags, stream, payload).
type Frame = (u8, u8, u32, Vec<u8>);

fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, flags, stream, payload) in frames {
        head(payload.len(), *kind, *flags, *stream, &mut out);
        out.extend_from_slice(payload);
    }
    out
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((front, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, front[0], front[1], front[2]]) as usize;
        let stream = u32::from_be_bytes([front[5], front[6], front[7], front[8]]);
        frames.push((front[3], front[4], stream, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    frames
}

struct Client {
    session: Session<u32>,
    out: Vec<u8>,
    ended: Vec<(u32, End)>,
}

impl Client {
    fn new() -> Client {
        let mut out = Vec::new();
        let session = Session::new(usize::MAX, &mut out);
        out.clear();
        Client { session, out, ended: Vec::new() }
    }

    fn call(&mut self, token: u32, size: usize) -> Vec<Frame> {
        let message: Arc<[u8]> = vec![7; size].into();
        self.session.call(token, &encode([(":method", "POST")]), &message, &mut self.out);
        frames(&std::mem::take(&mut self.out))
    }

    fn take(&mut self, incoming: &[u8]) -> Result<Vec<Frame>, Fatal> {
        let ended = &mut self.ended;
        self.session
            .receive(incoming, &mut self.out, &mut |token, end| ended.push((token, end)))?;
        Ok(frames(&std::mem::take(&mut self.out)))
    }
}

fn answer(stream: u32, status: &str) -> Vec<Frame> {
    let message = [&[0, 0, 0, 0, 5][..], b"hello"].concat();
    vec![
        (kind::HEADERS, END_HEADERS, stream, encode([(":status", "200")])),
        (kind::DATA, 0, stream, message),
        (kind::HEADERS, END_HEADERS | END_STREAM, stream, encode([("grpc-status", status)])),
    ]
}

fn good() -> End {
    let (message, text) = (b"hello".to_vec(), String::new());
    End::Status { status: 0, text, message, bytes: 10 }
}

#[test]
fn answers_come_in_any_pieces_and_any_order() {
    let mut all =
        bytes(&[(kind::SETTINGS, 0, 0, vec![0, 3, 0, 0, 0, 9]), (kind::PING, 0, 0, vec![1; 8])]);
    all.extend(bytes(&answer(3, "0")));
    all.extend(bytes(&answer(1, "8")));
    for size in [1, 5, 9, 1000] {
        let mut client = Client::new();
        client.call(10, 3);
        client.call(11, 3);
        assert_eq!((client.session.open(), client.session.room()), (2, 98));
        let mut sent = Vec::new();
        for piece in all.chunks(size) {
            sent.extend(client.take(piece).unwrap());
        }
        assert_eq!(client.ended[0], (11, good()));
        assert!(matches!(client.ended[1], (10, End::Status { status: 8, .. })));
        assert_eq!(sent[0], (kind::SETTINGS, ACK, 0, vec![]));
        assert_eq!(sent[1], (kind::PING, ACK, 0, vec![1; 8]));
        assert_eq!((client.session.open(), client.session.room()), (0, 9));
        assert!(client.session.calls.is_empty() && client.session.greeted());
    }
}

#[test]
fn windows_are_kept() {
    let mut client = Client::new();
    let sent = client.call(1, 100_000);
    let size = |frames: &[Frame]| -> usize {
        frames.iter().filter(|f| f.0 == kind::DATA).map(|f| f.3.len()).sum()
    };
    assert_eq!(size(&sent), 65_535);
    assert!(sent.iter().all(|f| f.3.len() <= 16_384));
    assert_eq!(size(&client.call(2, 5)), 0, "the connection's window is closed");
    // The connection's window opens: the second message goes, the first waits for its stream's.
    let sent = client.take(&bytes(&[(kind::WINDOW_UPDATE, 0, 0, vec![0, 1, 0, 0])])).unwrap();
    assert_eq!(sent, [(kind::DATA, END_STREAM, 3, vec![7; 5])]);
    let sent = client.take(&bytes(&[(kind::SETTINGS, 0, 0, vec![0, 4, 0, 2, 0, 0])])).unwrap();
    assert_eq!(size(&sent), 100_000 - 65_535);
    assert_eq!(sent.last().unwrap().1, END_STREAM);
    let sent = client.call(3, 0);
    assert_eq!(sent[1], (kind::DATA, END_STREAM, 5, vec![]));
}

#[test]
fn what_was_not_looked_at_is_told_apart() {
    let mut client = Client::new();
    for token in 0..4 {
        client.call(token, 3);
    }
    let goodbye = (kind::GOAWAY, 0, 0, [0, 0, 0, 3, 0, 0, 0, 0].to_vec());
    let refused = (kind::RST_STREAM, 0, 1, [0, 0, 0, 7].to_vec());
    client.take(&bytes(&[goodbye, refused])).unwrap();
    let mut ended = client.ended.clone();
    ended.sort_by_key(|(token, _)| *token);
    let unprocessed = [0, 2, 3].map(|token| (token, End::Unprocessed));
    assert_eq!(ended, unprocessed);
    assert!(client.session.leaving() && client.session.room() == 0);
    client.take(&bytes(&answer(3, "0"))).unwrap();
    assert_eq!(client.ended.last().unwrap(), &(1, good()));
    assert_eq!(client.session.open(), 0);
}

#[test]
fn calls_end_in_other_ways() {
    let mut client = Client::new();
    for token in 0..7 {
        client.call(token, 3);
    }
    let last = END_HEADERS | END_STREAM;
    let only = [(":status", "200"), ("grpc-status", "5"), ("grpc-message", "no%20model")];
    client
        .take(&bytes(&[
            (kind::HEADERS, last, 1, encode(only)),
            (kind::HEADERS, last, 3, encode([(":status", "503")])),
            (kind::HEADERS, END_HEADERS, 5, encode([(":status", "200")])),
            (kind::DATA, END_STREAM, 5, vec![]),
            (kind::RST_STREAM, 0, 7, vec![0, 0, 0, 2]),
            (kind::HEADERS, 0, 9, encode([(":status", "200")])),
            (kind::CONTINUATION, last, 9, vec![]),
        ]))
        .unwrap();
    let text = "no%20model".to_owned();
    assert_eq!(client.ended[0].1, End::Status { status: 5, text, message: vec![], bytes: 0 });
    assert_eq!(client.ended[1].1, End::Http(503));
    assert!(matches!(client.ended[2].1, End::Garbled(_)));
    assert_eq!(client.ended[3].1, End::Reset(2));
    assert_eq!(client.session.cancel(11, &mut client.out), Some(5));
    assert_eq!(frames(&client.out), [(kind::RST_STREAM, 0, 11, vec![0, 0, 0, 8])]);
    // What still comes for it is nobody's.
    client.out.clear();
    client.take(&bytes(&answer(11, "0"))).unwrap();
    assert_eq!(client.ended.len(), 4);
    assert_eq!(client.session.abandon(), [4, 6]);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    for wrong in [
        (kind::DATA, 0, 99, vec![]),
        (kind::CONTINUATION, 0, 1, vec![]),
        (kind::PUSH_PROMISE, 0, 1, vec![]),
        (kind::SETTINGS, 0, 0, vec![1]),
        (kind::PING, 0, 0, vec![1]),
        (kind::WINDOW_UPDATE, 0, 0, vec![0x7f, 0xff, 0xff, 0xff]),
        (kind::DATA, PADDED, 1, vec![9, 0]),
        (kind::HEADERS, END_HEADERS, 1, vec![0xff; 9]),
    ] {
        let mut client = Client::new();
        client.call(1, 3);
        assert!(client.take(&bytes(std::slice::from_ref(&wrong))).is_err(), "{wrong:?}");
    }
    assert!(Client::new().take(&[0xff; 9]).is_err(), "too large a frame");
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        incoming in proptest::collection::vec(
            (0u8..11, any::<u8>(), 0u32..9, proptest::collection::vec(any::<u8>(), 0..30)),
            0..20,
        ),
        cut in 1usize..60,
    ) {
        let mut client = Client::new();
        for token in 0..3 {
            client.call(token, 40_000);
        }
        for piece in bytes(&incoming).chunks(cut) {
            if client.take(piece).is_err() {
                break;
            }
        }
    }
}
