//! The protocols on the wire: gRPC and HTTP of the Open Inference Protocol, and the operator's port.

pub mod activity;
pub mod address;
pub mod answer;
pub mod answers;
pub mod auth;
pub mod body;
pub mod codec;
pub mod coded;
pub mod compat;
pub mod connection;
pub mod control;
pub mod encoding;
pub mod errors;
pub mod fast;
pub mod framing;
pub mod gate;
pub mod grpc;
pub mod heads;
pub mod health;
pub mod http;
pub mod listen;
pub mod messages;
pub mod model_config;
pub mod observe;
pub mod openapi;
pub mod operator;
pub mod path;
pub mod patience;
pub mod peer;
pub mod proto;
pub mod reflection;
pub mod regions;
pub mod rollout;
pub mod schema;
pub mod seldom;
pub mod settings;
pub mod state;
pub mod status;
pub mod stream;
pub mod streaming;
pub mod timed;
pub mod tls;
pub mod tls_probe;
pub mod v1;

#[cfg(test)]
mod fixture;
