//! The messages and the service trait of the gRPC contract, generated from `proto/` and checked in (`tests/proto.rs`).

#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code is held to proto/, not to our lints"
)]

include!("generated/inference.rs");

/// The standard health service.
pub mod health {
    include!("generated/grpc.health.v1.rs");
}
