#!/usr/bin/env python3
"""The machine's limit: the same model in bare onnxruntime, no server, T threads each calling run() in a loop.

  floor.py --model resnet50 --combo 1x1,1x2,2x1 --secs 4      (threads x intra_op)

The Python loop itself costs some microseconds a call; --bind uses IOBinding (no output allocation on the
Python side), the nearer bound for a tiny model. Same inputs as bench.py.
"""
import argparse, json, os, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench
import onnxruntime as ort

a = argparse.ArgumentParser()
a.add_argument("--model", default="tabular_mlp")
a.add_argument("--combo", default="1x1,2x1,1x2")
a.add_argument("--batch", default="1")
a.add_argument("--seq", type=int, default=32)
a.add_argument("--secs", type=float, default=3)
a.add_argument("--spin", default="1", help="0: session.intra_op.allow_spinning off")
a.add_argument("--bind", action="store_true")
a.add_argument("--json", action="store_true", help="one JSON object a row, for compare.py")
o = a.parse_args()
o.json or print(bench.HEAD)
for b in map(int, o.batch.split(",")):
    feed = bench.feed_for(o.model, b, o.seq)
    for combo in o.combo.split(","):
        t, intra = map(int, combo.split("x"))
        so = ort.SessionOptions()
        so.intra_op_num_threads, so.inter_op_num_threads, so.log_severity_level = intra, 1, 3
        so.add_session_config_entry("session.intra_op.allow_spinning", o.spin)
        s = ort.InferenceSession(f"{bench.HOME}/models/{o.model}/1/model.onnx", so, providers=["CPUExecutionProvider"])
        lat, stop = [[] for _ in range(t)], time.perf_counter() + o.secs + 0.5
        start = time.perf_counter() + 0.5

        def work(i):
            if o.bind:
                io = s.io_binding()
                for k, v in feed.items():
                    io.bind_cpu_input(k, v)
                for x in s.get_outputs():
                    io.bind_output(x.name)
                call = lambda: s.run_with_iobinding(io)
            else:
                call = lambda: s.run(None, feed)
            while True:
                x = time.perf_counter()
                if x >= stop:
                    return
                call()
                if x >= start:
                    lat[i].append(time.perf_counter() - x)

        for _ in range(3):
            s.run(None, feed)
        th = [threading.Thread(target=work, args=(i,)) for i in range(t)]
        (b0, t0), c0 = bench.machine_busy(), time.process_time()
        [x.start() for x in th]
        [x.join() for x in th]
        (b1, t1), c1 = bench.machine_busy(), time.process_time()
        al = sorted(x for y in lat for x in y)
        n = len(al)
        r = {"thr": n / o.secs, "p50": al[n // 2] * 1e3, "p99": al[int(n * 0.99)] * 1e3, "bad": 0,
             "cpu1k": (c1 - c0) / n * 1000 * o.secs / (o.secs + 0.5), "noise": max(0, (b1 - b0 - (c1 - c0)) / (t1 - t0)),
             "pss": int(next(x for x in open("/proc/self/smaps_rollup") if x.startswith("Pss:")).split()[1]) / 1024}
        name = "ORT " + ("bind " if o.bind else "") + f"{t}thr/{intra}op" + ("" if o.spin == "1" else " nospin")
        print(json.dumps(r) if o.json else bench.row(name, o.model, "-", b, t, r), flush=True)
