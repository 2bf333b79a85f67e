//! Models and their versions: what is on disk, what is wanted, what is loaded, and the snapshot that requests see.

pub mod check;
pub mod config;
pub mod entry;
pub mod explain;
mod latency;
pub mod lifecycle;
pub mod loader;
pub mod manager;
pub mod measured;
pub mod options;
mod padded;
pub mod priority;
pub mod store;
pub mod table;
