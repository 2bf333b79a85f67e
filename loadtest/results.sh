#!/usr/bin/env bash
# Our own server's table: for each example model the highest rate that keeps an objective, the curve of latency against load of one of
# them, and how well the generator keeps its schedule at 80% of the highest rate that holds. Less than ten minutes; builds nothing. The server has the
# machine's first core, the generator the second; anything else that runs there shows in the figures.
#   cargo build --release --workspace && loadtest/results.sh > loadtest/results/onnxd.md
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${CARGO_TARGET_DIR:-$root/target}/release
results=$root/loadtest/results
commit=${COMMIT:-$(git -C "$root" rev-parse --short HEAD)}
slo=${SLO:-p99<10ms} trial=${TRIAL:-3s}
scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$scratch"' EXIT
[ "$(nproc)" -ge 2 ] || { echo "results.sh: needs two cores, one for the server and one for the generator" >&2; exit 1; }

taskset -c 0 "$bin/onnxd" serve --models "$root/models" --http 127.0.0.1:0 --grpc 127.0.0.1:0 --operator 127.0.0.1:0 2>"$scratch/log" &
server=$!
for _ in $(seq 600); do
  line=$(grep -o 'listening http=.*' "$scratch/log" || true)
  [ -n "$line" ] && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
[ -n "$line" ] || { echo "results.sh: the server did not start:" >&2; cat "$scratch/log" >&2; exit 1; }
address() { sed "s/.*$1=\([^ ]*\).*/\1/" <<<"$line"; }
http=$(address http) grpc=$(address grpc) operator=$(address operator)
for _ in $(seq 600); do
  "$bin/onnxd" health --operator "$operator" >/dev/null 2>&1 && break
  sleep 0.1
done

# load FLAGS...: a run on the second core, its report in $scratch/found.json. Whether objectives held (0, 3, 4) is for whoever reads it.
load() {
  local code=0
  taskset -c 1 "$bin/onnxd-loadtest" run --json "$scratch/found.json" "$@" >"$scratch/out" 2>&1 || code=$?
  [ $code = 0 ] || [ $code = 3 ] || [ $code = 4 ] || { cat "$scratch/out" >&2; exit 1; }
}

model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
cat <<EOF
# The example models: the highest rate that keeps $slo

$(date +%F), commit $commit, $(nproc) cores of $model, Linux $(uname -r): the server on the first core, the generator on the second.
Made by \`loadtest/results.sh\`.

Poisson arrivals over loopback, one row a request (\`language\`: 64 tokens), \`--slo '$slo' --slo 'error_rate<0.1%' --search\` with
trials of $trial and a precision of 3%. The latency is that of all trials at the rate that holds, from the moment a request was due.

| model | protocol | highest rate that holds, requests/s | lowest that did not | p50 at it | p99 at it |
|---|---|--:|--:|--:|--:|
EOF
for name in wine diabetes digits language; do
  shape=()
  [ $name = language ] && shape=(--shape tokens=64)
  for url in "grpc://$grpc" "http://$http"; do
    echo "results.sh: $name over ${url%%:*}" >&2
    load --url "$url" --model $name "${shape[@]}" --search --trial "$trial" --warm-up 500ms --precision 3% --slo "$slo" \
      --slo 'error_rate<0.1%' --metrics off
    python3 - "$scratch/found.json" $name "${url%%:*}" "$scratch/rate" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
found = report["search"]
rate, broke = found["rate"], found["broke"]
at = min((p["all"] for p in report["summary"]["phases"]), key=lambda p: abs(p["offered"] - (rate or 0))) if rate else None
time = lambda key: f"{at['latency'][key] / 1e6:.2f} ms" if at else ""
show = lambda value: f"{value:,.0f}" if value else "-"
if sys.argv[2:4] == ["wine", "grpc"] and rate:
    open(sys.argv[4], "w").write(f"{0.8 * rate:.0f}")
limit = " (the generator's limit)" if found["end"] == "generator" else ""
protocol = "gRPC" if sys.argv[3] == "grpc" else "HTTP JSON"
print(f"| {sys.argv[2]} | {protocol} | {show(rate)} | {show(broke)}{limit} | {time('p50')} | {time('p99')} |", flush=True)
PY
  done
done

echo "results.sh: the curve of wine" >&2
load --url "grpc://$grpc" --model wine --knee --trial "$trial" --warm-up 500ms --slo "$slo" --metrics off --html "$results/knee-wine.html"
python3 - "$scratch/found.json" "$slo" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
points = report["knee"]["points"]
print(f"""
## Latency against load

`wine` over gRPC, `--knee --slo '{sys.argv[2]}'`; drawn in [knee-wine.html](knee-wine.html). In time: within that limit.

| offered/s | answered/s | in time/s | p50 | p99 | generator late by (p99) |
|--:|--:|--:|--:|--:|--:|""")
for point in points:
    ms = lambda nanos: f"{nanos / 1e6:.2f} ms"
    latency, good = point["latency"], point["goodput"]
    print(f"| {point['offered']:,.0f} | {point['throughput']:,.0f} | {f'{good:,.0f}' if good is not None else '-'} "
          f"| {ms(latency['p50'])} | {ms(latency['p99'])} | {ms(point['lag_p99'])} |", flush=True)
PY

rate=$(cat "$scratch/rate")
echo "results.sh: 60 s at $rate/s" >&2
load --url "grpc://$grpc" --model wine --rate "$rate" --duration 60s --metrics off
python3 - "$scratch/found.json" "$rate" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
total = report["summary"]["total"]
ms = lambda nanos: f"{nanos / 1e6:.3f} ms"
lag, latency = total["lag"], total["latency"]
target = "below" if lag["p99"] < 1e6 else "NOT below"
print(f"""
## The generator's own schedule

`wine` over gRPC, an open loop at 80% of the highest rate that held, for 60 s, `--rate {sys.argv[2]} --duration 60s`: {total['due']:,} requests, {total['offered']:,.0f}/s
offered, {total['throughput']:,.0f}/s answered, {total['failed']} failed. How late the generator took requests up: p50 {ms(lag['p50'])},
p99 {ms(lag['p99'])} ({target} the target of 1 ms), p99.9 {ms(lag['p99_9'])}, most {ms(lag['max'])}. Latency from the scheduled
moment: p50 {ms(latency['p50'])}, p99 {ms(latency['p99'])}, p99.9 {ms(latency['p99_9'])}.""", flush=True)
PY
