#!/usr/bin/env bash
# perf_analyzer as scripts/setup-tests.sh installed it, under the C library that came with it where the host's is too old.
target=${CARGO_TARGET_DIR:-$(cd "$(dirname "$0")/../.." && pwd)/target}
home=$target/perf_analyzer
[ -x "$home/bin/perf_analyzer" ] || { echo "perf_analyzer is not installed: run scripts/setup-tests.sh" >&2; exit 1; }
if [ -d "$home/lib" ]; then
  exec "$home/lib/ld-linux-x86-64.so.2" --library-path "$home/lib" "$home/bin/perf_analyzer" "$@"
fi
exec "$home/bin/perf_analyzer" "$@"
