//! The one memory budget of requests: bodies, what is made out of them, and answers until they are written.
//!
//! The charge travels with what it pays for: large bytes own theirs (`Charge::hold`), so that it ends where the last of
//! those who share them does, be that a queue, a run or a slow reader's connection. What is small (`SMALL`) is charged
//! for its body alone, by whoever reads it: one addition and one subtraction a request.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::types::{
    error::Error,
    request::{InferRequest, InferResponse},
};

/// How short memory is. Each level does what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Normal,
    /// HTTP/1.1 connections end after their answer: their buffers have grown with what went through them, and are not in
    /// the budget.
    Shrink,
    /// Bodies that are large, or become so, are refused; small ones, and what is under way, have the rest.
    Shed,
    /// No new body is taken.
    Refuse,
}

impl Level {
    const ALL: [Level; 4] = [Level::Normal, Level::Shrink, Level::Shed, Level::Refuse];

    /// Per cent of the limit from which on a level holds. Far enough apart that each has time to work.
    const fn percent(self) -> usize {
        [0, 75, 85, 95][self as usize]
    }

    /// Per cent below its mark at which a level ends, so that it does not come and go with every request.
    const GAP: usize = 5;

    /// The level at `used` of `limit`, after this one.
    pub fn next(self, used: usize, limit: usize) -> Level {
        let reaches = |level: Level, gap| {
            let mark = limit as u128 * (level.percent().saturating_sub(gap)) as u128;
            used as u128 * 100 >= mark
        };
        let levels = Level::ALL.into_iter().rev();
        levels
            .into_iter()
            .find(|&level| reaches(level, 0) || level <= self && reaches(level, Level::GAP))
            .unwrap_or(Level::Normal)
    }

    /// Whether a body that holds `held` bytes may take `more`.
    pub fn admits(self, held: usize, more: usize, limit: usize) -> bool {
        // A 256th is 4 MiB of the default.
        let large = limit / 256;
        match self {
            Level::Normal | Level::Shrink => true,
            Level::Shed => held > large || held.saturating_add(more) <= large,
            Level::Refuse => held > 0 && Level::Shed.admits(held, more, limit),
        }
    }
}

/// Bytes that all requests under way may hold together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    /// A `Level`.
    level: AtomicU8,
    limit: usize,
}

/// What one request holds of the budget; given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            used: AtomicUsize::new(0),
            level: AtomicU8::new(Level::Normal as u8),
            limit,
        })
    }

    /// An empty charge, to grow as bytes arrive.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn level(&self) -> Level {
        let level = usize::from(self.level.load(Ordering::Relaxed));
        Level::ALL.get(level).copied().unwrap_or(Level::Refuse)
    }

    /// Takes so much if there is room.
    fn take(&self, bytes: usize) -> Result<(), Error> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(self.full());
        }
        self.settle(used);
        Ok(())
    }

    fn give(&self, bytes: usize) {
        if bytes > 0 {
            let used = self.used.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
            self.settle(used);
        }
    }

    /// Follows with the level. Of two threads that differ the next change settles it.
    fn settle(&self, used: usize) {
        let before = self.level();
        // Most of the time there is nothing to compute.
        if before == Level::Normal && used < self.limit / 2 {
            return;
        }
        let next = before.next(used, self.limit);
        if next != before {
            self.level.store(next as u8, Ordering::Relaxed);
            tracing::warn!(used, limit = self.limit, "memory for requests: {before:?} -> {next:?}");
        }
    }

    #[cold]
    fn full(&self) -> Error {
        Error::overloaded(
            format!("the requests under way hold all of their {} bytes", self.limit),
            Duration::from_secs(1),
        )
    }

    /// Charges what a decoder made out of a request, for as long as its tensors live. `body`: what they may share instead.
    pub fn decoded(
        self: &Arc<Self>,
        request: &mut InferRequest,
        body: &Bytes,
    ) -> Result<(), Error> {
        let within = body.as_ptr_range();
        let made = |data: &Bytes| data.len() > SMALL && !within.contains(&data.as_ptr());
        self.hold_all(request.inputs.iter_mut().map(|input| &mut input.data).filter(|d| made(d)))
    }

    /// Charges the outputs of an answer until they have been written.
    pub fn outputs(self: &Arc<Self>, response: &mut InferResponse) -> Result<(), Error> {
        let outputs = response.outputs.iter_mut().map(|output| &mut output.tensor.data);
        self.hold_all(outputs.filter(|data| data.len() > SMALL))
    }

    /// Charges what was made to be sent, until it has been.
    pub fn written(self: &Arc<Self>, mut bytes: Bytes) -> Result<Bytes, Error> {
        self.hold_all(Some(&mut bytes).into_iter().filter(|bytes| bytes.len() > SMALL))?;
        Ok(bytes)
    }

    fn hold_all<'a>(
        self: &Arc<Self>,
        tensors: impl Iterator<Item = &'a mut Bytes>,
    ) -> Result<(), Error> {
        for data in tensors {
            let mut charge = self.charge();
            charge.add(data.len())?;
            *data = charge.hold(mem::take(data));
        }
        Ok(())
    }
}

impl Charge {
    /// Takes more for a body that comes in; `Overloaded` where memory is short.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        if !self.budget.level().admits(self.bytes, bytes, self.budget.limit) {
            return Err(self.budget.full());
        }
        self.add(bytes)
    }

    /// Takes more for what is under way, which ends the sooner for it; `Overloaded` where nothing is left.
    pub fn add(&mut self, bytes: usize) -> Result<(), Error> {
        self.budget.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back what is not needed any more.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give(bytes);
    }

    /// Parts with so much of it, which pays for something that goes its own way.
    pub fn split(&mut self, bytes: usize) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { budget: self.budget.clone(), bytes }
    }

    /// Lets the whole charge go along with a body, where that is large; else it stays here.
    pub fn go_with(&mut self, body: Bytes) -> Bytes {
        if body.len() <= SMALL { body } else { self.split(self.bytes).hold(body) }
    }

    /// Ties the charge to the bytes it pays for: it ends when the last of those who share them drops. What is small goes
    /// uncharged from here, since this takes an allocation.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.len() <= SMALL {
            return bytes;
        }
        Bytes::from_owner(Held { bytes, _charge: self })
    }
}

/// Bytes up to this are not worth an owner of their own.
const SMALL: usize = 16 << 10;

struct Held {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_budget_refuses_what_does_not_fit_and_gets_it_back() {
        let budget = Budget::new(100);
        let mut a = budget.charge();
        a.grow(80).expect("room");
        let mut b = budget.charge();
        let refused = b.grow(30).expect_err("no room");
        assert!(refused.retry_after.is_some());
        drop(a);
        b.grow(30).expect("room again");
        assert_eq!(budget.used(), 30);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn charges_go_with_bytes_and_end_with_the_last_of_them() {
        let budget = Budget::new(1 << 20);
        let mut charge = budget.charge();
        charge.grow(100_000).expect("room");
        let body = charge.go_with(Bytes::from(vec![0; 90_000]));
        drop(charge);
        let part = body.slice(10..20);
        drop(body);
        assert_eq!(budget.used(), 100_000);
        drop(part);
        assert_eq!(budget.used(), 0);
        // What is small stays with its reader.
        let mut charge = budget.charge();
        charge.grow(100).expect("room");
        let body = charge.go_with(Bytes::from(vec![0; 100]));
        drop(charge);
        assert_eq!((budget.used(), body.len()), (0, 100));
    }

    #[test]
    fn large_bodies_are_refused_before_small_ones_and_what_is_under_way_goes_on() {
        let budget = Budget::new(256_000);
        let mut large = budget.charge();
        large.grow(220_000).expect("room");
        assert_eq!(budget.level(), Level::Shed);
        let mut other = budget.charge();
        other.grow(1001).expect_err("large");
        other.grow(1000).expect("small");
        other.grow(1).expect_err("it becomes large");
        large.grow(24_000).expect("it is large already");
        assert_eq!(budget.level(), Level::Refuse);
        budget.charge().grow(1).expect_err("nothing new");
        large.grow(5000).expect("it has begun");
        budget.charge().add(5000).expect("an answer");
        budget.charge().add(6001).expect_err("no room");
        drop(large);
        assert_eq!(budget.level(), Level::Normal);
    }

    proptest! {
        /// Whatever came before: at and above its mark a level holds, a gap below it has ended, and in between it stays.
        #[test]
        fn levels_follow_their_marks(steps in prop::collection::vec(0usize..=1000, 1..50), limit in 1000usize..=usize::MAX / 2000) {
            let mut level = Level::Normal;
            for used in steps.into_iter().map(|thousandths| limit / 1000 * thousandths) {
                let next = level.next(used, limit);
                let share = used as f64 / limit as f64 * 100.0;
                let mark = next.percent() as f64;
                let low = if next > level { mark } else { (mark - 5.0).max(0.0) };
                prop_assert!(share >= low - 1e-6);
                if let Some(above) = Level::ALL.get(next as usize + 1) {
                    let gap = if *above <= level { 5.0 } else { 0.0 };
                    prop_assert!(share < above.percent() as f64 - gap + 0.2);
                }
                prop_assert_eq!(next.next(used, limit), next, "it is settled at once");
                level = next;
            }
        }

        /// What a level refuses, the one above refuses too; what is under way and large is never refused.
        #[test]
        fn levels_only_get_stricter(held in 0usize..10_000, more in 0usize..10_000) {
            let admits = Level::ALL.map(|level| level.admits(held, more, 256 * 1000));
            prop_assert!(admits.is_sorted_by(|a, b| a >= b));
            prop_assert!(held <= 1000 || admits[3]);
        }
    }
}
