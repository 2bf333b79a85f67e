//! Batching and execution: queues, the executor threads that run sessions, and the turn lane.

pub mod assemble;
pub mod cost;
pub mod lines;
pub mod mode;
pub mod options;
pub mod queue;
pub mod schedule;
pub mod served;
