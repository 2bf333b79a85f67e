#!/usr/bin/env bash
# Every check and every test: formatting, lints, unit and property tests, real clients against the real server.
set -euo pipefail
cd "$(dirname "$0")/.."
export ORT_DISABLE_TELEMETRY=1
scripts/fetch-onnxruntime.sh --openvino
scripts/setup-tests.sh
scripts/fetch-models.sh
cargo fmt --all --check
cargo clippy --release --locked --workspace --all-targets -- -D warnings
# Each runtime alone; what it depends on was checked with both, but for a few small crates.
for runtime in ort tract; do
    cargo clippy --release --locked --no-default-features --features "$runtime" -- -D warnings
done
cargo test --release --locked --workspace "$@"
