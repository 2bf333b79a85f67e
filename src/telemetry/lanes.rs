//! Counters that threads write without sharing: each recording thread has a lane of its own, a reader adds the lanes up.
//!
//! Why not one atomic per counter: about fifteen numbers change with every request, and two network threads that
//! change the same cache lines cost each other more than the counting. Why not the histograms of a metrics exporter:
//! they keep every sample until somebody collects it, allocate while they record, and need upkeep by a clock.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Lanes there are. Threads beyond this many share the last one.
const LANES: usize = 32;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's lane, taken when it first records.
    static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Who may write a lane: its one thread (plain additions), or several (atomic additions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    Own,
    Shared,
}

/// A number that wraps; differences of two threads' lanes add up to the right sum, below zero on the way too.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    pub fn add(&self, amount: u64, writer: Writer) {
        match writer {
            // Invariant: only this thread writes here, so that nothing is lost between the load and the store.
            Writer::Own => {
                self.0
                    .store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
            }
            Writer::Shared => {
                self.0.fetch_add(amount, Ordering::Relaxed);
            }
        }
    }

    pub fn subtract(&self, amount: u64, writer: Writer) {
        self.add(amount.wrapping_neg(), writer);
    }

    /// Keeps the larger of what is there and `value`.
    pub fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One `T` a recording thread, made when that thread first writes: a version that nobody calls costs a few pointers.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: [OnceLock<Box<T>>; LANES],
}

impl<T: Default> Default for Lanes<T> {
    fn default() -> Self {
        Lanes { lanes: [const { OnceLock::new() }; LANES] }
    }
}

impl<T: Default> Lanes<T> {
    /// This thread's lane, and how it is to be written.
    pub fn mine(&self) -> (&T, Writer) {
        let index = LANE.with(|lane| match lane.get() {
            usize::MAX => {
                let taken = THREADS.fetch_add(1, Ordering::Relaxed).min(LANES - 1);
                lane.set(taken);
                taken
            }
            taken => taken,
        });
        let writer = if index == LANES - 1 { Writer::Shared } else { Writer::Own };
        (self.lanes[index].get_or_init(Box::default), writer)
    }

    /// The lanes written so far.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().filter_map(OnceLock::get).map(|lane| &**lane)
    }

    /// The sum of one number over all lanes.
    pub fn sum(&self, number: impl Fn(&T) -> &Number) -> u64 {
        self.iter().fold(0, |sum, lane| sum.wrapping_add(number(lane).get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_with_more_threads_than_lanes() {
        let lanes: Lanes<Number> = Lanes::default();
        std::thread::scope(|scope| {
            for _ in 0..LANES + 8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let (number, writer) = lanes.mine();
                        number.add(3, writer);
                        number.subtract(1, writer);
                    }
                });
            }
        });
        assert_eq!(lanes.sum(|n| n), (LANES as u64 + 8) * 2000);
    }

    #[test]
    fn a_gauge_may_go_up_on_one_thread_and_down_on_another() {
        let lanes: Lanes<Number> = Lanes::default();
        let write = |change: i64| {
            let (number, writer) = lanes.mine();
            number.add(change as u64, writer);
        };
        std::thread::scope(|scope| scope.spawn(|| write(5)).join().expect("no panic"));
        write(-3);
        assert_eq!(lanes.sum(|n| n), 2);
    }
}
