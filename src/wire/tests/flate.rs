//! gzip and deflate: round trips in steps of any size, and what is cut, damaged or too long.

use proptest::prelude::*;

use super::super::flate::{Coding, Deflate, Inflate};
use crate::types::error::{Code, Error};

const CODINGS: [Coding; 2] = [Coding::Gzip, Coding::Deflate];

/// Compresses in steps of `step` bytes, into buffers of as many.
fn deflated(coding: Coding, data: &[u8], step: usize) -> Vec<u8> {
    let mut state = Deflate::new(coding);
    let (mut out, mut at) = (Vec::new(), 0);
    while !state.ended() {
        out.reserve(step);
        let end = data.len().min(at + step);
        at += state.step(&data[at..end], end == data.len(), &mut out).unwrap();
    }
    assert_eq!(at, data.len());
    out
}

fn inflated(coding: Coding, data: &[u8], step: usize) -> Result<Vec<u8>, Error> {
    let mut state = Inflate::new(coding);
    let (mut out, mut at) = (Vec::new(), 0);
    let mut buffer = vec![0; step];
    loop {
        let end = data.len().min(at + step);
        let moved = state.step(&data[at..end], &mut buffer)?;
        out.extend_from_slice(&buffer[..moved.given]);
        at += moved.taken;
        if at == data.len() && moved.given < step {
            break;
        }
    }
    state.finish().map(|()| out)
}

fn refused(coding: Coding, data: &[u8]) -> String {
    let error = inflated(coding, data, 512).expect_err("it is no such data");
    assert_eq!(error.code, Code::InvalidArgument);
    error.message.into_owned()
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        runs in prop::collection::vec((any::<u8>(), 1usize..600), 0..40),
        steps in (1usize..700, 1usize..700),
    ) {
        let data: Vec<u8> = runs.iter().flat_map(|(byte, n)| std::iter::repeat_n(*byte, *n)).collect();
        for coding in CODINGS {
            let packed = deflated(coding, &data, steps.0);
            prop_assert_eq!(inflated(coding, &packed, steps.1).unwrap(), &data[..]);
        }
    }

    /// Whatever is cut off, changed or added: never other data, and no panic.
    #[test]
    fn what_is_cut_changed_or_added_is_refused(
        data in prop::collection::vec(any::<u8>(), 1..400),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        for coding in CODINGS {
            let packed = deflated(coding, &data, 256);
            prop_assert!(inflated(coding, &packed[..at.index(packed.len())], 256).is_err());
            let mut longer = packed.clone();
            longer.push(flip);
            prop_assert!(inflated(coding, &longer, 256).is_err());
            let mut changed = packed.clone();
            let at = at.index(packed.len());
            changed[at] ^= flip;
            // Some bits mean nothing to us: the time and the system in gzip's head, the last byte's padding.
            if let Ok(other) = inflated(coding, &changed, 256) {
                prop_assert!(other == data, "{coding:?} at {at}: {packed:?}");
            }
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
        for coding in CODINGS {
            let _ = inflated(coding, &data, 64);
        }
    }
}

#[test]
fn every_trailer_is_checked() {
    let packed = deflated(Coding::Gzip, b"wine wine wine", 64);
    for from_end in 1..=8 {
        let mut changed = packed.clone();
        let at = changed.len() - from_end;
        changed[at] ^= 1;
        assert!(refused(Coding::Gzip, &changed).contains("damaged"), "{from_end}");
        assert!(refused(Coding::Gzip, &packed[..at]).contains("ends too early"), "{from_end}");
    }
    let mut packed = deflated(Coding::Deflate, b"wine wine wine", 64);
    *packed.last_mut().unwrap() ^= 1;
    refused(Coding::Deflate, &packed);
}

#[test]
fn gzip_may_have_members_and_deflate_may_not() {
    let mut two = deflated(Coding::Gzip, b"first ", 64);
    two.extend(deflated(Coding::Gzip, b"second", 64));
    assert_eq!(inflated(Coding::Gzip, &two, 7).unwrap(), b"first second");
    let mut many = Vec::new();
    for _ in 0..1025 {
        many.extend(deflated(Coding::Gzip, b"", 64));
    }
    assert!(refused(Coding::Gzip, &many).contains("too many members"));
    let mut two = deflated(Coding::Deflate, b"first ", 64);
    two.extend(deflated(Coding::Deflate, b"second", 64));
    assert!(refused(Coding::Deflate, &two).contains("behind its end"));
}

#[test]
fn one_coding_is_not_the_other() {
    let gzip = deflated(Coding::Gzip, b"wine", 64);
    let zlib = deflated(Coding::Deflate, b"wine", 64);
    refused(Coding::Deflate, &gzip);
    refused(Coding::Gzip, &zlib);
    // Without zlib's two bytes of head and four of checksum: raw deflate.
    assert!(refused(Coding::Deflate, &zlib[2..zlib.len() - 4]).contains("zlib's framing"));
    for coding in CODINGS {
        assert!(refused(coding, b"").contains("ends too early"));
        refused(coding, b"{\"inputs\": []}");
    }
}

#[test]
fn names_are_those_of_the_registry() {
    assert_eq!(Coding::parse("GZip"), Some(Coding::Gzip));
    assert_eq!(Coding::parse("x-gzip"), Some(Coding::Gzip));
    assert_eq!(Coding::parse("deflate"), Some(Coding::Deflate));
    assert_eq!(Coding::parse("identity"), Some(Coding::Identity));
    for other in ["", "br", "zstd", "gzip, gzip", "compress"] {
        assert_eq!(Coding::parse(other), None);
    }
}
