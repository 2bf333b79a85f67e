#!/usr/bin/env python3
"""What it costs to load and unload: cycles, many models, and swaps under load. Prints a table for each.

    python3 benches/lifecycle.py [--binary target/release/onnxd] [cycles] [many] [swaps]

Needs nothing but the binary and the example models (and a runtime that the binary finds by itself, or --onnxruntime-lib).
"""
import argparse
import bisect
import concurrent.futures
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Server:
    """The real binary over a repository, on free ports."""

    def __init__(self, options, repository, *flags, **environment):
        self.home = tempfile.TemporaryDirectory()
        command = [options.binary, "serve", "--models", repository, *flags]
        for port in ("http", "grpc", "operator"):
            command += [f"--{port}", "127.0.0.1:0"]
        if options.onnxruntime_lib:
            command += ["--onnxruntime-lib", options.onnxruntime_lib]
        environment = {**os.environ, "ONNXD_LOG_LEVEL": "error", **environment}
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stderr:
            if "listening http=" in line:
                words = dict(word.split("=", 1) for word in line.split() if "=" in word)
                break
        else:
            raise SystemExit(f"{command[0]} did not start")
        self.http, self.operator = words["http"], words["operator"]
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def held(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        field = lambda name: int(next(l for l in status.splitlines() if l.startswith(name)).split()[1])
        return field("VmRSS:") / 1024, field("Threads:"), len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def wait_ready(self, limit=3600):
        while time.monotonic() < self.began + limit:
            if ask(self.operator, "GET", "/v2/health/ready")[0] == 200:
                return time.monotonic() - self.began
            time.sleep(0.02)
        raise SystemExit("it does not become ready")


def connect(address):
    host, port = address.rsplit(":", 1)
    return http.client.HTTPConnection(host, int(port), timeout=600)


def ask(address, method, path, body=None, connection=None):
    c = connection or connect(address)
    c.request(method, path, body, {"Content-Type": "application/json"})
    answer = c.getresponse()
    return answer.status, answer.read()


def control(server, verb, model):
    status, body = ask(server.operator, "POST", f"/v2/repository/models/{model}/{verb}")
    assert status == 200, body


def percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


WINE = json.dumps({"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 13], "data": [0.5] * 13}]})


def cycles(options, folder):
    """1,000 cycles of load and unload, each with an inference in between."""
    repository = folder / "cycles"
    shutil.copytree(ROOT / "models" / "wine", repository / "wine")
    print("\n| cycles | resident MiB | threads | files | ms a cycle |\n|---|---|---|---|---|")
    with Server(options, repository) as server:
        server.wait_ready()
        began = time.monotonic()
        for n in range(options.cycles + 1):
            if n in (0, 50) or n % max(1, options.cycles // 5) == 0:
                time.sleep(1.5)  # what was unloaded last is given back a second later
                resident, threads, files = server.held()
                took = (time.monotonic() - began) * 1000 / max(n, 1)
                print(f"| {n} | {resident:.1f} | {threads} | {files} | {took:.1f} |", flush=True)
            control(server, "unload", "wine")
            control(server, "load", "wine")
            assert ask(server.http, "POST", "/v2/models/wine/infer", WINE)[0] == 200


def many(options, folder):
    """Repositories of more and more models: time until all serve, and what the index and readiness take then."""
    print("\n| models | ready after s | ms a model | resident MiB | index ms | readiness ms | one load ms |\n|---|---|---|---|---|---|---|")
    source = ROOT / "models" / "diabetes"
    for count in options.models:
        repository = folder / f"many-{count}"
        for n in range(count):
            model = repository / f"m{n:05}"
            (model / "1").mkdir(parents=True)
            os.link(source / "1" / "model.onnx", model / "1" / "model.onnx")
        with Server(options, repository) as server:
            took = server.wait_ready()
            timed = lambda *request: min(timeit(lambda: ask(*request)) for _ in range(5)) * 1000
            index = timed(server.http, "POST", "/v2/repository/index", "{}")
            ready = timed(server.http, "GET", "/v2/health/ready")
            control(server, "unload", "m00000")
            load = timeit(lambda: control(server, "load", "m00000")) * 1000
            resident = server.held()[0]
        print(f"| {count} | {took:.1f} | {took * 1000 / count:.2f} | {resident:.0f} | {index:.1f} | {ready:.2f} | {load:.1f} |", flush=True)
        shutil.rmtree(repository)


def timeit(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def swaps(options, folder):
    """Swaps of a small model under an open-loop load: p99 while one is under way, beside the p99 of the rest of the run."""
    repository = folder / "swaps"
    newest = max(int(v.name) for v in (ROOT / "models" / "wine").iterdir() if v.name.isdigit())
    source = ROOT / "models" / "wine" / str(newest)
    shutil.copytree(source, repository / "wine" / "1")
    with Server(options, repository, ONNXD_LIFECYCLE_ROLLBACK_TTL_MS="0") as server:
        server.wait_ready()
        windows, records, failed, stop = [], [], [], threading.Event()
        threads = concurrent.futures.ThreadPoolExecutor(8)

        def client(offset):
            connection = connect(server.http)
            due = time.monotonic() + offset
            while not stop.is_set():
                # Open loop: late requests count from when they were due.
                time.sleep(max(0.0, due - time.monotonic()))
                status, body = ask(server.http, "POST", "/v2/models/wine/infer", WINE, connection)
                records.append((due, time.monotonic() - due))
                if status != 200:
                    failed.append(body)
                due += 8 / options.rate

        running = [threads.submit(client, n / options.rate) for n in range(8)]
        time.sleep(2)
        for n in range(2, options.swaps + 2):
            shutil.copytree(source, repository / "wine" / str(n))
            began = time.monotonic()
            control(server, "load", "wine")
            windows.append((began, time.monotonic() + 0.05))
            shutil.rmtree(repository / "wine" / str(n - 1))
            time.sleep(options.pause)
        stop.set()
        for client_run in running:
            client_run.result()
    starts = [begin for begin, _ in windows]
    inside, outside = [], []
    for due, took in records:
        at = bisect.bisect_right(starts, due) - 1
        (inside if at >= 0 and due <= windows[at][1] else outside).append(took * 1000)
    inside.sort()
    outside.sort()
    print("\n| swaps | requests | failed | steady p99 ms | p99 in swaps ms | ratio | worst over steady p99 ms | ms a swap |\n|---|---|---|---|---|---|---|---|")
    steady, swap = percentile(outside, 0.99), percentile(inside, 0.99)
    mean = sum(end - begin - 0.05 for begin, end in windows) * 1000 / len(windows)
    print(f"| {len(windows)} | {len(records)} | {len(failed)} | {steady:.2f} | {swap:.2f} | {swap / steady:.2f} | {max(inside) - steady:.1f} | {mean:.1f} |")


PARTS = {"cycles": cycles, "many": many, "swaps": swaps}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="default: all of them")
    p.add_argument("--binary", default=str(ROOT / "target" / "release" / "onnxd"))
    p.add_argument("--onnxruntime-lib", default="")
    p.add_argument("--cycles", type=int, default=1000)
    p.add_argument("--models", type=int, nargs="*", default=[1000, 3000, 10000])
    p.add_argument("--swaps", type=int, default=200)
    p.add_argument("--rate", type=float, default=500, help="requests a second while models are swapped")
    p.add_argument("--pause", type=float, default=0.2, help="seconds between two swaps")
    options = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts or PARTS:
            print(f"\n{PARTS[part].__doc__.strip()}")
            PARTS[part](options, pathlib.Path(folder))


if __name__ == "__main__":
    main()
