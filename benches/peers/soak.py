#!/usr/bin/env python3
"""Does memory stop growing? onnxd under 32 clients on resnet50 over gRPC, its resident size once every 30 seconds.

Run by benches/soak.sh. Prints Markdown; exit code 3 where the last third's largest size is more than 2% over the second third's.
"""
import argparse, os, re, signal, subprocess, sys, tempfile, time

import bench

COMMAND = (
    "serve --models {PEERS_HOME}/models --load {MODEL} --http 127.0.0.1:{HTTP_PORT} "
    "--grpc 127.0.0.1:{GRPC_PORT} --operator 127.0.0.1:{AUX_PORT}"
)


def resident(pid):
    return int(re.search(r"^VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read(), re.M).group(1)) / 1024


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--model", default="resnet50")
    a.add_argument("--clients", type=int, default=32)
    a.add_argument("--minutes", type=float, default=10)
    o = a.parse_args()
    for g in (signal.SIGTERM, signal.SIGINT):
        signal.signal(g, lambda *_: sys.exit(143))
    server = bench.Server("onnxd", o.model, {"cmd": f"{os.environ['ONNXD']} {COMMAND}"})
    load = None
    try:
        feed = bench.feed_for(o.model, 1, 32)
        path, headers, body = bench.body_for("grpc", o.model, feed)
        answer, _ = server.wait("grpc", (path, headers, body), 120)
        bench.verify(answer, bench.reference(o.model, feed))
        print(f"{o.model}, {o.clients} clients over gRPC. Idle, one answer given: {resident(server.pid):.0f} MB resident.\n\n| minute | resident MB |\n|--:|--:|", flush=True)
        with tempfile.NamedTemporaryFile() as f:
            f.write(body)
            f.flush()
            command = ["h2load", "-t", "1", "-c", str(o.clients), "-m", "1", "-w", "24", "-W", "24", "-D", str(int(o.minutes * 60)), "-d", f.name]
            command += [x for k, v in headers.items() for x in ("-H", f"{k}: {v}")]
            load = subprocess.Popen(command + [f"http://{server.grpc}{path}"], stdout=subprocess.PIPE, text=True)
            sizes, start = [], time.time()
            while load.poll() is None:
                try:
                    load.wait(30)
                except subprocess.TimeoutExpired:
                    sizes.append(resident(server.pid))
                    print(f"| {(time.time() - start) / 60:.1f} | {sizes[-1]:.0f} |", flush=True)
        out = load.stdout.read()
        done = re.search(r"requests: .*", out)
        print(f"\n{done.group(0) if done else out[-300:]}")
        third = len(sizes) // 3
        if third:
            before, after = max(sizes[third : 2 * third]), max(sizes[2 * third :])
            grew = after > before * 1.02
            print(f"Second third at most {before:.0f} MB, last third at most {after:.0f} MB: {'still growing' if grew else 'it has stopped growing'}.")
            return 3 if grew else 0
    finally:
        if load and load.poll() is None:
            load.kill()
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
