//! The entries of one queue, linked by shape bucket and rank. Pure; the order in which `queue` takes them.
//!
//! Entries lie in a slab and are linked per bucket and rank, so that any of them leaves in constant time. Two heaps
//! order buckets (rank, then oldest head) and deadlines; what left stays in them as a stale key until it comes to
//! the top or half of the heap is stale. Nothing allocates once the slab has grown to what usually waits.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use smallvec::SmallVec;

use super::queue::{Rank, Waiting};
use crate::types::time::Tick;

/// Entries that the slab can number.
pub const MOST: usize = u32::MAX as usize;
/// Slots that an emptied queue keeps allocated.
const KEEP_SLOTS: usize = 256;
const NIL: u32 = u32::MAX;

struct Slot<T> {
    seq: u64,
    prev: u32,
    next: u32,
    bucket: u32,
    waiting: Option<Waiting<T>>,
}

/// The entries of one bucket and rank, oldest first.
struct Line {
    rank: Rank,
    head: u32,
    tail: u32,
}

struct Bucket {
    hash: u64,
    /// Places in a batch that its entries take.
    places: usize,
    /// Highest rank first; none is empty.
    lines: SmallVec<[Line; 1]>,
    /// Rank and number of the first entry; `None` while the bucket is not in use.
    key: Option<(Rank, u64)>,
}

/// What waits of one rank.
#[derive(Clone, Copy, Default)]
pub struct Level {
    pub rank: Rank,
    pub requests: usize,
    pub places: usize,
    pub bytes: usize,
}

/// Entries in their lines.
pub struct Lines<T> {
    slots: Vec<Slot<T>>,
    free_slots: Vec<u32>,
    buckets: Vec<Bucket>,
    free_buckets: Vec<u32>,
    by_hash: HashMap<u64, u32, foldhash::fast::FixedState>,
    /// (rank, oldest first, bucket)
    order: BinaryHeap<(Rank, Reverse<u64>, u32)>,
    /// (earliest first, number, slot)
    deadlines: BinaryHeap<Reverse<(Tick, u64, u32)>>,
    next_seq: u64,
    /// One for each rank that waits, in no order; nearly always one.
    levels: SmallVec<[Level; 2]>,
    len: usize,
    bytes: usize,
    places: usize,
}

/// A bucket, for choosing one.
pub struct Candidate {
    pub bucket: u32,
    /// Rank, then age: the larger comes first.
    pub rank: (Rank, Reverse<u64>),
    /// When the oldest of its entries was queued.
    pub oldest: Tick,
    pub places: usize,
}

impl<T> Lines<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Places in a batch that all entries take: their rows, or one for an entry of none.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The entry of this bucket that is next.
    pub fn head(&self, bucket: u32) -> Option<(u32, &Waiting<T>)> {
        let head = self.buckets.get(bucket as usize)?.lines.first()?.head;
        Some((head, self.slots[head as usize].waiting.as_ref()?))
    }

    pub fn bucket_of(&self, slot: u32) -> u32 {
        self.slots[slot as usize].bucket
    }

    /// What waits by rank, in no order.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The entry that came first of all, whatever its priority.
    pub fn oldest(&self) -> Option<u32> {
        let heads = self.lines().map(|line| line.head);
        heads.min_by_key(|slot| self.slots[*slot as usize].seq)
    }

    /// The entry that came last of this rank.
    pub fn newest(&self, rank: Rank) -> Option<u32> {
        let tails = self.lines().filter(|l| l.rank == rank).map(|line| line.tail);
        tails.max_by_key(|slot| self.slots[*slot as usize].seq)
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.buckets.iter().filter(|b| b.key.is_some()).flat_map(|b| &b.lines)
    }

    /// Every bucket that holds something, in no order.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.buckets.iter().enumerate().filter_map(|(at, bucket)| {
            let (first, seq) = bucket.key?;
            let enqueued = |l: &Line| Some(self.slots[l.head as usize].waiting.as_ref()?.enqueued);
            let oldest = bucket.lines.iter().filter_map(enqueued).min()?;
            let rank = (first, Reverse(seq));
            Some(Candidate { bucket: at as u32, rank, oldest, places: bucket.places })
        })
    }

    /// Places in use and free: `get` knows which.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn get(&self, slot: u32) -> Option<&Waiting<T>> {
        self.slots.get(slot as usize)?.waiting.as_ref()
    }

    /// Keys in the heaps, stale ones among them, and slots.
    #[cfg(test)]
    pub fn footprint(&self) -> (usize, usize) {
        (self.order.len() + self.deadlines.len(), self.slots.len())
    }

    /// Takes out everything, oldest first.
    pub fn drain(&mut self) -> Vec<T> {
        let slots = std::mem::take(self).slots;
        let mut left: Vec<(u64, T)> =
            slots.into_iter().filter_map(|s| Some((s.seq, s.waiting?.item))).collect();
        left.sort_by_key(|(seq, _)| *seq);
        left.into_iter().map(|(_, item)| item).collect()
    }

    /// Adds an entry behind those of its bucket and rank.
    pub fn insert(&mut self, waiting: Waiting<T>) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.len += 1;
        self.bytes += waiting.bytes;
        let places = waiting.rows.max(1);
        self.places = self.places.saturating_add(places);
        let (deadline, rank) = (waiting.deadline, waiting.rank());
        let level = self.level(rank);
        level.requests += 1;
        level.places = level.places.saturating_add(places);
        level.bytes += waiting.bytes;

        let bucket = self.bucket(waiting.bucket);
        let slot = Slot { seq, prev: NIL, next: NIL, bucket, waiting: Some(waiting) };
        let at = match self.free_slots.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        if let Some(deadline) = deadline {
            self.deadlines.push(Reverse((deadline, seq, at)));
            if self.deadlines.len() > 2 * self.len + 64 {
                let slots = &self.slots;
                self.deadlines.retain(|Reverse((_, seq, at))| live(slots, *at, *seq));
            }
        }

        let entry = &mut self.buckets[bucket as usize];
        entry.places = entry.places.saturating_add(places);
        match entry.lines.iter_mut().find(|l| l.rank <= rank) {
            Some(line) if line.rank == rank => {
                self.slots[line.tail as usize].next = at;
                self.slots[at as usize].prev = line.tail;
                line.tail = at;
            }
            _ => {
                let place = entry.lines.partition_point(|l| l.rank > rank);
                entry.lines.insert(place, Line { rank, head: at, tail: at });
            }
        }
        self.settle(bucket);
    }

    fn level(&mut self, rank: Rank) -> &mut Level {
        let at = self.levels.iter().position(|level| level.rank == rank);
        let at = at.unwrap_or_else(|| {
            self.levels.push(Level { rank, ..Level::default() });
            self.levels.len() - 1
        });
        &mut self.levels[at]
    }

    /// The bucket of this hash, made where there is none; `settle` enters it into the order.
    fn bucket(&mut self, hash: u64) -> u32 {
        if let Some(&bucket) = self.by_hash.get(&hash) {
            return bucket;
        }
        let fresh = Bucket { hash, places: 0, lines: SmallVec::new(), key: None };
        let at = match self.free_buckets.pop() {
            Some(at) => {
                self.buckets[at as usize] = fresh;
                at
            }
            None => {
                self.buckets.push(fresh);
                (self.buckets.len() - 1) as u32
            }
        };
        self.by_hash.insert(hash, at);
        at
    }

    /// The bucket in use that comes first.
    pub fn first(&mut self) -> Option<u32> {
        while let Some(&(rank, Reverse(seq), at)) = self.order.peek() {
            if self.buckets.get(at as usize).is_some_and(|b| b.key == Some((rank, seq))) {
                return Some(at);
            }
            self.order.pop();
        }
        None
    }

    /// The earliest deadline, and whose it is.
    pub fn earliest(&mut self) -> Option<(Tick, u32)> {
        while let Some(&Reverse((deadline, seq, at))) = self.deadlines.peek() {
            if live(&self.slots, at, seq) {
                return Some((deadline, at));
            }
            self.deadlines.pop();
        }
        None
    }

    /// Gives the entry of the earliest deadline a later one, or none.
    pub fn postpone(&mut self, at: u32, deadline: Option<Tick>) {
        self.deadlines.pop();
        let Some(slot) = self.slots.get_mut(at as usize) else { return };
        let Some(waiting) = &mut slot.waiting else { return };
        waiting.deadline = deadline;
        if let Some(deadline) = deadline {
            self.deadlines.push(Reverse((deadline, slot.seq, at)));
        }
    }

    /// Takes an entry out of its line; `settle` must follow for its bucket.
    pub fn unlink(&mut self, at: u32) -> Option<Waiting<T>> {
        let slot = self.slots.get_mut(at as usize)?;
        let waiting = slot.waiting.take()?;
        let (prev, next, bucket) = (slot.prev, slot.next, slot.bucket);
        self.free_slots.push(at);
        if prev != NIL {
            self.slots[prev as usize].next = next;
        }
        if next != NIL {
            self.slots[next as usize].prev = prev;
        }
        let places = waiting.rows.max(1);
        let bucket = &mut self.buckets[bucket as usize];
        bucket.places = bucket.places.saturating_sub(places);
        if let Some(i) = bucket.lines.iter().position(|l| l.rank == waiting.rank()) {
            let line = &mut bucket.lines[i];
            if prev == NIL {
                line.head = next;
            }
            if next == NIL {
                line.tail = prev;
            }
            if line.head == NIL {
                bucket.lines.remove(i);
            }
        }
        self.len -= 1;
        self.bytes -= waiting.bytes;
        self.places = self.places.saturating_sub(places);
        let level = self.level(waiting.rank());
        level.requests -= 1;
        level.places = level.places.saturating_sub(places);
        level.bytes -= waiting.bytes;
        if level.requests == 0 {
            self.levels.retain(|level| level.requests > 0);
        }
        Some(waiting)
    }

    /// Brings the order up to date after entries of a bucket came or went.
    pub fn settle(&mut self, at: u32) {
        let bucket = &mut self.buckets[at as usize];
        let key = bucket.lines.first().map(|l| (l.rank, self.slots[l.head as usize].seq));
        match key {
            None => {
                bucket.key = None;
                self.by_hash.remove(&bucket.hash);
                self.free_buckets.push(at);
            }
            Some((rank, seq)) if bucket.key != key => {
                bucket.key = key;
                self.order.push((rank, Reverse(seq), at));
                if self.order.len() > 2 * self.buckets.len() + 64 {
                    let buckets = &self.buckets;
                    self.order.retain(|(rank, Reverse(seq), at)| {
                        buckets[*at as usize].key == Some((*rank, *seq))
                    });
                }
            }
            Some(_) => {}
        }
        if self.len == 0 {
            self.reset();
        }
    }

    /// An empty queue forgets its stale keys, and gives back what a burst made it allocate.
    fn reset(&mut self) {
        self.order.clear();
        self.deadlines.clear();
        self.places = 0;
        if self.slots.len() > KEEP_SLOTS {
            *self = Lines { next_seq: self.next_seq, ..Lines::default() };
        }
    }
}

fn live<T>(slots: &[Slot<T>], at: u32, seq: u64) -> bool {
    slots.get(at as usize).is_some_and(|s| s.seq == seq && s.waiting.is_some())
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Lines {
            slots: Vec::new(),
            free_slots: Vec::new(),
            buckets: Vec::new(),
            free_buckets: Vec::new(),
            by_hash: HashMap::default(),
            order: BinaryHeap::new(),
            deadlines: BinaryHeap::new(),
            next_seq: 0,
            levels: SmallVec::new(),
            len: 0,
            bytes: 0,
            places: 0,
        }
    }
}
