//! How an answer leaves: one buffer for all that is small, the large tensors between its pieces, uncopied.

use bytes::Bytes;
use smallvec::SmallVec;

/// So many bytes of tensors, all together, are copied beside the head: below it a copy is cheaper than another chunk.
const INLINE: usize = 16 * 1024;

/// Decides tensor after tensor which are copied; asked twice in the same order, it answers the same.
#[derive(Default)]
pub struct Inline(usize);

impl Inline {
    /// Whether a tensor of that many bytes is copied.
    pub fn takes(&mut self, len: usize) -> bool {
        // Saturating, so that no length can wrap into "small".
        let fits = self.0.saturating_add(len) < INLINE;
        if fits {
            self.0 += len;
        }
        fits
    }
}

/// Large tensors, each with the offset in the head at which it goes in; offsets never decrease.
pub type Cuts = SmallVec<[(usize, Bytes); 2]>;

/// The chunks to write in order; none is empty.
pub fn weave(head: Bytes, cuts: Cuts) -> SmallVec<[Bytes; 4]> {
    let mut chunks = SmallVec::new();
    let mut from = 0;
    for (at, tensor) in cuts {
        if at > from {
            chunks.push(head.slice(from..at));
            from = at;
        }
        chunks.push(tensor);
    }
    if from == 0 {
        chunks.push(head);
    } else if from < head.len() {
        chunks.push(head.slice(from..));
    }
    chunks
}
