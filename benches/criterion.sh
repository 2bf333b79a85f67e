#!/usr/bin/env bash
# Every criterion bench: codecs, the batcher's pure parts, a request through the engine on the echo backend. Arguments go
# to criterion (`--quick`, a filter). A quiet machine, please.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo bench --bench codecs --bench batcher --bench engine -- "$@"
