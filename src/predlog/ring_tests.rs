//! The account under everything that may happen to rows.

use std::thread;

use super::*;
use crate::predlog::{
    options::LogOptions,
    testing::{bare, classifier, subject},
};

fn push(ring: &Ring, record: Record) -> Result<(), Reason> {
    ring.reserve(record.charge).map(|()| ring.put(record))
}

#[test]
fn what_does_not_fit_comes_back_uncounted() {
    let subject = subject(&classifier(), &LogOptions::default());
    let one = bare(&subject, "a", 1).charge;
    let memory = Memory::new(3 * one);
    let (first, second) = (Ring::new(2 * one, memory.clone()), Ring::new(8 * one, memory.clone()));
    for _ in 0..2 {
        push(&first, bare(&subject, "a", 1)).expect("room");
    }
    assert_eq!(push(&first, bare(&subject, "b", 1)), Err(Reason::Full));
    assert_eq!(first.account().received, 2);
    push(&second, bare(&subject, "b", 1)).expect("another model has room");
    assert_eq!(push(&second, bare(&subject, "c", 1)), Err(Reason::Memory));
    let mut taken = Vec::new();
    first.take(&mut taken);
    assert_eq!(taken.len(), 2);
    assert_eq!(first.bytes(), 2 * one, "what is taken is not written yet");
    first.wrote(2, 2 * one);
    assert_eq!((first.bytes(), memory.bytes()), (0, one));
}

/// Looks at the account all the while: the sum holds at every moment, not only at the end.
#[test]
fn received_is_written_and_dropped_and_in_flight_at_every_moment() {
    let subject = subject(&classifier(), &LogOptions::default());
    let one = bare(&subject, "a", 1).charge;
    let ring = Ring::new(50 * one, Memory::new(usize::MAX));
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let pushers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for n in 0..20_000 {
                        let rows = 1 + n % 3;
                        if let Err(reason) = push(&ring, bare(&subject, "a", rows)) {
                            ring.refuse(rows, reason);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut taken = Vec::new();
            while !done.load(Ordering::Acquire) || ring.account().in_flight > 0 {
                ring.take(&mut taken);
                let half = taken.len() / 2;
                for (at, record) in taken.drain(..).enumerate() {
                    let (rows, bytes) = (record.rows as u64, record.charge);
                    match at < half {
                        true => ring.wrote(rows, bytes),
                        false => ring.lost(rows, bytes, Reason::Disk),
                    }
                }
            }
        });
        while !pushers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let account = ring.account();
            assert!(account.holds(), "{account:?}");
        }
        done.store(true, Ordering::Release);
    });
    let account = ring.account();
    assert!(account.holds() && account.in_flight == 0, "{account:?}");
    assert_eq!(account.received, 3 * (0..20_000u64).map(|n| 1 + n % 3).sum::<u64>());
    assert!(account.written > 0 && account.dropped[Reason::Disk as usize] > 0);
    assert_eq!(ring.bytes(), 0);
}
