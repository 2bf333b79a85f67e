//! HTTP/1.1 and HTTP/2 as a client speaks them, over byte slices: no socket, no clock.

pub mod h1;
pub mod h2;
pub mod hpack;
