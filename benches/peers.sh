#!/usr/bin/env bash
# Compares onnxd with its peers, side by side on this machine, and prints a Markdown table. Builds nothing: it loads
# ${ONNXD:-target/release/onnxd}. About an hour; --quick takes a few minutes; --help lists what can be chosen.
#   benches/peers/setup.sh && benches/peers.sh > table.md
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
export PEERS_HOME=${PEERS_HOME:-$target/peers} ONNXD=${ONNXD:-$target/release/onnxd}
export ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
[ -x "$PEERS_HOME/venv/clients/bin/python" ] || { echo "the peers are not here: run benches/peers/setup.sh" >&2; exit 1; }
[ -x "$ONNXD" ] || { echo "$ONNXD is not here: build it with cargo build --release" >&2; exit 1; }
exec "$PEERS_HOME/venv/clients/bin/python" "$here/peers/compare.py" "$@"
