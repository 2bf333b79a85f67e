#!/usr/bin/env bash
# Measures servers whose latencies are known (`onnxd loadtest echo`) and prints the percentiles beside the stated ones. Two minutes; needs two
# cores and python3; builds nothing.
#   cargo build --release --workspace && loadtest/benches/echo.sh > loadtest/results/echo.md
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
exec python3 "$root/loadtest/benches/echo.py" "$@"
