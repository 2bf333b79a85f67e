#!/usr/bin/env bash
# Compares load generators, each on one core, on the same running server: ours, h2load and perf_analyzer, over gRPC, HTTP JSON and
# HTTP binary, loaded in turn; prints a Markdown table. About ten minutes. Needs two cores, h2load (Debian: nghttp2-client) and what
# scripts/setup-tests.sh installs; builds nothing.
#   cargo build --release --workspace && loadtest/benches/generators.sh [--rounds 7] [--secs 3] > loadtest/results/generators.md
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
exec "$CARGO_TARGET_DIR/venv-tests/bin/python" "$root/loadtest/benches/generators.py" "$@"
