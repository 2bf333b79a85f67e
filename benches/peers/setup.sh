#!/usr/bin/env bash
# Builds the lab under ${PEERS_HOME:-target/peers}: one pinned virtual environment a peer, the load generator, the models.
#   benches/peers/setup.sh             all of it: two minutes, 1.2 GB; quick when done
#   benches/peers/setup.sh NAME...     only these: base clients tools pytriton fastapi mosec models
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PEERS_HOME=${PEERS_HOME:-${CARGO_TARGET_DIR:-$here/../../target}/peers}
mkdir -p "$PEERS_HOME"/{venv,models,logs,run}
PEERS_HOME=$(cd "$PEERS_HOME" && pwd)

environment() { # NAME: the packages of locks/NAME.txt
  local venv=$PEERS_HOME/venv/$1 lock=$here/locks/$1.txt
  cmp -s "$lock" "$venv/.lock" && return
  rm -rf "$venv"
  # Triton's Python backend brings its stub for the versions up to 3.13.
  "$(command -v python3.11 || command -v python3)" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$lock"
  cp "$lock" "$venv/.lock"
}

for name in ${*:-base clients tools pytriton fastapi mosec models}; do
  case $name in
  tools)
    command -v h2load >/dev/null || {
      [ "$(id -u)" = 0 ] || { echo "peers: h2load is missing (Debian: apt-get install nghttp2-client)" >&2; exit 1; }
      apt-get update -qq && apt-get install -y -qq nghttp2-client >/dev/null
    }
    ;;
  models)
    [ -f "$PEERS_HOME/models/gbdt/meta.json" ] && [ -f "$PEERS_HOME/models/image_head/meta.json" ] || ORT_DISABLE_TELEMETRY=1 "$PEERS_HOME/venv/base/bin/python" "$here/make_models.py"
    ;;
  *) environment "$name" ;;
  esac
  echo "peers: $name is there"
done
