//! Serving: the life of a request, from decoded to answered.

pub mod admission;
pub mod bind;
pub mod caller;
pub mod classify;
pub mod compare;
pub mod engine;
pub mod memory;
pub mod quota;
pub mod regions;
pub mod routed;
pub mod router;
pub mod shadow;
