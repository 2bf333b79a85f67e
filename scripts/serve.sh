#!/usr/bin/env bash
# Builds onnxd and serves the example models; further arguments go to `onnxd serve`.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/fetch-onnxruntime.sh || echo "serve.sh: ONNX Runtime could not be fetched: models are served on tract" >&2
# What the tests build as well, but for onnxd-offline, which nothing here needs and most of the time goes into.
cargo build --release --locked --workspace --bin onnxd --bin onnxd-loadtest
exec "${CARGO_TARGET_DIR:-target}/release/onnxd" serve --models models "$@"
