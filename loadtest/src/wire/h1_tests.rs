//! Answers whole, in pieces, and broken.

use proptest::prelude::*;

use super::*;

/// The answers in `bytes`, given in pieces of `size`.
fn read(bytes: &[u8], size: usize) -> Result<Vec<Answer>, Garbled> {
    let mut reader = Reader::new(usize::MAX);
    let mut answers = Vec::new();
    for piece in bytes.chunks(size) {
        answers.extend(reader.take(piece)?);
        while let Some(answer) = reader.take(b"")? {
            answers.push(answer);
        }
    }
    answers.extend(reader.closed());
    Ok(answers)
}

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, body: body.into(), bytes: body.len() as u64, ..Answer::default() }
}

#[test]
fn answers_in_every_form() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\
        Inference-Header-Content-Length: 3\r\n\r\nhello\
        HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n6;a=b\r\n, very\r\n0\r\nx: y\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n\
        HTTP/1.0 200 OK\r\n\r\nto the end";
    for size in [1, 2, 7, 64, 10_000] {
        let answers = read(text.as_bytes(), size).unwrap();
        assert_eq!(answers[0], Answer { header_length: Some(3), ..answer(200, "hello") });
        assert_eq!(answers[1], answer(429, "busy, very"));
        assert_eq!(answers[2], answer(204, ""));
        assert_eq!(answers[3], Answer { closes: true, ..answer(200, "") });
        assert_eq!(answers[4], Answer { closes: true, ..answer(200, "to the end") });
        assert_eq!(answers.len(), 5);
    }
}

#[test]
fn bodies_that_nobody_wants_are_not_kept_and_errors_are() {
    let mut reader = Reader::new(2);
    let whole = reader.take(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap().unwrap();
    assert_eq!(whole, Answer { bytes: 5, ..answer(200, "he") });
    let whole = reader.take(b"HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nhello").unwrap().unwrap();
    assert_eq!(whole, answer(500, "hello"));
    assert!(!reader.begun());
    assert_eq!(reader.take(b"HT").unwrap(), None);
    assert!(reader.begun());
    assert_eq!(reader.closed(), None);
}

#[test]
fn what_is_no_answer_is_garbled() {
    for text in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ] {
        assert!(read(text.as_bytes(), 3).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        front in prop_oneof![
            Just("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            Just("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
            Just(""),
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        size in 1usize..50,
    ) {
        let _ = read(&[front.as_bytes(), &rest].concat(), size);
    }

    #[test]
    fn pieces_say_what_the_whole_says(body in "[a-z]{0,300}", cut in 1usize..40, chunk in 1usize..50) {
        let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        for part in body.as_bytes().chunks(chunk) {
            text += &format!("{:X}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap());
        }
        text += "0\r\n\r\n";
        prop_assert_eq!(read(text.as_bytes(), cut).unwrap(), vec![answer(200, &body)]);
    }
}
