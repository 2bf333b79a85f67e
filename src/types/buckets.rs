//! The 10,000 buckets that a model's requests fall into, and whose they are: what an arm has it keeps while its weight stays.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// So many buckets: a hundredth of a per cent each.
pub const BUCKETS: usize = 10_000;

/// A set of buckets, as ranges in ascending order that do not touch. Written as in `0-999,4500`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets(Vec<(u16, u16)>);

impl Buckets {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// From numbers in ascending order.
    fn of(numbers: impl Iterator<Item = u16>) -> Buckets {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        Buckets(ranges)
    }

    fn read(text: &str) -> Option<Buckets> {
        let mut numbers = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first > last || usize::from(last) >= BUCKETS {
                return None;
            }
            numbers.extend(first..=last);
        }
        numbers.is_sorted_by(|a, b| a < b).then(|| Buckets::of(numbers.into_iter()))
    }
}

impl fmt::Display for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Buckets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Buckets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Buckets::read(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "expected buckets in ascending order below {BUCKETS}, as in \"0-999,4500\", got \"{}\"",
                text.escape_debug()
            ))
        })
    }
}

/// Gives each arm as many buckets as it wants, of those that it has first. Nobody else's move.
///
/// # Errors
/// Two arms, by their places, that both have a bucket, and which.
pub fn assign(arms: &[(usize, &Buckets)]) -> Result<Vec<Buckets>, (usize, usize, u16)> {
    let mut owner = vec![None; BUCKETS];
    for (arm, (wanted, had)) in arms.iter().enumerate() {
        for (count, bucket) in had.iter().enumerate() {
            let place = &mut owner[usize::from(bucket)];
            if let Some((other, _)) = *place {
                return Err((other, arm, bucket));
            }
            *place = Some((arm, count < *wanted));
        }
    }
    // What an arm gives up is free for the others.
    let mut owner: Vec<Option<usize>> = owner
        .into_iter()
        .map(|place| place.filter(|(_, kept)| *kept).map(|(arm, _)| arm))
        .collect();
    let mut free =
        (0..BUCKETS).filter(|bucket| owner[*bucket].is_none()).collect::<Vec<_>>().into_iter();
    for (arm, (wanted, had)) in arms.iter().enumerate() {
        for bucket in free.by_ref().take(wanted.saturating_sub(had.len())) {
            owner[bucket] = Some(arm);
        }
    }
    let of = |arm| {
        let own = owner.iter().enumerate().filter(move |(_, owner)| **owner == Some(arm));
        Buckets::of(own.map(|(bucket, _)| bucket as u16))
    };
    Ok((0..arms.len()).map(of).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn set(buckets: &Buckets) -> BTreeSet<u16> {
        buckets.iter().collect()
    }

    /// Weights of four arms that leave something, or nothing, to the primary.
    fn weights() -> impl Strategy<Value = Vec<usize>> {
        vec(0usize..=BUCKETS / 4, 4)
    }

    proptest! {
        /// Whatever the weights were before: everybody has what they want, nobody has what another has, an arm whose weight stays
        /// keeps each of its buckets, and of the others only as many move as must.
        #[test]
        fn only_what_must_moves(before in weights(), after in weights()) {
            let none = Buckets::default();
            let first = assign(&before.iter().map(|w| (*w, &none)).collect::<Vec<_>>()).unwrap();
            let wanted: Vec<(usize, &Buckets)> = after.iter().copied().zip(&first).collect();
            let then = assign(&wanted).unwrap();
            let mut all: BTreeSet<u16> = BTreeSet::new();
            for (((w, v), old), new) in before.iter().zip(&after).zip(&first).zip(&then) {
                prop_assert_eq!(new.len(), *v);
                let (old, new) = (set(old), set(new));
                all.extend(&new);
                let stays = old.intersection(&new).count();
                prop_assert_eq!(stays, *w.min(v), "an arm keeps all it can");
            }
            prop_assert_eq!(all.len(), after.iter().sum::<usize>());
            // The same file gives the same on every replica, and nothing moves where nothing changed.
            let again: Vec<(usize, &Buckets)> = after.iter().copied().zip(&then).collect();
            prop_assert_eq!(assign(&again).unwrap(), then);
        }

        #[test]
        fn what_is_written_is_read(numbers in proptest::collection::btree_set(0u16..BUCKETS as u16, 0..300)) {
            let buckets = Buckets::of(numbers.iter().copied());
            prop_assert_eq!(set(&buckets), numbers);
            prop_assert_eq!(Buckets::read(&buckets.to_string()), Some(buckets));
        }
    }

    #[test]
    fn what_is_no_set_of_buckets_is_refused() {
        for text in ["a", "3-1", "5,4", "5,5", "10000", "0-10000", "-", "1-", "1--2"] {
            assert_eq!(Buckets::read(text), None, "{text}");
        }
        assert_eq!(Buckets::read("0-3,7").unwrap().len(), 5);
        let (a, b) = (Buckets::read("0-9").unwrap(), Buckets::read("9").unwrap());
        assert_eq!(assign(&[(10, &a), (1, &b)]), Err((0, 1, 9)));
    }
}
