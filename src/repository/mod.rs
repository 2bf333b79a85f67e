//! Models and their versions: what is on disk, what is wanted, what is loaded, and the snapshot that requests see.

pub mod answers;
pub mod banner;
pub mod breaker;
pub mod calls;
mod candidate;
pub mod check;
pub mod config;
pub mod declared;
pub mod entry;
pub mod explain;
mod eyes;
pub mod job;
mod keeper;
mod latency;
pub mod lifecycle;
pub mod lifecycle_options;
pub mod loader;
pub mod logged;
pub mod manager;
pub mod manifest;
pub mod measured;
pub mod mirror;
pub mod options;
mod padded;
pub mod pbtxt;
mod print;
pub mod remote;
mod remote_fetch;
mod remote_list;
pub mod remote_options;
mod remote_plan;
pub mod remote_source;
pub mod remote_status;
pub mod remote_write;
pub mod residency;
pub mod routes;
mod samples;
pub mod settle;
pub mod store;
mod sweeper;
pub mod table;
pub mod traffic;
pub mod triton;
mod wrapped;

#[cfg(test)]
pub mod fake;
