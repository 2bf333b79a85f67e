#!/usr/bin/env python3
"""What it costs to load and unload: cycles, many models, swaps under load, and a shadow beside it. Prints a table for each.

    python3 benches/lifecycle.py [--binary target/release/onnxd] [cycles] [many] [swaps] [shadow]

Needs the binaries and the example models (and a runtime that the binary finds by itself, or --onnxruntime-lib); `shadow` makes its own models with
the Python of the tests (scripts/setup-tests.sh).
"""
import argparse
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
        self.http, self.grpc, self.operator = words["http"], words["grpc"], words["operator"]
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


def load(options, server, rate, seconds, *flags, model="wine"):
    """An open-loop load by `onnxd loadtest`: its summary."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        command = [options.binary, "loadtest", "run", "--url", f"grpc://{server.grpc}", "--model", model, "--rate", str(rate)]
        command += ["--duration", f"{seconds}s", "--warm-up", "1s", "--json", str(report), "--timeout", "60s", *flags]
        run = subprocess.run(command, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(run.stdout + run.stderr)
        return json.loads(report.read_text())["summary"]["total"]


def ms(nanos):
    return nanos / 1e6


def spread(values):
    values = sorted(values)
    return f"{values[len(values) // 2]:.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def swaps(options, folder):
    """Swaps under an open-loop load of half the capacity, each with other content than the one before: what was due from the swap's
    begin until 0.2 s after its end, beside what was due at other times of the same runs; and the same around calls that change
    nothing, for the noise."""
    print("\n| server | model | rate/s | swaps | requests | failed | p99 ms, steady | p99 ms, under swaps | ratio | worst over steady p99 ms | ms a swap | ratio around nothing |\n|---|---|---|---|---|---|---|---|---|---|---|---|")
    for model, source, total, pace in swapped(options):
        repository = folder / f"swaps-{model}"
        shutil.copytree(source, repository / model / "1")
        with Server(options, repository, ONNXD_LIFECYCLE_ROLLBACK_TTL_MS="0") as server:
            server.wait_ready()
            swaps_of(options, "onnxd", server.grpc, server.operator, repository / model, total, pace)
        shutil.rmtree(repository)
    for rival in options.rival:
        name, grpc, control, repository, total, pace = rival.split(",")
        swaps_of(options, name, grpc, control, pathlib.Path(repository), int(total), float(pace))


def swaps_of(options, name, grpc, control, model, total, pace):
    """Puts `total` new versions beside the first one in the folder `model`, `pace` seconds apart, and has them loaded."""
    staged = model.parent.parent / f".{model.name}-staged"
    shutil.rmtree(staged, ignore_errors=True)
    rate = load_capacity(options, grpc, model.name) / 2

    # The generator posts by itself, so that an event costs the machine nothing but the call.
    post = lambda path: {"post": f"http://{control}/v2/repository/{path}"}
    steady, under, ratios, noise, worst, took = [], [], [], [], [], []
    done, failed, requests = 0, 0, 0
    version = max(int(v.name) for v in model.iterdir() if v.name.isdigit())
    first = model / str(version)
    while done < total:
        count = min(SWAPS_A_RUN, total - done)
        news = []
        for _ in range(count):
            version += 1
            shutil.copytree(first, staged / str(version))
            another(staged / str(version), version)
            news.append(staged / str(version))
        for run, staging, ratio in [(post("index"), [], noise), (post(f"models/{model.name}/load"), news, ratios)]:
            report = with_events(options, grpc, model, rate, pace, [run] * count, staging)
            windows = report["parts"][0]["seen"]["windows"]
            one, other = (ms(windows[part]["latency"]["p99"]) for part in ("steady", "together"))
            ratio.append(other / one)
            if ratio is noise:
                continue
            whole = report["summary"]["total"]
            versions = whole.get("versions")
            if unseen := versions and {new.name for new in news} - versions.keys():
                raise SystemExit(f"of {name} nobody saw version {', '.join(sorted(unseen))}")
            failed += whole["failed"] + whole["shed"] + whole["wrong"]
            requests += whole["due"]
            steady.append(one)
            under.append(other)
            worst.append(ms(windows["together"]["latency"]["max"]) - one)
            took += [event["to_s"] - event["from_s"] for event in report["parts"][0]["seen"]["happened"]]
        done += count
    mean = sum(took) * 1000 / len(took)
    print(f"| {name} | {model.name} | {rate:.0f} | {done} | {requests} | {failed} | {spread(steady)} | {spread(under)} | {spread(ratios)} | {max(worst):.1f} | {mean:.0f} | {spread(noise)} |", flush=True)


SWAPS_A_RUN = 50


def another(folder, number):
    """Other content that computes the same: a graph's doc_string, which protobuf lets one append."""
    for file in folder.glob("*.onnx"):
        text = f"version {number}".encode()
        with open(file, "ab") as out:
            out.write(b"\x32" + bytes([len(text)]) + text)


def with_events(options, grpc, model, rate, pace, runs, staged):
    """An open-loop load of a model's folder with events, `pace` seconds apart: its report. Before each the next of the `staged` versions
    is put in its place, outside of the windows."""
    warm = 2
    events = [{"at": f"{(n + 0.5) * pace:.2f}s", "window": "200ms", "run": run} for n, run in enumerate(runs)]
    scenario = {
        "target": {"timeout": "60s"}, "mix": [{"model": model.name}], "events": events,
        "phases": [{"name": "warm", "warm_up": True, "duration": f"{warm}s", "arrivals": {"poisson": rate}},
                   {"name": "swaps", "duration": f"{len(runs) * pace:.1f}s", "arrivals": {"poisson": rate}}],
    }
    with tempfile.TemporaryDirectory() as folder:
        file, report = pathlib.Path(folder, "scenario.yaml"), pathlib.Path(folder, "report.json")
        file.write_text(json.dumps(scenario))
        command = [options.binary, "loadtest", "run", file, "--url", f"grpc://{grpc}", "--json", report]
        with open(pathlib.Path(folder, "said"), "w+") as said:
            began = time.monotonic()
            run = subprocess.Popen(command, stdout=said, stderr=said)
            for n, new in enumerate(staged):
                # The generator's own start takes part of what is left until the event.
                time.sleep(max(0, began + warm + (n + 0.25) * pace - time.monotonic()))
                new.rename(model / new.name)
            if run.wait() != 0 or not report.exists():
                said.seek(0)
                raise SystemExit(said.read())
        return json.loads(report.read_text())


def swapped(options):
    """Model, its files, so many swaps, seconds between two."""
    wine = ROOT / "models" / "wine"
    newest = max(int(v.name) for v in wine.iterdir() if v.name.isdigit())
    yield "wine", wine / str(newest), options.swaps, 0.5
    if options.resnet:
        yield "resnet50", pathlib.Path(options.resnet), options.swaps // 4, 12


def load_capacity(options, grpc, model):
    """Requests a second that a closed loop of eight reaches."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        command = [options.binary, "loadtest", "run", "--url", f"grpc://{grpc}", "--model", model, "--arrivals", "closed:8", "--duration", "5s", "--warm-up", "1s", "--json", str(report), "--timeout", "60s"]
        run = subprocess.run(command, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(run.stdout + run.stderr)
        return json.loads(report.read_text())["summary"]["total"]["throughput"]


def shadow(options, folder):
    """What a shadow costs live work: runs with one that takes ten times as long, and one that always fails, beside runs without; and
    pairs without on both sides, for the noise."""
    repository = folder / "shadow"
    make = folder / "make.py"
    make.write_text(MODELS)
    subprocess.run([options.python, make, repository], check=True)
    print("\n| shadow | rounds | throughput ratio, closed loop of 8 | p99 ratio at half of capacity | copies compared, dropped, failed |\n|---|---|---|---|---|")
    with Server(options, repository, ONNXD_STATE=str(folder / "state")) as server:
        server.wait_ready()
        rules = lambda step: ask(server.operator, "POST", "/admin/v1/models/net/traffic", json.dumps({"step": step}))
        assert rules({"action": "set", "primary": 1})[0] == 200
        rate = load_capacity(options, server.grpc, "net") / 2
        for name, shadows in [("none (A/A)", []), ("ten times slower", [{"version": 2}]), ("always fails", [{"version": 3}])]:
            throughput, late = [], []
            for _ in range(options.rounds):
                assert rules({"action": "set", "shadows": [], "primary": 1})[0] == 200
                base, quiet = load_capacity(options, server.grpc, "net"), load(options, server, rate, 5, model="net")
                status, said = rules({"action": "set", "shadows": shadows, "primary": 1})
                assert status == 200, said
                test, beside = load_capacity(options, server.grpc, "net"), load(options, server, rate, 5, model="net")
                throughput.append(test / base)
                late.append(beside["latency"]["p99"] / quiet["latency"]["p99"])
            status = json.loads(ask(server.operator, "GET", "/admin/v1/models/net/traffic")[1])["shadows"]
            counts = ", ".join(str(status[0][key]) for key in ("compared", "dropped", "failed")) if status else "-"
            print(f"| {name} | {options.rounds} | {spread(throughput)} | {spread(late)} | {counts} |", flush=True)


# Three versions with one signature: layers of 128 by 128; ten times as many; and one that gathers what is not there.
MODELS = """
import sys, numpy as np, onnx
from pathlib import Path
from onnx import TensorProto as T, helper as h, numpy_helper
def save(version, layers, fails=False):
    weights = [numpy_helper.from_array(np.eye(128, dtype=np.float32), f"w{n}") for n in range(layers)]
    nodes = [h.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]) for n in range(layers)]
    if fails:
        # Within bounds for what is made up at load, and not for what the load sends.
        weights += [numpy_helper.from_array(np.array(1e9, np.float32), "huge"), numpy_helper.from_array(np.zeros(1, np.int64), "none")]
        nodes += [h.make_node("ReduceMax", [f"x{layers}"], ["top"], keepdims=0), h.make_node("Mul", ["top", "huge"], ["far"]),
                  h.make_node("Cast", ["far"], ["at"], to=T.INT64), h.make_node("Gather", ["none", "at"], ["got"]),
                  h.make_node("Cast", ["got"], ["zero"], to=T.FLOAT), h.make_node("Add", [f"x{layers}", "zero"], ["y"])]
    else:
        nodes.append(h.make_node("Identity", [f"x{layers}"], ["y"]))
    side = lambda name: h.make_tensor_value_info(name, T.FLOAT, ["N", 128])
    m = h.make_model(h.make_graph(nodes, "net", [side("x0")], [side("y")], weights), opset_imports=[h.make_opsetid("", 17)])
    m.ir_version = 9
    folder = Path(sys.argv[1], "net", str(version)); folder.mkdir(parents=True)
    onnx.save(m, folder / "model.onnx")
save(1, 20); save(2, 200); save(3, 20, fails=True)
Path(sys.argv[1], "net", "model.yaml").write_text("versions: all\\nwarmup: false\\n")
"""


PARTS = {"cycles": cycles, "many": many, "swaps": swaps, "shadow": shadow}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="default: all of them")
    p.add_argument("--binary", default=str(ROOT / "target" / "release" / "onnxd"))
    p.add_argument("--onnxruntime-lib", default="")
    p.add_argument("--cycles", type=int, default=1000)
    p.add_argument("--models", type=int, nargs="*", default=[1000, 3000, 10000])
    p.add_argument("--swaps", type=int, default=200)
    p.add_argument("--resnet", default="", help="folder with a resnet50's model.onnx, to swap that too")
    p.add_argument("--rival", action="append", default=[], metavar="NAME,GRPC,HTTP,FOLDER,SWAPS,SECONDS",
                   help="a running server to swap too: the addresses of its ports, the model's folder, which it loads from by call, how many swaps, and how far apart")
    p.add_argument("--rounds", type=int, default=6, help="pairs of runs with and without a shadow")
    p.add_argument("--python", default=str(ROOT / "target" / "venv-tests" / "bin" / "python"), help="one with onnx, for the shadow's models")
    options = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts or PARTS:
            print(f"\n{PARTS[part].__doc__.strip()}")
            PARTS[part](options, pathlib.Path(folder))


if __name__ == "__main__":
    main()
