//! onnxd, a model inference server: the rooms, top floor first. A room imports only from the floors below it
//! (`tests/tidy.rs` holds the table); nothing is re-exported here.

pub mod cli;

pub mod app;
pub mod config;

pub mod api;

pub mod serving;

pub mod rollout;

pub mod repository;

pub mod cache;

pub mod batcher;

pub mod predlog;

pub mod runtime;

pub mod wire;

pub mod objects;

pub mod telemetry;

pub mod priority;
pub mod shutdown;
pub mod types;
