//! Cuts the data of a gRPC call into its messages, as they come: bounded, and charged to the memory budget as they grow.

use std::{mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{body, coded};
use crate::{
    serving::memory::{Budget, Charge},
    types::error::{Code, Error},
};

/// Bytes before each message: a flag for compression and the length.
const HEAD: usize = 5;

/// The messages of one call, in the middle of whatever has arrived.
pub struct Frames {
    /// Bytes of the largest message.
    max: usize,
    head: SmallVec<[u8; HEAD]>,
    part: Option<Part>,
}

/// A message of which some may be missing.
struct Part {
    packed: bool,
    missing: usize,
    first: Bytes,
    rest: Option<BytesMut>,
    charge: Charge,
    refused: Option<Error>,
}

/// A whole message.
#[derive(Debug)]
pub struct Message {
    /// Compressed, as the call's head says how.
    pub packed: bool,
    /// An error where the budget had no room for it: what came of it was let go.
    pub bytes: Result<Bytes, Error>,
    /// What the bytes hold of the budget.
    pub charge: Charge,
}

impl Frames {
    pub fn new(max: usize) -> Frames {
        Frames { max, head: SmallVec::new(), part: None }
    }

    /// Whether a message has begun and is not whole.
    pub fn begun(&self) -> bool {
        self.part.is_some() || !self.head.is_empty()
    }

    /// The next message, from what it has and `data`, of which it takes what belongs to it; `None`: more must come.
    ///
    /// # Errors
    /// After one nothing further can be read: `TooLarge` for a message above the limit, `InvalidArgument` for a head that
    /// is none.
    pub fn next(
        &mut self,
        data: &mut Bytes,
        budget: &Arc<Budget>,
    ) -> Result<Option<Message>, Error> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => {
                let missing = HEAD - self.head.len();
                self.head.extend_from_slice(&data.split_to(missing.min(data.len())));
                let Ok(head) = <[u8; HEAD]>::try_from(self.head.as_slice()) else {
                    return Ok(None);
                };
                self.head.clear();
                Part::begin(head, self.max, budget.charge())?
            }
        };
        part.take(data.split_to(part.missing.min(data.len())));
        if part.missing == 0 {
            return Ok(Some(part.whole()));
        }
        self.part = Some(part);
        Ok(None)
    }
}

impl Part {
    fn begin(head: [u8; HEAD], max: usize, charge: Charge) -> Result<Part, Error> {
        let (packed, missing) = coded::frame_head(head)?;
        if missing > max {
            return Err(Error::new(
                Code::TooLarge,
                format!("a message of {missing} bytes is larger than the limit of {max}"),
            ));
        }
        Ok(Part { packed, missing, first: Bytes::new(), rest: None, charge, refused: None })
    }

    fn take(&mut self, piece: Bytes) {
        self.missing -= piece.len();
        if self.refused.is_some() || piece.is_empty() {
            return;
        }
        if let Err(error) = self.charge.grow(piece.len()) {
            // Nobody keeps what nobody reads: the rest of the message goes by.
            self.refused = Some(error);
            (self.first, self.rest) = (Bytes::new(), None);
            return;
        }
        match &mut self.rest {
            Some(buffer) => body::extend(buffer, &piece, self.missing as u64),
            None if self.first.is_empty() => self.first = piece,
            None => {
                let mut buffer = BytesMut::from(&*mem::take(&mut self.first));
                body::extend(&mut buffer, &piece, self.missing as u64);
                self.rest = Some(buffer);
            }
        }
    }

    fn whole(self) -> Message {
        let bytes = match self.refused {
            Some(error) => Err(error),
            None => Ok(self.rest.map_or(self.first, BytesMut::freeze)),
        };
        Message { packed: self.packed, bytes, charge: self.charge }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let frame = |message: &Vec<u8>| {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&[0][..], &length, message].concat()
        };
        messages.iter().flat_map(frame).collect()
    }

    /// Feeds the pieces; every message that came of them.
    fn cut(frames: &mut Frames, pieces: &[&[u8]], budget: &Arc<Budget>) -> Vec<Message> {
        let mut all = Vec::new();
        for piece in pieces {
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(message) = frames.next(&mut data, budget).unwrap() {
                all.push(message);
            }
            assert!(data.is_empty(), "what belongs to no whole message is kept");
        }
        all
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_arrive(
            messages in vec(vec(any::<u8>(), 0..40), 0..8),
            cuts in vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let all = framed(&messages);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &all[w[0]..w[1]]).collect();
            let budget = Budget::new(1 << 20);
            let mut frames = Frames::new(100);
            let got = cut(&mut frames, &pieces, &budget);
            prop_assert!(!frames.begun());
            prop_assert_eq!(budget.used(), messages.iter().map(Vec::len).sum::<usize>());
            let got: Vec<Vec<u8>> = got.into_iter().map(|m| m.bytes.unwrap().to_vec()).collect();
            prop_assert_eq!(got, messages);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn what_the_budget_has_no_room_for_goes_by() {
        let budget = Budget::new(10);
        let all = framed(&[vec![1; 4], vec![2; 8], vec![3; 3]]);
        let mut frames = Frames::new(100);
        let got = cut(&mut frames, &[&all[..15], &all[15..]], &budget);
        let outcomes: Vec<_> = got.iter().map(|m| m.bytes.as_ref().map_err(|e| e.code)).collect();
        assert_eq!(outcomes[1], Err(Code::Overloaded));
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
        // The half that had come is not kept: its message holds nothing but its charge.
        drop(got);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_too_large_or_no_message_ends_the_call() {
        let budget = Budget::new(1000);
        let next = |bytes: &'static [u8]| {
            let mut data = Bytes::from_static(bytes);
            Frames::new(7).next(&mut data, &budget).map(|m| m.is_some()).map_err(|e| e.code)
        };
        assert_eq!(next(b"\0\0\0\0\x07abcdefg"), Ok(true));
        assert_eq!(next(b"\0\0\0\0\x07abc"), Ok(false));
        assert_eq!(next(b"\0\0\0\0\x08"), Err(Code::TooLarge));
        assert_eq!(next(b"\0\xff\xff\xff\xff"), Err(Code::TooLarge));
        assert_eq!(next(b"\x02\0\0\0\x01"), Err(Code::InvalidArgument));
    }
}
