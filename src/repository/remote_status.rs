//! How it goes with the object store that models come from: for readiness and metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::telemetry::registry::{StoreRow, registry};

/// Shared by who reads the store and who tells of it.
#[derive(Debug, Default)]
pub struct StoreStatus(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    row: StoreRow,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    First,
    Well,
    /// It can be listed, but something of it not be read.
    Partly,
    Down,
}

impl StoreStatus {
    /// The mirror is as the store is, but for so many versions that were refused.
    pub fn synced(&self, now: SystemTime, refused: u64) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.change(State::Well, |row| {
            row.last_sync_seconds = Some(since.as_secs());
            row.refused = refused;
        });
    }

    /// The store could not be listed.
    pub fn down(&self) {
        self.change(State::Down, |row| row.failures += 1);
    }

    /// Something that is listed could not be read or written.
    pub fn partly(&self, refused: u64) {
        self.change(State::Partly, |row| {
            row.failures += 1;
            row.refused = refused;
        });
    }

    /// So many bytes came from it.
    pub fn fetched(&self, bytes: u64) {
        let row = {
            let mut inner = self.0.lock();
            inner.row.fetched_bytes += bytes;
            inner.row
        };
        registry().set_store(row);
    }

    fn change(&self, state: State, change: impl FnOnce(&mut StoreRow)) {
        let row = {
            let mut inner = self.0.lock();
            inner.state = state;
            inner.row.up = state != State::Down;
            change(&mut inner.row);
            inner.row
        };
        registry().set_store(row);
    }

    /// What a caller of readiness should know: `None` where all is well. Anybody may ask, so that it names no place.
    pub fn note(&self) -> Option<&'static str> {
        match self.0.lock().state {
            State::First => Some("the models are being copied from their object store"),
            State::Well => None,
            State::Partly => {
                Some("not all of the object store could be copied: the log says what, and why")
            }
            State::Down => {
                Some("the object store cannot be reached, its mirror serves: the log says why")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_and_what_is_well_is_not() {
        let status = StoreStatus::default();
        assert!(status.note().is_some_and(|note| note.contains("being copied")));
        status.down();
        assert!(status.note().is_some_and(|note| note.contains("its mirror serves")));
        status.partly(0);
        assert!(status.note().is_some_and(|note| note.contains("not all")));
        status.synced(UNIX_EPOCH + Duration::from_secs(7), 1);
        assert_eq!(status.note(), None);
        let row = status.0.lock().row;
        assert_eq!((row.up, row.last_sync_seconds, row.failures), (true, Some(7), 2));
        assert_eq!(row.refused, 1);
    }
}
