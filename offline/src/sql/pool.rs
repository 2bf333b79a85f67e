//! A query's memory: half of it at most for what can wait on the disk, in equal parts, so that what cannot always finds some.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use datafusion::{
    common::DataFusionError,
    execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};

/// DataFusion's own fair pool gives everything to those that can spill: a sort that begins while others are full finds nothing to merge with.
#[derive(Debug)]
pub struct Pool {
    bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    spillers: usize,
    spillable: usize,
    other: usize,
}

impl Held {
    fn of(&mut self, consumer: &MemoryConsumer) -> &mut usize {
        if consumer.can_spill() { &mut self.spillable } else { &mut self.other }
    }
}

impl Pool {
    pub fn new(bytes: usize) -> Pool {
        Pool { bytes, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl MemoryPool for Pool {
    fn name(&self) -> &str {
        "halves"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.held().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            let mut held = self.held();
            held.spillers = held.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.held().of(reservation.consumer()) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut held = self.held();
        let own = held.of(reservation.consumer());
        *own = own.saturating_sub(shrink);
    }

    fn try_grow(
        &self,
        reservation: &MemoryReservation,
        additional: usize,
    ) -> Result<(), DataFusionError> {
        let mut held = self.held();
        let consumer = reservation.consumer();
        let free = self.bytes.saturating_sub(held.other);
        let (wanted, there) = match consumer.can_spill() {
            true => (
                reservation.size().saturating_add(additional),
                free.min(self.bytes / 2) / held.spillers.max(1),
            ),
            false => (additional, free.saturating_sub(held.spillable)),
        };
        if wanted > there {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} wants {additional} bytes beside the {} that it has, of {} bytes",
                consumer.name(),
                reservation.size(),
                self.bytes
            )));
        }
        *held.of(consumer) += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let held = self.held();
        held.spillable + held.other
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_cannot_spill_finds_half_of_it() {
        let pool: Arc<dyn MemoryPool> = Arc::new(Pool::new(1000));
        let spills = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let (one, other) = (spills("a"), spills("b"));
        one.try_grow(250).expect("its part");
        let full = one.try_grow(1).expect_err("no more than its part");
        assert!(
            full.to_string().contains("a wants 1 bytes beside the 250 that it has, of 1000"),
            "{full}"
        );
        other.try_grow(250).expect("its part");
        let merge = MemoryConsumer::new("merge").register(&pool);
        merge.try_grow(500).expect("half");
        merge.try_grow(1).expect_err("it is full");
        drop(one);
        merge.try_grow(250).expect("what has gone is free");
        assert_eq!(pool.reserved(), 1000);
        drop((merge, other));
        assert_eq!(pool.reserved(), 0);
    }
}
