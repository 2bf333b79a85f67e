//! A line that says how far a long command is: at a terminal only, on standard error.

use std::io::{self, IsTerminal, Write};

/// One line that is written over.
pub struct Progress {
    what: &'static str,
    total: usize,
    shown: bool,
}

impl Progress {
    /// Of `total` things called `what`.
    pub fn of(total: usize, what: &'static str) -> Progress {
        Progress { what, total, shown: total > 1 && io::stderr().is_terminal() }
    }

    pub fn at(&self, done: usize) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K{done} of {} {}", self.total, self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
