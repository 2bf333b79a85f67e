//! What is asked before the table of answers: which keys are certainly not in it, and which knock a second time, so that answers
//! that nobody asks for again cost next to nothing and push nothing out. Both are told by one cache line a key.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::key::Key;

/// A line for each `ANSWERS` that a store may hold.
pub struct Door {
    lines: Box<[Line]>,
}

/// What is known of the keys whose bits say this line.
#[derive(Default)]
#[repr(align(64))]
struct Line {
    /// Parts of the last keys that knocked, each in the place that its bits say; 0: nobody yet. A later key in the same place
    /// takes it over: what is forgotten so knocks once more.
    marks: [AtomicU32; 8],
    /// How many of the keys that are kept live in each of 64 places, in four bits each. A place that nobody lives in answers for
    /// all keys that would live there.
    counts: [AtomicU64; 4],
}

/// At most one key in eight that is not kept finds somebody in its place.
const ANSWERS: u64 = 8;

/// How many lines there are at least and at most: 8 KiB and 8 MiB of them. A store of more answers than that is right as well,
/// and looks into its table more often.
const FEWEST: u64 = 1 << 7;
const MOST: u64 = 1 << 17;

/// A place with so many stays one with so many: its count is no longer known.
const CROWDED: u64 = 15;

/// One key's part of its place's count; to be dropped with the answer that is kept under it.
pub struct Resident {
    door: Arc<Door>,
    key: Key,
}

impl Door {
    /// For a store that holds up to `answers`.
    pub fn new(answers: u64) -> Arc<Door> {
        let lines = (answers / ANSWERS).clamp(FEWEST, MOST).next_power_of_two();
        Arc::new(Door { lines: (0..lines).map(|_| Line::default()).collect() })
    }

    fn line(&self, key: Key) -> &Line {
        &self.lines[(key >> 32) as usize & (self.lines.len() - 1)]
    }

    /// Whether `key` knocked before, of those that came by lately.
    pub fn knock(&self, key: Key) -> bool {
        // 1 in 2^31 is taken for its neighbour: it is let in one knock early.
        let mark = (key >> 64) as u32 | 1;
        self.line(key).marks[key as usize & 7].swap(mark, Ordering::Relaxed) == mark
    }

    /// Whether `key` may be kept. True of every key that is: it is counted before its answer is put in, and until that is
    /// dropped. Whoever must see another thread's answer has synchronized with it otherwise.
    pub fn may_hold(&self, key: Key) -> bool {
        let (counts, shift) = self.place(key);
        counts.load(Ordering::Relaxed) >> shift & CROWDED > 0
    }

    /// Counts `key` as one that is kept.
    pub fn enter(self: &Arc<Door>, key: Key) -> Resident {
        self.count(key, |counts, one| counts + one);
        Resident { door: self.clone(), key }
    }

    /// Where the count of `key`'s place is, and from which bit on.
    fn place(&self, key: Key) -> (&AtomicU64, u32) {
        let place = key as u32 >> 3 & 63;
        (&self.line(key).counts[place as usize / 16], place % 16 * 4)
    }

    fn count(&self, key: Key, change: fn(u64, u64) -> u64) {
        let (counts, shift) = self.place(key);
        let changed =
            |all: u64| (all >> shift & CROWDED != CROWDED).then(|| change(all, 1 << shift));
        // Refused where the place is crowded, which it stays.
        let _ = counts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.door.count(self.key, |counts, one| counts - one);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_second_knock_is_heard() {
        let door = Door::new(0);
        assert_eq!((door.lines.len() as u64, size_of::<Line>()), (FEWEST, 64));
        let (one, other) = (5 << 64 | 3, 7 << 64 | 3);
        assert!(!door.knock(one));
        assert!(door.knock(one));
        // One place, two keys.
        assert!(!door.knock(other));
        assert!(!door.knock(one));
        assert!(!door.knock(0), "a key of nothing but zeros is a key");
        assert!(door.knock(0));
    }

    #[test]
    fn a_crowded_place_is_never_empty_again() {
        let door = Door::new(0);
        let enter = |key, count| -> Vec<Resident> { (0..count).map(|_| door.enter(key)).collect() };
        drop(enter(0, 14));
        assert!(!door.may_hold(0));
        drop(enter(0, 15));
        assert!(door.may_hold(0));
        // Its neighbour in the same word knows nothing of that.
        assert!(!door.may_hold(1 << 3));
        let residents = enter(0, 100);
        assert!(!door.may_hold(1 << 3));
        drop(residents);
        assert!(door.may_hold(0));
    }

    proptest! {
        #[test]
        fn nobody_is_heard_who_has_not_knocked(keys in prop::collection::hash_set(any::<u128>(), 1..200)) {
            let door = Door::new(100);
            for key in &keys {
                prop_assert!(!door.knock(*key));
            }
        }

        #[test]
        fn whoever_is_kept_is_never_denied(
            steps in prop::collection::vec((any::<bool>(), 0u128..80), 1..400),
        ) {
            let door = Door::new(0);
            let mut residents: BTreeMap<u128, Vec<Resident>> = BTreeMap::new();
            for (enters, key) in steps {
                // Two keys a place, and all in two lines. Less than a place may count.
                let key = key << 2 | (key >> 1 & 1) << 32;
                let here = residents.entry(key).or_default();
                match enters && here.len() < 7 {
                    true => here.push(door.enter(key)),
                    false => drop(here.pop()),
                }
                for (key, here) in &residents {
                    prop_assert!(here.is_empty() || door.may_hold(*key));
                }
            }
            let keys: Vec<u128> = residents.keys().copied().collect();
            drop(residents);
            prop_assert!(keys.iter().all(|key| !door.may_hold(*key)), "nobody is left");
        }
    }
}
