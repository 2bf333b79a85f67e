#!/usr/bin/env python3
"""What the prediction log costs the answers, what a disk that hangs does to them, and how long many rows take to read back. Prints a
table for each part.

    python3 benches/predlog.py [--binary target/release/onnxd] [cost] [hang] [rows --rows 10000000]

cost  tabular_mlp with the log off, best_effort and durable: servers loaded in turn, beside a second one without a log for the noise
hang  a file system that is frozen for a minute at full load (a loop device and fsfreeze: needs root)
rows  a log of so many rows and its labels, made by benches/predlog.rs, and what reads it: log stat, log sql, dataset build

Needs the binaries (`cargo build --release --workspace`) and a runtime that onnxd finds by itself, or --onnxruntime-lib; cost and hang make
their model with the Python of the tests (scripts/setup-tests.sh), rows needs cargo.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from interval import interval
from lifecycle import ROOT, Server, ask

MODEL = "tabular_mlp"
# Files are closed often, so that making Parquet of them is part of every run, as it is of a day.
ROTATE_BYTES = 8 << 20


def make_model(options, folder):
    """The model of the peers' bench, in a repository of its own."""
    make = "import os, sys; sys.path.insert(0, sys.argv[1]); import make_models as m; m.save('tabular_mlp', m.tabular_mlp(), 'seed 1')"
    environment = {**os.environ, "PEERS_HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    made = subprocess.run([options.python, "-c", make, ROOT / "benches" / "peers"], env=environment, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"the model cannot be made (scripts/setup-tests.sh makes the environment): {made.stderr[-500:]}")
    return folder / "models"


def serve(options, repository, log, mode, **environment):
    """A server whose log is in `log`: of this mode, or none."""
    if mode != "off":
        environment |= {"ONNXD_DEFAULTS_LOG_ENABLED": "true", "ONNXD_DEFAULTS_LOG_MODE": mode}
    server = Server(options, repository, ONNXD_PREDICTION_LOG_DIR=str(log), **environment)
    server.log = log
    server.wait_ready()
    return server


def load(options, server, clients, seconds, warm=0.3):
    """A closed loop of so many callers by `onnxd loadtest`: what it found."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        command = [options.binary, "loadtest", "run", "--url", f"grpc://{server.grpc}", "--model", MODEL]
        command += ["--arrivals", f"closed:{clients}", "--duration", f"{seconds}s", "--warm-up", f"{int(warm * 1000)}ms", "--json", str(report)]
        run = subprocess.run(command, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(run.stdout + run.stderr)
        return json.loads(report.read_text())["summary"]["total"]


def metric(server, name):
    """The sum over all series of a metric."""
    page = ask(server.operator, "GET", "/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^onnxd_{name}(?:{{[^}}]*}})? (\S+)$", page, re.M))


def settle(server):
    """Until it has written what it holds, and made Parquet of what is no longer open."""
    while metric(server, "predlog_rows_in_flight") or metric(server, "predlog_wal_bytes") >= ROTATE_BYTES:
        time.sleep(0.02)
    time.sleep(0.2)


def account(log):
    """What the server that has ended says of its rows."""
    (manifest,) = (log / "_manifest").glob("*.json")
    return json.loads(manifest.read_text())["models"][MODEL]


def leftover(log):
    """What is in the write-ahead log."""
    return list(log.glob("_wal/*/*.wal"))


def between(values, form="{:.2f}"):
    return "{} [{}, {}]".format(*(form.format(v) for v in interval(values)))


def compared(pairs, form):
    """Both medians, and the ratio that the rounds have."""
    first, second = (form.format(statistics.median(side)) for side in zip(*pairs))
    return f"{first} / {second} = **{between([b / a for a, b in pairs], '{:.3f}')}**"


def sync_ms(folder):
    """What one small write with its sync takes there."""
    with open(folder / "sync", "wb") as file:
        took = []
        for _ in range(100):
            file.write(b"x" * 4096)
            file.flush()
            began = time.monotonic()
            os.fdatasync(file.fileno())
            took.append((time.monotonic() - began) * 1000)
    return statistics.median(took)


def cost(options, folder):
    """What the log costs: pairs of runs without and with it, in turn, each ratio the median of the rounds' with its 95% interval."""
    repository = make_model(options, folder)
    # What Parquet is made of waits for idle processors, up to a quarter of what there may be written ahead: here, hardly.
    no_room = {"ONNXD_PREDICTION_LOG_WAL_MAX_BYTES": str(64 << 20)}
    modes = {
        "off again (A/A)": ("off", {}),
        "best_effort": ("best_effort", {}),
        "best_effort, little waits": ("best_effort", no_room),
        "durable": ("durable", {}),
    }
    print(f"\n{options.rounds} rounds of {options.seconds} s; a sync of 4 KiB takes {sync_ms(folder):.2f} ms here.\n")
    print("| clients | log | infer/s off / with | p99 ms off / with | rows | dropped |\n|---|---|---|---|---|---|", flush=True)
    alone = {}
    with contextlib.ExitStack() as stack:
        often = {"ONNXD_PREDICTION_LOG_ROTATE_BYTES": str(ROTATE_BYTES)}
        start = lambda name, mode, more: stack.enter_context(serve(options, repository, folder / f"log {name}", mode, **often, **more))
        base = start("base", "off", {})
        servers = {name: start(name, *mode) for name, mode in modes.items()}
        for server in [base, *servers.values()]:
            load(options, server, 8, 0.5)
        for clients in options.clients:
            for name, server in servers.items():
                if clients == 1 and name.startswith("best_effort"):
                    continue
                counted = [metric(server, f"predlog_rows_{what}_total") for what in ("received", "dropped")]
                pairs = []
                for n in range(options.rounds):
                    order = [base, server] if n % 2 else [server, base]
                    got = {}
                    for side in order:
                        got[side] = load(options, side, clients, options.seconds)
                        settle(side)
                    pairs.append((got[base], got[server]))
                failed = sum(run["failed"] + run["shed"] + run["wrong"] for pair in pairs for run in pair)
                if failed:
                    print(f"WARNING: {failed} requests failed", file=sys.stderr)
                speed = [(a["throughput"], b["throughput"]) for a, b in pairs]
                late = [(a["latency"]["p99"] / 1e6, b["latency"]["p99"] / 1e6) for a, b in pairs]
                received, dropped = (metric(server, f"predlog_rows_{what}_total") - before for what, before in zip(("received", "dropped"), counted))
                alone[name, clients] = statistics.median(b for _, b in speed)
                print(f"| {clients} | {name} | {compared(speed, '{:.0f}')} | {compared(late, '{:.2f}')} | {received:.0f} | {dropped:.0f} |", flush=True)
    if ("durable", 1) in alone and ("durable", 32) in alone:
        grown = alone["durable", 32] / alone["durable", 1]
        print(f"\nGroup commit: durable answers {grown:.1f} times as many requests at 32 clients as at 1.")


@contextlib.contextmanager
def small_disk(folder):
    """A file system of its own in a file, which can be frozen; thawed and gone afterwards, whatever happens."""
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(4 << 30)
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)
    try:
        run("mkfs.ext4", "-q", image)
        run("mount", "-o", "loop", image, place)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"hang needs root, mkfs.ext4 and a loop device: {getattr(error, 'stderr', error)}")
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "-u", place], capture_output=True)
        subprocess.run(["umount", "-l", place], capture_output=True)


class Watch:
    """The highest memory of a server, and of its log's rows, while it stands."""

    def __init__(self, server):
        self.server, self.over = server, threading.Event()
        self.resident = self.queue = 0
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over.wait(0.1):
            self.resident = max(self.resident, self.server.held()[0])
            self.queue = max(self.queue, metric(self.server, "predlog_queue_bytes") / 2**20)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def hang(options, folder):
    """A disk that hangs at full load: runs of 5 s before, during and after; medians with their 95% intervals, and the highest memory."""
    repository = make_model(options, folder)
    print("\n| disk | runs | infer/s | p99 ms | answered | rows received | dropped | rows in memory MiB | resident MiB |\n|---|---|---|---|---|---|---|---|---|", flush=True)
    counters = ("received", "written", "dropped")
    answered = 0
    with small_disk(folder) as disk:
        with serve(options, repository, disk / "log", "best_effort") as server:
            read = lambda: {what: metric(server, f"predlog_rows_{what}_total") for what in counters}
            answered += load(options, server, 8, 3, warm=0)["good"]
            settle(server)
            for phase, count in [("writes", options.hang // 10), ("writes (A/A)", options.hang // 10), ("hangs", options.hang // 5), ("writes again", options.hang // 10)]:
                before = read()
                if phase == "hangs":
                    subprocess.run(["fsfreeze", "-f", disk], check=True)
                try:
                    with Watch(server) as watch:
                        runs = [load(options, server, 8, 5, warm=0) for _ in range(max(count, 1))]
                finally:
                    if phase == "hangs":
                        subprocess.run(["fsfreeze", "-u", disk], check=True)
                good = sum(run["good"] for run in runs)
                answered += good
                settle(server)
                received, written, dropped = (read()[what] - before[what] for what in counters)
                assert received == written + dropped, (received, written, dropped)
                speed, late = between([run["throughput"] for run in runs], "{:.0f}"), between([run["latency"]["p99"] / 1e6 for run in runs])
                print(f"| {phase} | {len(runs)} | {speed} | {late} | {good} | {received:.0f} | {dropped:.0f} | {watch.queue:.1f} | {watch.resident:.0f} |", flush=True)
            failed = metric(server, "predlog_rows_received_total") - answered
        own = account(disk / "log")
        if leftover(disk / "log"):
            # It was told to stop before everything was Parquet: the next start does the rest.
            with serve(options, repository, disk / "log", "off"):
                while leftover(disk / "log"):
                    time.sleep(0.1)
        versions = json.loads(offline(options, "log", "stat", "--dir", disk / "log", "--output", "json"))
        rows = sum(version["rows"] for version in versions)
    dropped = sum(own["dropped"].values())
    holds = own["received"] == own["written"] + dropped and own["in_flight"] == 0 and rows == own["written"]
    print(f"\nReceived {own['received']} = written {own['written']} + dropped {dropped} {own['dropped']}, and {rows} rows stand in the files: {'exact' if holds else 'WRONG'}.")
    print(f"Of the requests, {answered} were answered as the client counts them; {failed:.0f} rows more were received (the client's own first requests).")


def offline(options, *command):
    """What a command of onnxd prints."""
    run = subprocess.run([options.binary, *map(str, command)], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{command}: {run.stderr}")
    return run.stdout


def measured(options, *command):
    """Runs a command of onnxd: seconds, its highest resident size in MiB, and whether it refused for want of memory."""
    began = time.monotonic()
    process = subprocess.Popen([options.binary, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    refused = process.returncode != 0 and "it needs more" in said
    if process.returncode and not refused:
        raise SystemExit(f"{' '.join(map(str, command))}: {said[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss / 1024, refused


JOINED = """
select date_trunc('day', ts) as day, count(*) as n, count(label) as labelled,
  avg(case when label is null then null when label = pred_label then 1.0 else 0.0 end) as agreed, avg(pred_score) as score
from labelled group by 1 order by 1
"""


def rows(options, folder):
    """Many rows, read back: seconds and the highest resident size of each command."""
    log = folder / "log"
    environment = {**os.environ, "PREDLOG_ROWS": str(options.rows), "PREDLOG_DIR": str(log)}
    began = time.monotonic()
    made = subprocess.run(["cargo", "bench", "-q", "--workspace", "--bench", "predlog"], cwd=ROOT, env=environment, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(made.stderr)
    files = list(log.glob("log/v1/**/*.parquet"))
    size = sum(file.stat().st_size for file in files)
    print(f"\n{options.rows} rows in {len(files)} files of {size / 2**20:.0f} MiB, made in {time.monotonic() - began:.0f} s; {made.stdout.strip()}\n")
    print("| command | memory limit MiB | seconds | highest resident MiB |\n|---|---|---|---|", flush=True)
    whole = ["--maturity", "1d", "--out"]
    for limit, command in [
        ("-", ["log", "stat"]),
        ("-", ["log", "stat", "--columns"]),
        (512, ["log", "sql", JOINED]),
        (256, ["log", "sql", JOINED]),
        (512, ["dataset", "build", "--model", "bench", *whole, folder / "set"]),
        (256, ["dataset", "build", "--model", "bench", *whole, folder / "small"]),
    ]:
        flags = ["--memory-limit", f"{limit}MiB"] if limit != "-" else []
        seconds, resident, refused = measured(options, *command, "--dir", log, *flags)
        name = "log sql, joined with labels" if "sql" in command else " ".join(word for word in map(str, command) if "/" not in word and word != "--out")
        print(f"| {name}{', refused' * refused} | {limit} | {seconds:.1f} | {resident:.0f} |", flush=True)
    sets = [json.loads((folder / name / "manifest.json").read_text()) for name in ("set", "small")]
    parts = ", ".join(f"{file['rows']} {file['slice']}" for file in sets[0]["files"])
    print(f"\nThe data set has {parts}; its id is {'the same' if sets[0]['id'] == sets[1]['id'] else 'ANOTHER'} with the smaller limit.")


PARTS = {"cost": cost, "hang": hang, "rows": rows}


def main():
    for number in (signal.SIGTERM, signal.SIGINT):  # no server and no frozen disk outlives this
        signal.signal(number, lambda *_: sys.exit(143))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="default: cost and hang, and rows where --rows is given")
    p.add_argument("--binary", default=str(ROOT / "target" / "release" / "onnxd"))
    p.add_argument("--onnxruntime-lib", default="")
    p.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    p.add_argument("--rounds", type=int, default=7, help="pairs of runs without and with the log")
    p.add_argument("--seconds", type=float, default=2, help="of a run")
    p.add_argument("--hang", type=int, default=60, help="seconds that the disk hangs")
    p.add_argument("--rows", type=int, default=0)
    p.add_argument("--dir", default=None, help="where logs are written; a disk, not memory [default: the system's place for temporary files]")
    p.add_argument("--python", default=str(ROOT / "target" / "venv-tests" / "bin" / "python"), help="one with onnx, for the model")
    options = p.parse_args()
    parts = options.parts or ["cost", "hang", *(["rows"] if options.rows else [])]
    options.rows = options.rows or 10_000_000
    for part in parts:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            print(f"\n{PARTS[part].__doc__.strip()}")
            PARTS[part](options, pathlib.Path(folder))


if __name__ == "__main__":
    main()
