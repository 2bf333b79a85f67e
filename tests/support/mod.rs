//! What the tests that drive the real binary share: the server as a process, repositories, clients, conditions.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod azure;
pub mod cloud;
pub mod collector;
pub mod files;
pub mod frames;
pub mod google;
pub mod grpc;
pub mod http;
pub mod log_files;
pub mod s3;
pub mod server;
pub mod stream;
pub mod tls;
pub mod watch;
