#!/usr/bin/env python3
"""Three load generators on one core each, beside a server on the other core. Run by generators.sh.

Each round starts every generator once, in turn and in another order; a rate is requests a second of one run, CPU what the
generator's process used for a request. All send the same request: one row of the example model `wine`, from so many callers that
wait for their answers.
"""
import argparse, datetime, json, os, platform, re, resource, signal, socket, statistics, subprocess, sys, tempfile, time, urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
TARGET = os.environ["CARGO_TARGET_DIR"]
BIN = os.path.join(TARGET, "release")
CALLERS, MODEL, FEATURES = 16, "wine", 13
# Over gRPC as its clients do: several calls on a connection.
CONNECTIONS = {"grpc": 4, "json": CALLERS, "binary": CALLERS}
GENERATORS = ["onnxd loadtest", "h2load", "perf_analyzer"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start():
    ports = [free_port() for _ in range(3)]
    address = [f"127.0.0.1:{p}" for p in ports]
    command = ["taskset", "-c", "0", os.environ.get("ONNXD", f"{BIN}/onnxd"), "serve", "--models", f"{ROOT}/models", "--load", MODEL, "--http", address[0], "--grpc", address[1], "--operator", address[2]]
    log = open(os.path.join(tempfile.gettempdir(), "generators-server.log"), "w")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    end = time.time() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://{address[0]}/v2/health/ready", timeout=2)
            return server, address
        except OSError:
            if time.time() > end or server.poll() is not None:
                sys.exit(f"the server does not serve: {open(log.name).read()}")
            time.sleep(0.2)


def bodies(folder):
    """The request in each form, as h2load sends it."""
    import numpy as np
    import tritonclient.grpc as g
    import tritonclient.http as h

    row = np.full((1, FEATURES), 0.5, np.float32)
    tensor = g.InferInput("features", [1, FEATURES], "FP32")
    tensor.set_data_from_numpy(row)
    request = g._utils._get_inference_request(model_name=MODEL, inputs=[tensor], model_version="", request_id="", outputs=None, sequence_id=0, sequence_start=False, sequence_end=False, priority=0, timeout=None, parameters=None)
    message = request.SerializeToString()
    out = {"grpc": (b"\0" + len(message).to_bytes(4, "big") + message, [])}
    for proto, binary in (("json", False), ("binary", True)):
        tensor = h.InferInput("features", [1, FEATURES], "FP32")
        tensor.set_data_from_numpy(row, binary_data=binary)
        body, length = h.InferenceServerClient.generate_request_body([tensor], outputs=None if binary else [h.InferRequestedOutput("label", binary_data=False)])
        out[proto] = (body, ["-H", f"inference-header-content-length: {length}"] if length is not None else [])
    paths = {}
    for proto, (body, headers) in out.items():
        path = os.path.join(folder, proto)
        open(path, "wb").write(body)
        paths[proto] = (path, headers)
    return paths


def run(command):
    """Output, and the processor time of the child and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(["taskset", "-c", "1", *command], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 4):
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    cpu = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return done.stdout, cpu


def ours(proto, address, secs, _):
    url = f"grpc://{address[1]}" if proto == "grpc" else f"http://{address[0]}"
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        command = [f"{BIN}/onnxd-loadtest", "run", "--url", url, "--model", MODEL, "--arrivals", f"closed:{CALLERS}", "--duration", f"{secs}s", "--warm-up", "0s", "--connections", str(CONNECTIONS[proto]), "--json", f.name]
        if proto != "grpc":
            command += ["--protocol", proto]
        _, cpu = run(command)
        total = json.load(open(f.name))["summary"]["total"]
        if total["good"] != total["due"]:
            sys.exit(f"onnxd loadtest: {total['codes']}")
        return total["throughput"], cpu / total["good"] * 1e6


def h2load(proto, address, secs, paths):
    path, headers = paths[proto]
    where = f"http://{address[1]}/inference.GRPCInferenceService/ModelInfer" if proto == "grpc" else f"http://{address[0]}/v2/models/{MODEL}/infer"
    kind = {"grpc": "application/grpc", "json": "application/json", "binary": "application/octet-stream"}[proto]
    command = ["h2load", "-t", "1", "-c", str(CONNECTIONS[proto]), "-m", str(CALLERS // CONNECTIONS[proto]), "-D", str(secs), "-d", path, "-H", f"content-type: {kind}", *headers]
    command += ["-H", "te: trailers"] if proto == "grpc" else ["--h1"]
    out, cpu = run([*command, where])
    done, failed = int(re.search(r"(\d+) succeeded", out)[1]), int(re.search(r"(\d+) failed", out)[1])
    if failed:
        sys.exit(f"h2load: {out}")
    return done / secs, cpu / done * 1e6


def perf_analyzer(proto, address, secs, _):
    form = ["-i", "grpc", "-u", address[1]] if proto == "grpc" else ["-i", "http", "-u", address[0]]
    if proto == "json":
        form += ["--input-tensor-format", "json", "--output-tensor-format", "json"]
    command = [f"{ROOT}/tests/clients/perf_analyzer.sh", "-m", MODEL, *form, "--concurrency-range", str(CALLERS), "-p", str(secs * 1000 // 3), "-r", "9", "-s", "100", "--shape", f"features:{FEATURES}"]
    out, cpu = run(command)
    rate = float(re.search(r"Throughput: ([\d.]+) infer/sec", out)[1])
    # Of the last window; the windows are alike.
    count = 3 * int(re.search(r"Request count: (\d+)", out)[1])
    return rate, cpu / max(count, 1) * 1e6


RUNNERS = dict(zip(GENERATORS, (ours, h2load, perf_analyzer)))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--rounds", type=int, default=7)
    a.add_argument("--secs", type=int, default=3)
    o = a.parse_args()
    for g in (signal.SIGTERM, signal.SIGINT):
        signal.signal(g, lambda *_: sys.exit(143))
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    server, address = start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = bodies(folder)
            got = {(p, g): [] for p in paths for g in GENERATORS}
            for n in range(o.rounds):
                for proto in paths:
                    for at in range(len(GENERATORS)):
                        name = GENERATORS[(at + n) % len(GENERATORS)]
                        got[proto, name].append(RUNNERS[name](proto, address, o.secs, paths))
    finally:
        server.terminate()
        server.wait()
    print(f"# Generators\n\n{datetime.date.today()}, commit {commit}, {os.cpu_count()} cores of {model}; `loadtest/benches/generators.sh --rounds {o.rounds} --secs {o.secs}`: the server on one core, each")
    print(f"generator on the other in turn, {CALLERS} callers that wait for their answers (over gRPC on 4 connections), one row of `{MODEL}`. Where two generators reach the same rate, the")
    print("server's core is the limit, and the generator's CPU a request tells them apart. perf_analyzer's CPU is of its whole run, start included.\n")
    print("| protocol | generator | requests/s, median [lowest, highest] | CPU µs a request | ours / its rate, median of the rounds [lowest, highest] |\n|---|---|---|---|---|")
    for proto in paths:
        for name in GENERATORS:
            rates, cpus = zip(*got[proto, name])
            ratios = [x[0] / y[0] for x, y in zip(got[proto, GENERATORS[0]], got[proto, name])]
            ratio = "" if name == GENERATORS[0] else f"**{statistics.median(ratios):.2f}** [{min(ratios):.2f}, {max(ratios):.2f}]"
            print(f"| {proto} | {name} | {statistics.median(rates):,.0f} [{min(rates):,.0f}, {max(rates):,.0f}] | {statistics.median(cpus):.1f} | {ratio} |")


main()
