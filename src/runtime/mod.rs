//! Runtimes: what turns a model's bytes into sessions, and sessions into answers.

pub mod session;
