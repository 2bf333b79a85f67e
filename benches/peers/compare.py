#!/usr/bin/env python3
"""onnxd beside its peers: both servers of a pair up at once, loaded in turn (A B, B A, ...), the ratio taken a round.

Run by benches/peers.sh. Prints Markdown: the pairs with the interval of each ratio's median, an A/A pair (onnxd and onnxd) that
says what this machine's noise alone makes of a ratio, bare onnxruntime taken in the same minutes, and health checks under load.
"""
import argparse, datetime, functools, http.client, json, math, os, platform, signal, statistics, subprocess, sys, tempfile, threading, time
from types import SimpleNamespace

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import bench
from interval import interval

MODELS = ["tabular_mlp", "minilm", "gbdt", "resnet50", "image_head"]
# Models that answer one question: their protocols and clients.
ONLY = {"image_head": (["json"], [4])}
PEERS = ["triton_py", "fastapi", "mosec"]
PROTOCOLS = ["grpc", "bin", "json"]
# What a peer speaks where onnxd speaks the key: the same bytes in another envelope, or nothing.
SPOKEN = {"triton_py": {p: p for p in PROTOCOLS}, "fastapi": {"bin": "bin", "json": "json"}, "mosec": {"bin": "msgpack", "json": "json"}}
FLOORS = [("minilm", 8), ("resnet50", 4)]  # where onnxd is held against bare onnxruntime
COMMAND = (
    "serve --models {PEERS_HOME}/models --load {MODEL} --http 127.0.0.1:{HTTP_PORT} "
    "--grpc 127.0.0.1:{GRPC_PORT} --operator 127.0.0.1:{AUX_PORT}"
)
COLUMNS = [("thr", "infer/s", 1), ("p50", "p50 ms", 1), ("p99", "p99 ms", 1), ("cpu1k", "CPU ms", 1)]


def arguments():
    names = lambda text: text.split(",")
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--models", type=names, default=MODELS)
    a.add_argument("--peers", type=names, default=PEERS)
    a.add_argument("--protocols", type=names, default=PROTOCOLS)
    a.add_argument("-c", "--clients", type=lambda t: [int(x) for x in t.split(",")], default=[1, 8, 32])
    a.add_argument("--rounds", type=int, default=7, help="how often each side of a pair is loaded (default 7)")
    a.add_argument("--secs", type=int, default=2, help="how long each time (default 2; resnet50 three times that)")
    a.add_argument("--quick", action="store_true", help="tabular_mlp against triton_py at 8 clients, 3 rounds of 1 second")
    a.add_argument("--extra", default="", help="further arguments of onnxd serve, on every start")
    a.add_argument("--json", help="also append every round to this file, one JSON object a line")
    o = a.parse_args()
    if o.quick:
        o.models, o.peers, o.clients, o.rounds, o.secs = ["tabular_mlp"], ["triton_py"], [8], 3, 1
    return o


O = arguments()


def seconds(model):
    """An answer of resnet50 at 32 clients takes a second or two: a window must hold many."""
    return O.secs * (3 if model == "resnet50" else 1)


def say(text=""):
    print(text, flush=True)


def progress(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# ---- what is loaded


class Side:
    """One server of a pair, and the requests it is asked; answers verified before any load."""

    def __init__(self, name, model):
        ext = {"cmd": f"{os.environ['ONNXD']} {COMMAND} {O.extra}"} if name == "onnxd" else None
        self.name, self.model = name, model
        self.server = bench.Server(name, model, ext)
        self.requests = {}

    def prepare(self, proto):
        if proto in self.requests:
            return
        feed = bench.feed_for(self.model, 1, 32)
        request = bench.body_for(proto, self.model, feed)
        answer, size = self.server.wait(proto, request, 120)
        bench.verify(answer, reference(self.model))
        self.requests[proto] = request, size
        self.server.settle()

    def load(self, proto, clients, first):
        request, size = self.requests[proto]
        r = bench.load(self.server, proto, request, clients, seconds(self.model), warm=0.5 if first else 0)
        if r["bad"] or (not math.isnan(r["data"]) and abs(r["data"] / size - 1) > 0.2):
            progress(f"WARNING: {self.name} {proto} c={clients}: {r['bad']} failed, {r['data']:.0f} bytes an answer, {size} when checked")
        return r

    def stop(self):
        self.server.stop()


class Listeners(Side):
    """onnxd's own listeners, answering what onnxd answered, without a model (benches/listeners.rs)."""

    def __init__(self, model):
        answers = record(model)
        command = f"cargo bench -q --bench listeners -- --http 127.0.0.1:{{HTTP_PORT}} --grpc 127.0.0.1:{{GRPC_PORT}} --answers {answers}"
        self.name, self.model, self.requests = "listeners", model, {}
        self.server = bench.Server(self.name, model, {"cmd": command})


def record(model):
    """Asks onnxd once over each protocol and keeps the answers' bytes."""
    where = tempfile.mkdtemp(prefix="answers")
    side = Side("onnxd", model)
    try:
        for proto in PROTOCOLS:
            side.prepare(proto)
            path, headers, body = side.requests[proto][0]
            if proto == "grpc":
                import grpc

                with grpc.insecure_channel(side.server.grpc) as channel:
                    call = channel.unary_unary(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)
                    raw = call(body[5:], timeout=30)
                raw = b"\0" + len(raw).to_bytes(4, "big") + raw
            else:
                host, port = side.server.http.split(":")
                c = http.client.HTTPConnection(host, int(port), timeout=30)
                c.request("POST", path, body, headers)
                r = c.getresponse()
                raw = r.read()
                if proto == "bin":
                    open(f"{where}/bin.length", "w").write(r.getheader("Inference-Header-Content-Length"))
                c.close()
            open(f"{where}/{proto}", "wb").write(raw)
    finally:
        side.stop()
    return where


class Floor:
    """Bare onnxruntime on two threads, in a process of its own: the machine's limit."""

    name = "onnxruntime"

    def __init__(self, model):
        self.model = model

    def load(self, _proto, _clients, _first):
        script = os.path.join(bench.HERE, "floor.py")
        command = [sys.executable, script, "--json", "--model", self.model, "--combo", "2x1", "--spin", "0", "--secs", str(seconds(self.model))]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)

    def stop(self):
        pass


@functools.lru_cache(maxsize=None)
def reference(model):
    return bench.reference(model, bench.feed_for(model, 1, 32))


def rounds(a, b, protocols, clients):
    """[(result of a, result of b)], interleaved."""
    got = []
    for n in range(O.rounds):
        pair = {}
        for side in ((0, 1), (1, 0))[n % 2]:
            pair[side] = (a, b)[side].load(protocols[side], clients, n == 0)
            if O.json:
                keep = {k: v for k, v in pair[side].items() if k != "h2load"}
                with open(O.json, "a") as f:
                    f.write(json.dumps({"peer": (a, b)[side].name, "model": b.model, "proto": protocols[side], "c": clients, "round": n, **keep}) + "\n")
        got.append((pair[0], pair[1]))
    return got


# ---- what is made of it


def ratios(got):
    """{column: (median of a, median of b, (ratio b/a, low, high))}"""
    out = {}
    for key, _, _ in COLUMNS:
        pairs = [(a[key], b[key]) for a, b in got if a[key] and not math.isnan(a[key])]
        if pairs:
            out[key] = statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs), interval([y / x for x, y in pairs])
    return out


def figure(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}" if x >= 0.1 else f"{x:.3f}"


def row(model, proto, clients, peer, got):
    r, cells = ratios(got), []
    for key, _, _ in COLUMNS:
        if key not in r:
            cells.append("-")
            continue
        a, b, (mid, low, high) = r[key]
        cells.append(f"{figure(b)} / {figure(a)} = **{mid:.3f}** [{low:.3f}, {high:.3f}]")
    noise = max(max(a["noise"], b["noise"]) for a, b in got)
    say(f"| {model} | {proto} | {clients} | {peer} | " + " | ".join(cells) + f" | {noise:.0%} |")
    return r


def head(title, note):
    say(f"\n### {title}\n\n{note}\n")
    say("| model | protocol | clients | beside | " + " | ".join(c[1] for c in COLUMNS) + " | other load |")
    say("|---|---|--:|---|" + "---|" * len(COLUMNS) + "--:|")


RESULTS = []


def keep(kind, model, proto, clients, peer, got):
    r = row(model, proto, clients, peer, got)
    RESULTS.append(SimpleNamespace(kind=kind, model=model, proto=proto, clients=clients, peer=peer, r=r, got=got))


def failed(model, proto, peer, e):
    text = " ".join(f"{type(e).__name__}: {e}".replace("|", "/").split())[:300]
    say(f"| {model} | {proto} | | {peer} | FAILED: {text} |" + " |" * len(COLUMNS))


def compare(kind, model, make_peer, protocols, clients):
    """One pair of servers through its protocols and numbers of clients; a failure costs its own rows, not the run."""
    sides = []
    try:
        sides.append(make_peer())
        sides.append(Side("onnxd", model))
        for theirs, ours in protocols:
            try:
                for side, proto in zip(sides, (theirs, ours)):
                    if isinstance(side, Side):
                        side.prepare(proto)
                for c in clients:
                    progress(f"{model} {ours} c={c} beside {sides[0].name}")
                    keep(kind, model, ours, c, sides[0].name, rounds(*sides, (theirs, ours), c))
            except Exception as e:
                failed(model, ours, sides[0].name, e)
    except Exception as e:
        failed(model, "", kind, e)
    finally:
        for side in sides:
            side.stop()


def health(model):
    """Latency of readiness checks while 32 clients saturate the model."""
    side = Side("onnxd", model)
    try:
        side.prepare("grpc")
        took, done = [], threading.Event()

        def check():
            while not done.is_set():
                start = time.perf_counter()
                c = http.client.HTTPConnection(side.server.http, timeout=30)
                c.request("GET", "/v2/health/ready")
                ok = c.getresponse().status == 200
                c.close()
                took.append((time.perf_counter() - start) * 1e3 if ok else math.inf)
                time.sleep(0.01)

        thread = threading.Thread(target=check)
        thread.start()
        try:
            load = bench.load(side.server, "grpc", side.requests["grpc"][0], 32, max(5, 3 * seconds(model)), warm=0)
        finally:
            done.set()
            thread.join()
        took.sort()
        say(f"| {model} | {load['thr']:.1f} | {len(took)} | {took[len(took) // 2]:.2f} | {took[int(len(took) * 0.99)]:.2f} | {took[-1]:.2f} |")
    finally:
        side.stop()


def verdicts():
    """The targets that these rows can decide: a bound counts as met where the ratio's interval does not exclude it."""

    def worst(title, bound, column, upper, rows):
        rows = [x for x in rows if column in x.r]
        if not rows:
            return
        pick = (max if upper else min)(rows, key=lambda x: x.r[column][2][0])
        mid, low, high = pick.r[column][2]
        met = (low if upper else high) * (1 if upper else -1) <= bound * (1 if upper else -1)
        sign = "at most" if upper else "at least"
        say(f"| {title} | {sign} {bound} | {mid:.3f} [{low:.3f}, {high:.3f}] ({pick.proto}, {pick.clients} clients, {pick.peer}) | {'yes' if met else '**no**'} |")

    peers = [x for x in RESULTS if x.kind == "peer"]
    floors = [x for x in RESULTS if x.kind == "floor"]
    of = lambda model, *names: [x for x in peers if x.model == model and (not names or x.peer in names)]
    busy = lambda rows: [x for x in rows if x.clients in (8, 32)]
    say("\n### Targets\n\nThe worst row of each.\n\n| target | bound | measured | met |\n|---|---|---|---|")
    worst("tabular_mlp: CPU of triton_py's", 0.09, "cpu1k", True, busy(of("tabular_mlp", "triton_py")))
    worst("tabular_mlp: throughput over triton_py's", 7, "thr", False, busy(of("tabular_mlp", "triton_py")))
    worst("tabular_mlp: CPU of fastapi's and mosec's", 0.09, "cpu1k", True, busy(of("tabular_mlp", "fastapi", "mosec")))
    worst("tabular_mlp: CPU of its own listeners without a model", 1.5, "cpu1k", True, [x for x in RESULTS if x.kind == "echo"])
    worst("gbdt: CPU of triton_py's", 0.2, "cpu1k", True, of("gbdt", "triton_py"))
    worst("minilm: throughput over bare onnxruntime's", 1.0, "thr", False, [x for x in floors if x.model == "minilm"])
    worst("resnet50: throughput over bare onnxruntime's", 0.95, "thr", False, [x for x in floors if x.model == "resnet50"])
    worst("every row: p50 of the peer's", 1.0, "p50", True, peers)
    worst("every row: p99 of the peer's", 1.0, "p99", True, peers)
    worst("every row: throughput over the peer's (minilm at 8 clients: ahead)", 1.0, "thr", False, peers)
    worst("150,528 floats as JSON (image_head: no inference): CPU of triton_py's and fastapi's", 0.25, "cpu1k", True, of("image_head", "triton_py", "fastapi"))


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "-C", bench.HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    say(f"## onnxd beside its peers\n\n{datetime.date.today()}, commit {commit or 'unknown'}, {os.cpu_count()} cores of {model}, {O.rounds} rounds of {O.secs} s.")
    say("Each cell: onnxd's median / the other's = **the median of the rounds' ratios** [its 95% interval, of 6 rounds or more]. CPU ms is")
    say("the server's CPU time a request; h2load shares the cores, so that throughput is of server and generator together.")


def main():
    for g in (signal.SIGTERM, signal.SIGINT):  # a started server must not outlive this
        signal.signal(g, lambda *_: sys.exit(143))
    machine()
    head("A/A", "onnxd beside onnxd over gRPC: what noise alone makes of a ratio.")
    for model in [m for m in O.models if m not in ONLY]:
        compare("aa", model, lambda: Side("onnxd", model), [("grpc", "grpc")], O.clients)
    head("Peers", "Same onnxruntime, intra-op 1, two workers; mosec answers binary tensors as msgpack.")
    for model in O.models:
        spoken, clients = ONLY.get(model, (O.protocols, O.clients))
        for peer in O.peers:
            protocols = [(SPOKEN[peer][p], p) for p in spoken if p in SPOKEN[peer]]
            compare("peer", model, lambda: Side(peer, model), protocols, clients)
    if "tabular_mlp" in O.models:
        head("Listeners", "The same listeners answering recorded bytes, without a model: what onnxd adds to its own wire.")
        busy = [c for c in O.clients if c > 1]
        compare("echo", "tabular_mlp", lambda: Listeners("tabular_mlp"), [(p, p) for p in O.protocols], busy)
    floors = [(m, c) for m, c in FLOORS if m in O.models]
    if floors:
        head("Bare onnxruntime", "The same model and input in one process on two threads, without a server.")
        for model, c in floors:
            compare("floor", model, lambda: Floor(model), [(p, p) for p in O.protocols if p != "json"], [c])
        say("\n### Health checks under load\n\nGET /v2/health/ready on a new connection, while 32 clients load the model over gRPC.\n")
        say("| model | infer/s | checks | p50 ms | p99 ms | longest ms |\n|---|--:|--:|--:|--:|--:|")
        for model, _ in floors:
            health(model)
    verdicts()


if __name__ == "__main__":
    main()
