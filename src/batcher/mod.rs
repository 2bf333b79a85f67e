//! Batching and execution: queues, the executor threads that run sessions, and the turn lane.

pub mod assemble;
pub mod budget;
pub mod cost;
pub mod device;
pub mod entry;
pub mod executor;
mod lines;
pub mod mode;
pub mod options;
pub mod padding;
pub mod plan;
pub mod pool;
pub mod queue;
pub mod reply;
pub mod run;
pub mod schedule;
pub mod served;
pub mod shares;
pub mod standing;
pub mod turn;
