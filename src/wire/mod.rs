//! Bytes to requests and answers to bytes: the codecs of the Open Inference Protocol and of TensorFlow Serving's REST API, pure and
//! total.
//!
//! A decoder answers any bytes at all with a request or an error: no panic, no recursion that the bytes steer, nesting
//! capped, and no allocation larger than what the bytes that have arrived can fill.

pub mod binary;
pub mod check;
mod chunks;
mod digits;
pub mod flate;
pub mod grpc;
mod grpc_contents;
pub mod json;
mod json_data;
mod json_read;
mod json_write;
mod numbers;
mod protobuf;
pub mod region;
pub mod stream;
pub mod tfs;
pub mod tfs_write;

#[cfg(test)]
mod tests;
