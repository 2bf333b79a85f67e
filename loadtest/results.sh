#!/usr/bin/env bash
# Our own server's table: for each example model the highest rate that keeps an objective, and the curve of latency against load of one of them.
# About ten minutes; builds nothing; server and generator share the machine.
#   cargo build --release --workspace && loadtest/results.sh > loadtest/results/onnxd.md
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${CARGO_TARGET_DIR:-$root/target}/release
results=$root/loadtest/results
slo=${SLO:-p99<10ms}
scratch=$(mktemp -d)
"$bin/onnxd" serve --models "$root/models" --http 127.0.0.1:0 --grpc 127.0.0.1:0 --operator 127.0.0.1:0 2>"$scratch/log" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$scratch"' EXIT
for _ in $(seq 600); do
  line=$(grep -o 'listening http=.*' "$scratch/log" || true)
  [ -n "$line" ] && break
  sleep 0.1
done
address() { sed "s/.*$1=\([^ ]*\).*/\1/" <<<"$line"; }
http=$(address http) grpc=$(address grpc) operator=$(address operator)
for _ in $(seq 600); do
  "$bin/onnxd" health --operator "$operator" >/dev/null 2>&1 && break
  sleep 0.1
done
model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
cat <<EOF
# The example models: the highest rate that keeps $slo

$(date +%F), commit $(git -C "$root" rev-parse --short HEAD), $(nproc) cores of $model, server and generator on the same ones; \`loadtest/results.sh\`: Poisson arrivals, one row a
request, no errors allowed, \`--search\` with trials of ${TRIAL:-5s}. The curve of latency against load of \`wine\`: [knee-wine.html](knee-wine.html).

| model | protocol | highest rate that holds, requests/s | lowest that did not | p99 at it |
|---|---|--:|--:|--:|
EOF
for name in wine diabetes digits language; do
  shape=()
  [ $name = language ] && shape=(--shape tokens=64)
  for url in "grpc://$grpc" "http://$http"; do
    "$bin/onnxd-loadtest" run --url "$url" --model $name "${shape[@]}" --search --trial "${TRIAL:-5s}" --slo "$slo" --slo 'error_rate<0.1%' \
      --metrics off --json "$scratch/found.json" >"$scratch/out" 2>&1 || [ $? = 4 ] || { cat "$scratch/out" >&2; exit 1; }
    python3 - "$scratch/found.json" $name "${url%%:*}" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
found = report["search"]
rate, broke = found["rate"], found["broke"]
at = next((p["all"] for p in report["summary"]["phases"] if rate and abs(p["all"]["offered"] / rate - 1) < 0.1), None)
p99 = f"{at['latency']['p99'] / 1e6:.2f} ms" if at else ""
show = lambda value: f"{value:,.0f}" if value else "-"
print(f"| {sys.argv[2]} | {'gRPC' if sys.argv[3] == 'grpc' else 'HTTP JSON'} | {show(rate)} | {show(broke)} | {p99} |", flush=True)
PY
  done
done
"$bin/onnxd-loadtest" run --url "grpc://$grpc" --model wine --knee --slo "$slo" --metrics "http://$operator/metrics" --html "$results/knee-wine.html" >/dev/null 2>&1 || true
