//! The protocols on the wire: gRPC and HTTP of the Open Inference Protocol, and the operator's port.

pub mod answers;
pub mod codec;
pub mod errors;
pub mod grpc;
pub mod http;
pub mod model_config;
pub mod operator;
pub mod proto;
pub mod state;
pub mod status;

#[cfg(test)]
mod fixture;
