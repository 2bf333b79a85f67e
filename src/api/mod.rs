//! The protocols on the wire: gRPC and HTTP of the Open Inference Protocol, and the operator's port.

pub mod proto;
