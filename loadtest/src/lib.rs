//! The load harness: open-loop load on any Open Inference Protocol v2 server, and whether its objectives hold.

pub mod arrivals;
pub mod cli;
pub mod plan;
pub mod record;
pub mod scrape;
pub mod slo;
pub mod summary;
pub mod units;
