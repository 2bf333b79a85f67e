#!/usr/bin/env bash
# Ten minutes at 32 clients on resnet50: whether the server's resident size stops growing.
#   benches/peers/setup.sh && benches/soak.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
export PEERS_HOME=${PEERS_HOME:-$target/peers} ONNXD=${ONNXD:-$target/release/onnxd}
export ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
[ -x "$PEERS_HOME/venv/clients/bin/python" ] || { echo "the peers are not here: run benches/peers/setup.sh" >&2; exit 1; }
exec "$PEERS_HOME/venv/clients/bin/python" "$here/peers/soak.py" "$@"
