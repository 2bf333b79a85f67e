//! The load harness: open-loop load on any Open Inference Protocol v2 server, and whether its objectives hold.

pub mod arrivals;
pub mod bootstrap;
pub mod campaign;
pub mod cli;
pub mod compare;
pub mod drive;
pub mod echo;
pub mod events;
pub mod interval;
pub mod judge;
pub mod knee;
pub mod merge;
pub mod metadata;
pub mod mlperf;
pub mod moment;
pub mod pattern;
pub mod plan;
pub mod prepare;
pub mod proto;
pub mod record;
pub mod report;
pub mod run;
pub mod scenario;
pub mod scrape;
pub mod search;
#[cfg(test)]
mod simulated;
pub mod slo;
pub mod summary;
pub mod target;
pub mod together;
pub mod trial;
pub mod units;
pub mod url;
pub mod watch;
pub mod wire;
pub mod yaml;
