//! Tests of the codecs: literal bodies, properties, and everything a hostile peer can send.

mod binary;
mod flate;
mod grpc;
mod grpc_contents;
mod json;
mod json_data;
mod numbers;
mod proto;
mod sample;
mod stream;
mod tfs;
