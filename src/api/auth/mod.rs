//! Who asks, and what they may: keys, certificates, roles. Pure but for `live.rs`; `api/gate.rs` is the one that uses it.

pub mod callers;
pub mod keys;
pub mod live;
pub mod options;
pub mod policy;
pub mod roles;
