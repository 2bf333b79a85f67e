//! The cache: answers that were given before, and requests that wait for a run that answers their like.

pub mod ask;
mod door;
pub mod flight;
pub mod key;
pub mod options;
pub mod store;
