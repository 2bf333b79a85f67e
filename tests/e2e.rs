//! Drives the real binary as its users do, over sockets: one module a promise.

mod support;

#[path = "e2e/auth.rs"]
mod auth;
#[path = "e2e/bad_grpc.rs"]
mod bad_grpc;
#[path = "e2e/bad_input.rs"]
mod bad_input;
#[path = "e2e/blobs.rs"]
mod blobs;
#[path = "e2e/bounds.rs"]
mod bounds;
#[path = "e2e/broken.rs"]
mod broken;
#[path = "e2e/cache.rs"]
mod cache;
#[path = "e2e/clock.rs"]
mod clock;
#[path = "e2e/clouds.rs"]
mod clouds;
#[path = "e2e/command_line.rs"]
mod command_line;
#[path = "e2e/compressed.rs"]
mod compressed;
#[path = "e2e/control.rs"]
mod control;
#[path = "e2e/deadlines.rs"]
mod deadlines;
#[path = "e2e/drain.rs"]
mod drain;
#[path = "e2e/floods.rs"]
mod floods;
#[path = "e2e/heads.rs"]
mod heads;
#[path = "e2e/labels.rs"]
mod labels;
#[path = "e2e/leaving.rs"]
mod leaving;
#[path = "e2e/lifecycle.rs"]
mod lifecycle;
#[path = "e2e/log.rs"]
mod log;
#[path = "e2e/log_checks.rs"]
mod log_checks;
#[path = "e2e/logged.rs"]
mod logged;
#[path = "e2e/metrics.rs"]
mod metrics;
#[path = "e2e/no_library.rs"]
mod no_library;
#[path = "e2e/observe.rs"]
mod observe;
#[path = "e2e/overload.rs"]
mod overload;
#[path = "e2e/padding.rs"]
mod padding;
#[path = "e2e/predictions.rs"]
mod predictions;
#[path = "e2e/quiet.rs"]
mod quiet;
#[path = "e2e/rollout.rs"]
mod rollout;
#[path = "e2e/secure.rs"]
mod secure;
#[path = "e2e/side_by_side.rs"]
mod side_by_side;
#[path = "e2e/slow.rs"]
mod slow;
#[path = "e2e/sql.rs"]
mod sql;
#[path = "e2e/start.rs"]
mod start;
#[path = "e2e/store.rs"]
mod store;
#[path = "e2e/stream.rs"]
mod stream;
#[path = "e2e/upload.rs"]
mod upload;
#[path = "e2e/wire.rs"]
mod wire;
