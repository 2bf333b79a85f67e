//! The thread that makes Parquet of segments, and puts files together, with what serving leaves of the processors.

use std::{path::Path, sync::Arc};

use crossbeam_channel::{Receiver, RecvError, Sender, bounded, never};

use super::{
    capture,
    compact::{Merge, background::Background},
    erased,
    inventory::Inventory,
    reader::ReadError,
    rotate::{Origin, Rotated, rotate},
    store::Shared,
    writer::Sealed,
};
use crate::priority;

/// Makes files of segments, on whichever thread.
pub struct Maker {
    pub shared: Arc<Shared>,
    pub inventory: Inventory,
}

impl Maker {
    /// Makes files of a segment of this start of the server.
    ///
    /// # Errors
    /// As `rotate`.
    pub fn make(&self, sealed: &Sealed) -> Result<Rotated, String> {
        let place = &self.shared.place;
        self.make_of(&sealed.path, (&place.node, &place.boot, sealed.number))
    }

    /// Of any segment: by its node, boot and number. Without the rows of those who are erased, of whom there are no more meanwhile.
    ///
    /// # Errors
    /// As `rotate`.
    pub fn make_of(
        &self,
        path: &Path,
        (node, boot, segment): (&str, &str, u64),
    ) -> Result<Rotated, String> {
        let place = &self.shared.place;
        let profile = self.shared.options.profile.sample();
        let origin = Origin { node, boot, segment, profile, inventory: &self.inventory };
        let held = erased::hold(&place.root).map_err(|error| error.0)?;
        rotate(&*place.disk, &place.root, path, (origin, &held.ledger))
    }
}

/// What there is to do.
pub enum Task {
    Rotate(Sealed),
    /// A step of it, if there is one to do.
    Compact,
}

/// What came of it.
pub enum Done {
    Rotated(Sealed, Result<Rotated, String>),
    Compacted(Result<Option<Merge>, ReadError>),
}

/// The thread, as who gives it work sees it: it has one thing to do at a time. It ends with this.
pub struct Aside {
    tasks: Sender<Task>,
    done: Receiver<Done>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Rotates,
    Compacts,
    /// It has ended, which nothing but a panic brings about.
    Gone,
}

/// What the thread runs.
pub struct Worker {
    tasks: Receiver<Task>,
    done: Sender<Done>,
    maker: Arc<Maker>,
    compaction: Option<Background>,
}

impl Aside {
    pub fn new(maker: Arc<Maker>, compaction: Option<Background>) -> (Aside, Worker) {
        let (tasks, given) = bounded(1);
        let (tell, done) = bounded(1);
        let worker = Worker { tasks: given, done: tell, maker, compaction };
        (Aside { tasks, done, state: State::Free }, worker)
    }

    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Rotates | State::Compacts)
    }

    /// Whether it puts files together.
    pub fn compacts(&self) -> bool {
        self.state == State::Compacts
    }

    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// Gives it something to do, or says what it cannot take since it has something, or is gone.
    pub fn offer(&mut self, task: Task) -> Option<Task> {
        if self.state != State::Free {
            return Some(task);
        }
        let state = match task {
            Task::Rotate(_) => State::Rotates,
            Task::Compact => State::Compacts,
        };
        match self.tasks.try_send(task) {
            Ok(()) => {
                self.state = state;
                None
            }
            Err(refused) => Some(refused.into_inner()),
        }
    }

    /// What is to be received from, until something comes of what it was given; `take` whatever that is.
    pub fn done(&self) -> &Receiver<Done> {
        &self.done
    }

    pub fn take(&mut self, done: Result<Done, RecvError>) -> Option<Done> {
        self.state = State::Free;
        if done.is_err() {
            (self.state, self.done) = (State::Gone, never());
        }
        done.ok()
    }
}

impl Worker {
    /// Works until there is nobody to work for.
    pub fn run(mut self) {
        priority::step_aside();
        for task in &self.tasks {
            let done = match task {
                Task::Rotate(sealed) => {
                    let rotated = self.maker.make(&sealed);
                    Done::Rotated(sealed, rotated)
                }
                Task::Compact => {
                    let step = |it: &mut Background| it.step(capture::wall().wall_us);
                    Done::Compacted(self.compaction.as_mut().map_or(Ok(None), step))
                }
            };
            if self.done.send(done).is_err() {
                return;
            }
        }
    }
}
