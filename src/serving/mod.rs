//! Serving: the life of a request, from decoded to answered.

pub mod admission;
pub mod bind;
pub mod engine;
