//! The generator's own threads: each has its share of the arrivals and of the connections, and one loop over both.

mod arrive;
pub mod ask;
pub mod book;
mod conn;
pub mod socket;
pub mod worker;
