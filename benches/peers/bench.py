#!/usr/bin/env python3
"""Starts model servers, loads them from h2load, and compares them in pairs. What compare.py stands on; of use alone for one row:

  bench.py run   --peers triton_py --ext "$ONNXD" --model tabular_mlp -c 1,8,32 [--proto grpc,json]
  bench.py pair  --a triton_py:grpc --b onnxd:grpc --ext "$ONNXD" --model tabular_mlp -c 8 --rounds 7
  bench.py check --peers all            (one verified request a peer and protocol, no load)

ONNXD is name=NAME,cmd=COMMAND: any server that speaks the Open Inference Protocol v2; {HTTP_PORT}, {GRPC_PORT}, {AUX_PORT},
{MODEL} and {PEERS_HOME} are filled in. compare.py has ours.

Before any load, one request's answer is compared with onnxruntime's own (rtol 1e-3): a row whose server answered wrongly is
never printed. After it, the bytes that came back must fit that answer: h2load counts a gRPC error (HTTP 200, grpc-status in a
trailer) as a success.

Columns: thr infer/s (items: requests x batch); p50, p99 ms (closed loop); cpu_s/1k: CPU seconds of the server's whole process
tree per 1,000 requests; pss: its proportional memory, MB; noise: share of the machine's CPU that neither the server nor h2load
used. Everything is on loopback.
"""
import argparse, json, math, os, re, shlex, signal, socket, statistics, struct, subprocess, sys, tempfile, time
import http.client
import numpy as np
import psutil

HERE = os.path.dirname(os.path.abspath(__file__))
HOME = os.environ.get("PEERS_HOME") or os.path.join(os.environ.get("CARGO_TARGET_DIR") or f"{HERE}/../../target", "peers")
HOME = os.path.abspath(HOME)
os.environ["PEERS_HOME"] = HOME
HZ = os.sysconf("SC_CLK_TCK")
PEERS = {  # name -> protocols; serve/serve_<name>.sh starts it
    "triton_py": ["grpc", "bin", "json"], "fastapi": ["bin", "json"], "mosec": ["msgpack", "json"],
}
DT = {"FLOAT": ("FP32", np.float32), "INT64": ("INT64", np.int64)}


# ---------------------------------------------------------------- requests
def feed_for(model, batch, seq):
    meta = json.load(open(f"{HOME}/models/{model}/meta.json"))
    rng, feed = np.random.default_rng(7), {}
    for v in meta["inputs"]:
        shp = [batch if i == 0 else (x if isinstance(x, int) else seq) for i, x in enumerate(v["shape"])]
        dt = DT[v["elem_type"]][1]
        if v["name"] == "attention_mask":
            a = np.ones(shp, dt)
        elif v["name"] == "token_type_ids":
            a = np.zeros(shp, dt)
        elif dt == np.int64:
            a = rng.integers(1000, 20000, shp).astype(dt)
        else:
            a = rng.standard_normal(shp).astype(dt)
        feed[v["name"]] = a
    return feed


def reference(model, feed):
    import onnxruntime as ort
    so = ort.SessionOptions()
    so.intra_op_num_threads = 1
    so.log_severity_level = 3
    s = ort.InferenceSession(f"{HOME}/models/{model}/1/model.onnx", so, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in s.get_outputs()], s.run(None, feed)))


NAME = {np.dtype(v[1]): v[0] for v in DT.values()}
NP = {v[0]: v[1] for v in DT.values()}


def body_for(proto, model, feed):
    """-> (path, headers, body)"""
    p = f"/v2/models/{model}/infer"
    if proto == "json":
        ins = [{"name": k, "shape": list(a.shape), "datatype": NAME[a.dtype], "data": a.ravel().tolist()} for k, a in feed.items()]
        return p, {"content-type": "application/json"}, \
            json.dumps({"inputs": ins}, separators=(",", ":")).encode()
    if proto == "bin":
        ins = [{"name": k, "shape": list(a.shape), "datatype": NAME[a.dtype], "parameters": {"binary_data_size": a.nbytes}} for k, a in feed.items()]
        h = json.dumps({"inputs": ins, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
        return p, {"content-type": "application/octet-stream", "inference-header-content-length": str(len(h))}, \
            h + b"".join(a.tobytes() for a in feed.values())
    if proto == "msgpack":
        import msgpack
        return "/msgpack", {"content-type": "application/msgpack"}, msgpack.packb({"inputs": [
            {"name": k, "shape": list(a.shape), "datatype": NAME[a.dtype], "data": a.tobytes()} for k, a in feed.items()]})
    if proto == "grpc":
        from tritonclient.grpc import service_pb2 as pb
        r = pb.ModelInferRequest(model_name=model)
        for k, a in feed.items():
            r.inputs.add(name=k, datatype=NAME[a.dtype], shape=a.shape)
            r.raw_input_contents.append(a.tobytes())
        m = r.SerializeToString()
        return "/inference.GRPCInferenceService/ModelInfer", \
            {"content-type": "application/grpc", "te": "trailers"}, b"\0" + struct.pack(">I", len(m)) + m
    raise SystemExit("unknown protocol " + proto)


def ask(proto, addr, path, headers, body):
    """One request -> (dict of outputs, bytes of response body)"""
    if proto == "grpc":
        import grpc
        from tritonclient.grpc import service_pb2 as pb
        big = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(addr, big) as ch:
            raw = ch.unary_unary(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)(body[5:], timeout=60)
        r = pb.ModelInferResponse.FromString(raw)
        out = {}
        for i, o in enumerate(r.outputs):
            if r.raw_output_contents:
                a = np.frombuffer(r.raw_output_contents[i], NP[o.datatype])
            else:
                c = o.contents
                a = np.array(c.fp32_contents if o.datatype == "FP32" else c.int64_contents, NP[o.datatype])
            out[o.name] = a.reshape(o.shape)
        return out, len(raw) + 5
    host, port = addr.split(":")
    c = http.client.HTTPConnection(host, int(port), timeout=60)
    c.request("POST", path, body, headers)
    r = c.getresponse()
    raw = r.read()
    if r.status != 200:
        raise RuntimeError(f"HTTP {r.status}: {raw[:300]!r}")
    if proto == "msgpack":
        import msgpack
        return {t["name"]: np.frombuffer(t["data"], NP[t["datatype"]]).reshape(t["shape"]) for t in msgpack.unpackb(raw)["outputs"]}, len(raw)
    n = r.getheader("Inference-Header-Content-Length")
    j, off, out = json.loads(raw[:int(n)] if n else raw), int(n or 0), {}
    for t in j["outputs"]:
        bs = (t.get("parameters") or {}).get("binary_data_size")
        if bs is not None:
            out[t["name"]] = np.frombuffer(raw[off:off + bs], NP[t["datatype"]]).reshape(t["shape"])
            off += bs
        else:
            out[t["name"]] = np.array(t["data"], NP[t["datatype"]]).reshape(t["shape"])
    if proto == "bin" and not n:
        print("   note: asked for binary outputs, got JSON", file=sys.stderr)
    return out, len(raw)


def verify(out, ref):
    for k, v in ref.items():
        if k not in out:
            raise RuntimeError(f"output {k} is missing: {list(out)}")
        if not np.allclose(np.asarray(out[k], np.float64).ravel(), np.asarray(v, np.float64).ravel(), rtol=1e-3, atol=1e-4):
            raise RuntimeError(f"output {k} is wrong")


# ---------------------------------------------------------------- servers
def free_base():
    base = int(os.environ.get("PEERS_PORT_BASE", "21000"))
    for b in range(base, base + 900, 10):
        if all(not used(b + i) for i in range(6)):
            return b
    raise SystemExit("no free ports")


def used(p):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", p)) == 0


class Server:
    def __init__(self, name, model, ext=None, log=None):
        self.name, self.proc, self.pid = name, None, None
        self.protos = PEERS.get(name, ["grpc", "bin", "json"])
        b = free_base()
        env = dict(os.environ, MODEL=model, HTTP_PORT=str(b), GRPC_PORT=str(b + 1), AUX_PORT=str(b + 2))
        self.http, self.grpc = f"127.0.0.1:{b}", f"127.0.0.1:{b + 1}"
        if ext:
            line = ext["cmd"]
            for k in ("HTTP_PORT", "GRPC_PORT", "AUX_PORT", "MODEL", "PEERS_HOME"):
                line = line.replace("{%s}" % k, env[k])
            cmd = shlex.split(line)
        else:
            cmd = ["bash", f"{HERE}/serve/serve_{name}.sh"]
        self.t0 = time.time()
        os.makedirs(f"{HOME}/logs", exist_ok=True)
        self.log = open(f"{HOME}/logs/bench-{name}-{b}.log", "w")
        self.proc = subprocess.Popen(cmd, env=env, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        self.pid = self.proc.pid

    def tree(self):
        if not self.pid:
            return []
        try:
            r = psutil.Process(self.pid)
            return [r] + r.children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def cpu(self):
        t = 0.0
        for p in self.tree():
            try:
                f = open(f"/proc/{p.pid}/stat").read().rsplit(")", 1)[1].split()
                t += (int(f[11]) + int(f[12])) / HZ
            except OSError:
                pass
        return t

    def pss(self):
        kb = 0
        for p in self.tree():
            try:
                kb += int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{p.pid}/smaps_rollup").read(), re.M).group(1))
            except (OSError, AttributeError):
                pass
        return kb / 1024

    def addr(self, proto):
        return self.grpc if proto == "grpc" else self.http

    def wait(self, proto, req, limit=120):
        """Until a real inference is answered: a 'ready' probe is not the same on all of them."""
        err = None
        while time.time() - self.t0 < limit:
            if self.proc and self.proc.poll() is not None:
                raise RuntimeError(f"{self.name} ended, rc {self.proc.returncode}: see {self.log.name}")
            try:
                return ask(proto, self.addr(proto), *req)
            except Exception as e:  # not up yet
                err = e
                time.sleep(0.25)
        raise RuntimeError(f"{self.name} {proto}: not ready in {limit}s: {str(err)[:300]}")

    def settle(self, limit=20):
        """Until the tree is quiet: some peers answer while their other processes still start."""
        if not self.pid:
            return
        end, calm = time.time() + limit, 0
        while time.time() < end and calm < 3:
            c = self.cpu()
            time.sleep(0.3)
            calm = calm + 1 if self.cpu() - c < 0.05 else 0

    def stop(self):
        if not self.proc:
            return
        kids = self.tree()
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(12)
        except subprocess.TimeoutExpired:
            pass
        for p in kids:
            try:
                p.kill()
            except psutil.NoSuchProcess:
                pass
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            pass


# ---------------------------------------------------------------- load
def machine_busy():
    f = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return (sum(f) - f[3] - f[4]) / HZ, sum(f) / HZ


def load(srv, proto, req, conc, secs, warm=0.5, mux=False):
    path, headers, body = req
    with tempfile.TemporaryDirectory(prefix="peers") as d:
        bf, lf = f"{d}/body", f"{d}/log"
        open(bf, "wb").write(body)
        pre = os.environ.get("LOADGEN_PREFIX", "").split()
        cmd = pre + ["h2load", "-t", "1", "-d", bf, "--log-file", lf, "-N", "30", "-T", "30"]
        cmd += ["-c", "1", "-m", str(conc)] if mux else ["-c", str(conc), "-m", "1"]
        if proto != "grpc":
            cmd.append("--h1")
        else:
            cmd += ["-w", "24", "-W", "24"]  # a large body must not wait on the default 64 kB window
        for k, v in headers.items():
            cmd += ["-H", f"{k}: {v}"]
        url = f"http://{srv.addr(proto)}{path}"
        if warm:
            subprocess.run(cmd + ["-D", str(max(1, math.ceil(warm))), url], capture_output=True, timeout=90)
            open(lf, "w").close()
        c0, (b0, t0), w0 = srv.cpu(), machine_busy(), time.time()
        u0 = os.times()
        r = subprocess.run(cmd + ["-D", str(secs), url], capture_output=True, text=True, timeout=secs + 120)
        u1 = os.times()
        w1, c1, (b1, t1) = time.time(), srv.cpu(), machine_busy()
        pss = srv.pss()
        rows = [ln.split("\t") for ln in open(lf)] if os.path.exists(lf) else []
    lat = sorted(int(x[2]) for x in rows if len(x) >= 3 and x[1] == "200")
    bad = len(rows) - len(lat)
    m = re.search(r"finished in ([\d.]+)(ms|s|us)?.*", r.stdout)
    mt = re.search(r"traffic: .*\((\d+)\) total, .*\((\d+)\) headers .*\((\d+)\) data", r.stdout)
    n = len(lat)
    if not n:
        raise RuntimeError(f"no good answer under load: {r.stdout[-600:]} {r.stderr[-300:]}")
    starts = [int(x[0]) for x in rows]
    ends = [int(x[0]) + int(x[2]) for x in rows]
    dur = (max(ends) - min(starts)) / 1e6
    gen = (u1.children_user + u1.children_system) - (u0.children_user + u0.children_system)
    mine = (c1 - c0) + gen
    return {"n": n, "bad": bad, "dur": dur, "thr": n / dur, "p50": lat[n // 2] / 1e3, "p99": lat[min(n - 1, int(n * 0.99))] / 1e3,
            "max": lat[-1] / 1e3, "cpu1k": (c1 - c0) / n * 1000 if srv.pid else float("nan"), "pss": pss,
            "gen1k": gen / n * 1000, "noise": max(0.0, (b1 - b0 - mine) / max(1e-9, t1 - t0)),
            "data": int(mt.group(3)) / n if mt else float("nan"), "h2load": r.stdout}


HEAD = f"{'peer':16} {'model':12} {'proto':8} {'b':>2} {'conc':>4} {'infer/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'cpu_s/1k':>9} {'pss MB':>7} {'bad':>4} {'noise':>6}"


def row(name, model, proto, batch, conc, r):
    return (f"{name:16} {model:12} {proto:8} {batch:>2} {conc:>4} {r['thr'] * batch:>9.1f} {r['p50']:>8.2f} {r['p99']:>8.2f} "
            f"{r['cpu1k']:>9.3f} {r['pss']:>7.0f} {r['bad']:>4} {r['noise']:>6.0%}")


def parse_ext(items):
    """{name: {"cmd": ..}} from name=NAME,cmd=COMMAND"""
    out = {}
    for item in items or []:
        head, _, cmd = item.partition(",cmd=")
        out[head.removeprefix("name=")] = {"cmd": cmd}
    return out


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["run", "pair", "check"])
    a.add_argument("--peers", default="")
    a.add_argument("--ext", action="append")
    a.add_argument("--model", default="tabular_mlp")
    a.add_argument("--proto", default="")
    a.add_argument("-c", default="1,8")
    a.add_argument("--secs", type=int, default=3)
    a.add_argument("--batch", type=int, default=1)
    a.add_argument("--seq", type=int, default=32)
    a.add_argument("--mux", action="store_true", help="gRPC: one connection with c streams, not c connections")
    a.add_argument("--a")
    a.add_argument("--b")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--quiet", type=float, default=0, help="before each load wait up to so many seconds for other work to end")
    a.add_argument("--max-noise", type=float, default=0.1, help="share of other work that --quiet and --retries accept")
    a.add_argument("--retries", type=int, default=0, help="load again while other work disturbs; the least disturbed counts")
    o = a.parse_args()
    for g in (signal.SIGTERM, signal.SIGINT):  # a started server must not outlive this
        signal.signal(g, lambda *_: sys.exit(143))
    ext = parse_ext(o.ext)
    model = o.model
    feed = feed_for(model, o.batch, o.seq)
    ref = reference(model, feed)
    concs = [int(x) for x in o.c.split(",")]
    def emit(name, proto, c, r):
        print(row(name, model, proto, o.batch, c, r), flush=True)

    def quiet():
        end = time.time() + o.quiet
        while time.time() < end:
            b, t = machine_busy()
            time.sleep(0.5)
            b1, t1 = machine_busy()
            if (b1 - b) / (t1 - t) < o.max_noise:
                return

    def one(srv, proto, c, req, size, warm=0.5):
        r = None
        for _ in range(1 + o.retries):
            quiet()
            x = load(srv, proto, req, c, o.secs, warm, o.mux and proto == "grpc")
            if r is None or x["noise"] < r["noise"]:
                r = x
            if r["noise"] <= o.max_noise:
                break
        if not math.isnan(r["data"]) and abs(r["data"] / size - 1) > 0.2:
            print(f"   WARNING {srv.name} {proto} c={c}: {r['data']:.0f} bytes an answer under load, {size} when checked", file=sys.stderr)
        return r

    if o.what in ("run", "check"):
        names = list(PEERS) if o.peers == "all" else [x for x in o.peers.split(",") if x]
        print(HEAD if o.what == "run" else "peer proto answer", flush=True)
        for name in names + list(ext):
            srv = None
            try:
                srv = Server(name, model, ext.get(name))
                for proto in (o.proto.split(",") if o.proto else srv.protos):
                    if proto not in srv.protos:
                        continue
                    try:
                        req = body_for(proto, model, feed)
                        out, size = srv.wait(proto, req, 90)
                        verify(out, ref)
                        if o.what == "check":
                            print(f"{name:16} {proto:8} ok  request {len(req[2])} B, answer {size} B, up in {time.time() - srv.t0:.1f}s, pss {srv.pss():.0f} MB", flush=True)
                            continue
                        srv.settle()
                        for c in concs:
                            emit(name, proto, c, one(srv, proto, c, req, size))
                    except Exception as e:
                        print(f"{name:16} {proto:8} FAILED {type(e).__name__}: {str(e)[:400]}", flush=True)
            finally:
                if srv:
                    srv.stop()
        return

    # pair: both servers up, rounds interleaved A B B A ..., the ratio taken per round
    sides = []
    for s in (o.a, o.b):
        name, proto = s.split(":")
        sides.append([name, proto, None, None, None])
    try:
        for s in sides:
            s[2] = Server(s[0], model, ext.get(s[0]))
            s[3] = body_for(s[1], model, feed)
            out, s[4] = s[2].wait(s[1], s[3])
            verify(out, ref)
        for s in sides:
            s[2].settle()
        for c in concs:
            got = ([], [])
            for r in range(o.rounds):
                for i in ((0, 1) if r % 2 == 0 else (1, 0)):
                    s = sides[i]
                    got[i].append(one(s[2], s[1], c, s[3], s[4], warm=0.5 if r == 0 else 0))
            for k, better in (("thr", "higher"), ("p50", "lower"), ("p99", "lower"), ("cpu1k", "lower")):
                q = sorted(y[k] / x[k] for x, y in zip(*got) if x[k])
                if not q:
                    continue
                print(f"{model} c={c} {k:6} ({better} is better) {o.a} {statistics.median(x[k] for x in got[0]):.3f}  {o.b} "
                      f"{statistics.median(x[k] for x in got[1]):.3f}  ratio b/a median {statistics.median(q):.3f} [{q[0]:.3f} .. {q[-1]:.3f}]", flush=True)
    finally:
        for s in sides:
            if s[2]:
                s[2].stop()


if __name__ == "__main__":
    main()
