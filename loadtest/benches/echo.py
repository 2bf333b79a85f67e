#!/usr/bin/env python3
"""The generator beside stated distributions: run by echo.sh, prints Markdown. Server and generator have a core each."""
import datetime, json, os, platform, re, subprocess, sys, tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.path.join(os.environ["CARGO_TARGET_DIR"], "release/onnxd-loadtest")
RATE, SECONDS = 500, 16
# The quantile function of each, in ns. Unbounded ones are not here: of 10,000 samples their own p99.9 is only known to some per cent.
MS = 1e6
DISTRIBUTIONS = {
    "constant:20ms": lambda q: 20 * MS,
    "uniform:10ms..50ms": lambda q: (10 + 40 * q) * MS,
    "bimodal:15ms,80ms,3%": lambda q: (15 if q < 0.97 else 80) * MS,
}
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}


def measure(distribution, scheme):
    server = subprocess.Popen(["taskset", "-c", "0", BIN, "echo", "--listen", "127.0.0.1:0", "--latency", distribution], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = re.search(r"127\.0\.0\.1:\d+", next(line for line in server.stdout if "127.0.0.1" in line))[0]
        with tempfile.NamedTemporaryFile(suffix=".json") as f:
            command = ["taskset", "-c", "1", BIN, "run", "--url", f"{scheme}://{address}", "--model", "m", "--rate", str(RATE), "--duration", f"{SECONDS}s", "--json", f.name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return json.load(open(f.name))["summary"]["total"]
    finally:
        server.terminate()
        server.wait()


def main():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"# Known latencies\n\n{datetime.date.today()}, commit {commit}, {os.cpu_count()} cores of {model}; `loadtest/benches/echo.sh`: Poisson arrivals, {RATE} a second for {SECONDS} s, from the")
    print("scheduled moment to the end of the answer. The bound: each within 2% of the stated value or 50 µs; what is over it is the way there and")
    print("back, through both processes and the kernel, which no stated latency has.\n")
    print("| distribution | protocol | " + " | ".join(q.replace("_", ".") for q in QUANTILES) + " | schedule error p99 |\n|---|---|" + "--:|" * (len(QUANTILES) + 1))
    for distribution, quantile in DISTRIBUTIONS.items():
        for scheme in ("grpc", "http"):
            total = measure(distribution, scheme)
            cells = []
            for name, q in QUANTILES.items():
                stated, found = quantile(q), total["latency"][name]
                within = abs(found - stated) <= max(0.02 * stated, 50_000)
                cells.append(f"{found / MS:.2f} ms ({(found - stated) / 1e3:+.0f} µs){'' if within else ' **over**'}")
            lag = total["lag"]["p99"] / 1e3
            print(f"| {distribution} | {'gRPC' if scheme == 'grpc' else 'JSON'} | " + " | ".join(cells) + f" | {lag:.0f} µs |", flush=True)


main()
