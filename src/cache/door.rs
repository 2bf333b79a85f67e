//! Who knocks a second time: what a full store lets in, so that answers that nobody asks for again push nothing out and cost nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key::Key;

/// Marks of the last keys that knocked, each in the place that its bits say. A later key in the same place takes it over: what is
/// forgotten so knocks once more.
pub struct Door {
    /// Of a key the other half than the one that says its place; 0: nobody yet.
    marks: Box<[AtomicU64]>,
}

/// How many marks there are at least and at most: 8 KiB and 8 MiB of them.
const FEWEST: u64 = 1 << 10;
const MOST: u64 = 1 << 20;

impl Door {
    /// For a store that holds up to `answers`.
    pub fn new(answers: u64) -> Door {
        let places = answers.clamp(FEWEST, MOST).next_power_of_two();
        Door { marks: (0..places).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether `key` knocked before, of those that came by lately.
    pub fn knock(&self, key: Key) -> bool {
        let place = key as usize & (self.marks.len() - 1);
        // 1 in 2^64 is taken for its neighbour: it is let in one knock early.
        let mark = (key >> 64) as u64 | 1;
        self.marks[place].swap(mark, Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_second_knock_is_heard() {
        let door = Door::new(0);
        assert_eq!(door.marks.len() as u64, FEWEST);
        let (one, other) = (5 << 64 | 3, 7 << 64 | 3);
        assert!(!door.knock(one));
        assert!(door.knock(one));
        // One place, two keys.
        assert!(!door.knock(other));
        assert!(!door.knock(one));
        assert!(!door.knock(0), "a key of nothing but zeros is a key");
        assert!(door.knock(0));
    }

    proptest! {
        #[test]
        fn nobody_is_heard_who_has_not_knocked(keys in prop::collection::hash_set(any::<u128>(), 1..200)) {
            let door = Door::new(100);
            for key in &keys {
                prop_assert!(!door.knock(*key));
            }
        }
    }
}
