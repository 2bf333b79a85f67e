//! Which coding is chosen, bombs, and what happens between the pieces.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use http::HeaderMap;

use super::*;
use crate::serving::memory::Budget;

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn packed(coding: Coding, data: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Identity => data.to_vec(),
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
    }
}

#[test]
fn a_body_has_one_coding_that_is_known() {
    let of = |lines: &[_]| of_body(&Heads::of(&headers(lines)));
    let encoding = "content-encoding";
    assert_eq!(of(&[]), Ok(Coding::Identity));
    for (name, coding) in [
        ("gzip", Coding::Gzip),
        (" GZIP ", Coding::Gzip),
        ("deflate", Coding::Deflate),
        ("identity", Coding::Identity),
    ] {
        assert_eq!(of(&[(encoding, name)]), Ok(coding));
    }
    for lines in [
        &[(encoding, "br")][..],
        &[(encoding, "")],
        &[(encoding, "gzip, gzip")],
        &[(encoding, "gzip"), (encoding, "gzip")],
        &[(encoding, "identity"), (encoding, "gzip")],
    ] {
        let error = of(lines).expect_err("refused");
        assert_eq!(error.code, Code::UnsupportedEncoding, "{lines:?}");
    }
}

#[test]
fn an_answers_coding_is_what_the_client_weighs_most() {
    use Coding::{Deflate, Gzip, Identity};
    for (accept, coding) in [
        ("gzip", Gzip),
        ("x-gzip", Gzip),
        ("deflate", Deflate),
        ("gzip, deflate", Gzip),
        ("deflate, gzip", Gzip),
        ("deflate, gzip;q=0.5", Deflate),
        ("GZIP ; Q=0.2 , deflate;q=0.1", Gzip),
        ("gzip;q=0", Identity),
        ("gzip;q=0.000, deflate;q=0.001", Deflate),
        ("*", Gzip),
        ("*;q=0", Identity),
        ("gzip;q=0, *", Deflate),
        ("*, identity;q=0", Gzip),
        ("identity", Identity),
        ("identity, gzip;q=0.9", Identity),
        ("identity;q=0.1, gzip;q=0.9", Gzip),
        ("br, zstd", Identity),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", Gzip),
        ("", Identity),
        ("gzip;q=2", Identity),
        ("gzip;q=0.1234", Identity),
        ("gzip;q=one", Identity),
        ("gzip;level=9", Identity),
        ("gzip;q=1.", Gzip),
        ("gzip;q=1.001", Identity),
    ] {
        assert_eq!(
            accepted(&Heads::of(&headers(&[("accept-encoding", accept)]))),
            coding,
            "{accept}"
        );
    }
    assert_eq!(accepted(&Heads::of(&HeaderMap::new())), Identity);
    let lines = headers(&[("accept-encoding", "br"), ("accept-encoding", "deflate")]);
    assert_eq!(accepted(&Heads::of(&lines)), Deflate);
}

#[test]
fn a_calls_answer_is_coded_in_kind() {
    let of = |lines: &[_]| of_call(&Heads::of(&headers(lines))).map(|m| (m.sent, m.answer));
    let (encoding, accept) = ("grpc-encoding", "grpc-accept-encoding");
    let all = "identity, deflate, gzip";
    use Coding::{Deflate, Gzip, Identity};
    assert_eq!(of(&[(accept, all)]), Ok((Identity, Identity)));
    assert_eq!(of(&[(encoding, "identity"), (accept, all)]), Ok((Identity, Identity)));
    assert_eq!(of(&[(encoding, "gzip"), (accept, all)]), Ok((Gzip, Gzip)));
    assert_eq!(of(&[(encoding, "deflate"), (accept, all)]), Ok((Deflate, Deflate)));
    assert_eq!(of(&[(encoding, "gzip"), (accept, "identity,deflate")]), Ok((Gzip, Identity)));
    assert_eq!(of(&[(encoding, "gzip")]), Ok((Gzip, Identity)));
    let error = of(&[(encoding, "snappy")]).expect_err("refused");
    assert_eq!(error.code, Code::UnsupportedEncoding);
}

/// A million zeros for every thousand bytes: stopped at the limit, with no more memory charged than that.
#[tokio::test]
async fn a_bomb_is_stopped_at_the_limit() {
    const MAX: usize = 1 << 20;
    let budget = Budget::new(64 << 20);
    for coding in [Coding::Gzip, Coding::Deflate] {
        let bomb = packed(coding, &vec![0; 8 << 20]);
        assert!(bomb.len() < 16 << 10);
        let mut charge = budget.charge();
        let error = inflate(&bomb, coding, MAX, &mut charge).await.expect_err("too large");
        assert_eq!(error.code, Code::TooLarge);
        assert!(error.message.contains("1048576"), "{error}");
        assert!(budget.used() <= MAX + 1, "{}", budget.used());
        // At the limit to the byte it passes.
        let most = packed(coding, &vec![7; MAX]);
        let mut charge = budget.charge();
        let out = inflate(&most, coding, MAX, &mut charge).await.unwrap();
        assert_eq!(out, vec![7; MAX]);
    }
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_budget_without_room_stops_a_body_as_it_grows() {
    let budget = Budget::new(100_000);
    let body = packed(Coding::Gzip, &vec![0; 1 << 20]);
    let mut charge = budget.charge();
    let error = inflate(&body, Coding::Gzip, 1 << 30, &mut charge).await.expect_err("no room");
    assert_eq!(error.code, Code::Overloaded);
    drop(charge);
    assert_eq!(budget.used(), 0);
}

/// Another task of the thread runs while a large body is worked on, many times over.
#[tokio::test]
async fn large_bodies_leave_room_for_others() {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let budget = Budget::new(1 << 30);
    let mut charge = budget.charge();
    let data = Bytes::from(vec![1u8; 4 << 20]);
    let body = deflate(std::slice::from_ref(&data), Coding::Gzip, &budget).await.unwrap();
    let body = body.expect("it shrinks");
    let between = turns.swap(0, Ordering::Relaxed);
    assert!(between >= (4 << 20) / PIECE_OUT / 2, "{between} turns while compressing");
    let out = inflate(&body, Coding::Gzip, 4 << 20, &mut charge).await.unwrap();
    let between = turns.load(Ordering::Relaxed);
    assert!(between >= (4 << 20) / PIECE_OUT / 2, "{between} turns while decompressing");
    assert_eq!(out, data);
    other.abort();
}

#[tokio::test]
async fn answers_shrink_or_stay_as_they_are() {
    let budget = Budget::new(1 << 30);
    let mut noise = 1u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (noise >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let random = [Bytes::from(random)];
    let text: Vec<Bytes> = (0..900).map(|n| format!("[{n}, 0.25, 1.5], ").into()).collect();
    for coding in [Coding::Gzip, Coding::Deflate] {
        let mut charge = budget.charge();
        assert_eq!(deflate(&random, coding, &budget).await, Ok(None));
        let shrunk = deflate(&text, coding, &budget).await.unwrap().expect("text shrinks");
        let whole = inflate(&shrunk, coding, 1 << 20, &mut charge).await.unwrap();
        assert_eq!(whole, text.concat());
    }
    // Without memory to compress in, it goes out plain.
    let full = Budget::new(10);
    assert_eq!(deflate(&text, Coding::Gzip, &full).await, Ok(None));
    assert_eq!(full.used(), 0);
}

/// A body that comes in any pieces is the same body.
#[tokio::test]
async fn pieces_do_not_matter() {
    let budget = Budget::new(1 << 30);
    let data: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    for coding in [Coding::Gzip, Coding::Deflate] {
        let body = packed(coding, &data);
        for size in [1, 977, 70_000, body.len()] {
            let mut charge = budget.charge();
            let mut inflating = Inflating::new(coding, data.len());
            for piece in body.chunks(size) {
                inflating.push(piece, &mut charge).await.unwrap();
            }
            assert_eq!(inflating.finish().unwrap(), data, "{coding:?} in pieces of {size}");
        }
        let mut inflating = Inflating::new(coding, data.len());
        inflating.push(&body[..body.len() - 1], &mut budget.charge()).await.unwrap();
        assert_eq!(inflating.finish().expect_err("cut").code, Code::InvalidArgument);
    }
}
