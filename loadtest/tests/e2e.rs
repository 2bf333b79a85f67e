//! The real binary, end to end: against its own echo server, and against onnxd where that is built.

mod support;

#[path = "e2e/bad.rs"]
mod bad;
#[path = "e2e/decisions.rs"]
mod decisions;
#[path = "e2e/ended.rs"]
mod ended;
#[path = "e2e/events.rs"]
mod events;
#[path = "e2e/real.rs"]
mod real;
#[path = "e2e/replayed.rs"]
mod replayed;
#[path = "e2e/server_side.rs"]
mod server_side;
#[path = "e2e/several.rs"]
mod several;
#[path = "e2e/terminal.rs"]
mod terminal;
#[path = "e2e/verdict.rs"]
mod verdict;
#[path = "e2e/ways.rs"]
mod ways;
