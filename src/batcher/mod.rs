//! Batching and execution: queues, the executor threads that run sessions, and the turn lane.

pub mod options;
pub mod served;
