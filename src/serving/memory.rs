//! The one memory budget of requests: what they hold is charged while it lives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::types::error::Error;

/// Bytes that all requests under way may hold together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
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
        Arc::new(Budget { used: AtomicUsize::new(0), limit })
    }

    /// An empty charge, to grow as bytes arrive.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Charge {
    /// Takes more; `Overloaded` where the budget has no room.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if used.saturating_add(bytes) > self.budget.limit {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::overloaded(
                format!("the requests under way hold all of their {} bytes", self.budget.limit),
                Duration::from_secs(1),
            ));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Charge {
    /// Gives back what is not needed any more.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Parts with so much of it, which pays for something that goes its own way.
    pub fn split(&mut self, bytes: usize) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { budget: self.budget.clone(), bytes }
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
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
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
}
