//! The vocabulary every room shares: plain values without IO, async, locks or clocks.

pub mod buckets;
pub mod datatype;
pub mod error;
#[cfg(test)]
pub mod every_path;
pub mod model;
pub mod request;
pub mod tensor;
pub mod text;
pub mod time;
pub mod trace;
pub mod traffic;
