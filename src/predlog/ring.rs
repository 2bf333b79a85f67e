//! Where rows wait to be written, and the account of them: bounded, and nothing that a request waits for.
//!
//! Why lanes: a thread that answers requests has one of its own, which it shares with nobody but the writer, who takes what is in
//! it out at one stroke. A request never waits for another, nor for a disk.
//! Invariant: received = written + dropped + in flight, at every moment. Each of the four is counted where it happens; `account`
//! reads them under all locks at once.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use super::record::Record;
use crate::telemetry::predictions::{Account, Reason};

const LANES: usize = 8;

/// What rows of all models hold together.
#[derive(Debug)]
pub struct Memory {
    bytes: AtomicUsize,
    most: usize,
}

impl Memory {
    pub fn new(most: usize) -> Arc<Memory> {
        Arc::new(Memory { bytes: AtomicUsize::new(0), most })
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The rows of one model.
pub struct Ring {
    lanes: Box<[CachePadded<Mutex<Lane>>]>,
    settled: Mutex<Settled>,
    bytes: AtomicUsize,
    most: AtomicUsize,
    memory: Arc<Memory>,
}

#[derive(Default)]
struct Lane {
    queue: Vec<Record>,
    /// Rows in it.
    waiting: u64,
    received: u64,
    dropped: [u64; Reason::ALL.len()],
}

#[derive(Default)]
struct Settled {
    /// Rows that the writer has taken and not settled.
    taken: u64,
    written: u64,
    dropped: [u64; Reason::ALL.len()],
}

impl Ring {
    pub fn new(most: usize, memory: Arc<Memory>) -> Ring {
        Ring {
            lanes: (0..LANES).map(|_| CachePadded::default()).collect(),
            settled: Mutex::default(),
            bytes: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            memory,
        }
    }

    /// From now on it may hold so many bytes.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Bytes of rows that are not written yet.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the writer had better come at once.
    pub fn presses(&self) -> bool {
        self.bytes() > self.most.load(Ordering::Relaxed) / 2
    }

    /// Takes room for a record of this charge, which `put` must follow.
    ///
    /// # Errors
    /// What was full; nothing is counted.
    pub fn reserve(&self, charge: usize) -> Result<(), Reason> {
        let held = self.bytes.fetch_add(charge, Ordering::Relaxed).saturating_add(charge);
        if held > self.most.load(Ordering::Relaxed) {
            self.bytes.fetch_sub(charge, Ordering::Relaxed);
            return Err(Reason::Full);
        }
        let all = self.memory.bytes.fetch_add(charge, Ordering::Relaxed).saturating_add(charge);
        if all > self.memory.most {
            self.release(charge);
            return Err(Reason::Memory);
        }
        Ok(())
    }

    /// Puts a record in, for which there is room.
    pub fn put(&self, record: Record) {
        let mut lane = self.lane();
        let rows = record.rows as u64;
        lane.received += rows;
        lane.waiting += rows;
        lane.queue.push(record);
    }

    /// Counts a record that was not put in.
    pub fn refuse(&self, rows: usize, reason: Reason) {
        let mut lane = self.lane();
        lane.received += rows as u64;
        lane.dropped[reason as usize] += rows as u64;
    }

    /// Takes out all that waits, into `taken`, whose memory the lanes get in turn.
    pub fn take(&self, taken: &mut Vec<Record>) {
        let mut settled = self.settled.lock();
        for lane in &self.lanes {
            let mut lane = lane.lock();
            if lane.queue.is_empty() {
                continue;
            }
            settled.taken += mem::take(&mut lane.waiting);
            match taken.is_empty() {
                true => mem::swap(&mut lane.queue, taken),
                false => taken.append(&mut lane.queue),
            }
        }
    }

    /// What was taken is on its way to stay; its room is free.
    pub fn wrote(&self, rows: u64, bytes: usize) {
        let mut settled = self.settled.lock();
        settled.taken -= rows;
        settled.written += rows;
        drop(settled);
        self.release(bytes);
    }

    /// What was taken could not be written; its room is free.
    pub fn lost(&self, rows: u64, bytes: usize, reason: Reason) {
        let mut settled = self.settled.lock();
        settled.taken -= rows;
        settled.dropped[reason as usize] += rows;
        drop(settled);
        self.release(bytes);
    }

    /// The account, of one moment.
    pub fn account(&self) -> Account {
        let settled = self.settled.lock();
        let lanes: Vec<MutexGuard<'_, Lane>> = self.lanes.iter().map(|lane| lane.lock()).collect();
        let mut account = Account {
            received: 0,
            written: settled.written,
            dropped: settled.dropped,
            in_flight: settled.taken,
        };
        for lane in &lanes {
            account.received += lane.received;
            account.in_flight += lane.waiting;
            for (sum, dropped) in account.dropped.iter_mut().zip(lane.dropped) {
                *sum += dropped;
            }
        }
        account
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        self.lanes[OWN.with(|own| *own) % LANES].lock()
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
