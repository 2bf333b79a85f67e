//! Rollouts: changes of who gets what of a model's traffic, written where every replica and every restart finds them.

pub mod book;
pub mod change;
mod files;
mod stored;
