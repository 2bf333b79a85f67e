"""Triton's perf_analyzer, unmodified: it starts, ends well and finds the server's own statistics."""
import os
import re
import subprocess
from pathlib import Path

import pytest

from support import GRPC, HTTP

PERF_ANALYZER = Path(__file__).parent / "perf_analyzer.sh"
WAYS = {
    "http-binary": ["-i", "http", "-u", HTTP],
    "http-json": ["-i", "http", "-u", HTTP, "--input-tensor-format", "json", "--output-tensor-format", "json"],
    "grpc": ["-i", "grpc", "-u", GRPC],
    "grpc-streaming": ["-i", "grpc", "-u", GRPC, "--streaming"],
}


def perf_analyzer(*arguments):
    # Windows of a number of requests, all of them stable enough: on a busy machine its own rule may never be met. And not
    # --request-count: it throws away what was answered before its first window began, and waits for that number for ever.
    windows = ["--measurement-mode", "count_windows", "--measurement-request-count", "350", "-s", "9999"]
    try:
        p = subprocess.run([PERF_ANALYZER, *arguments, *windows], capture_output=True, text=True, timeout=90, env=os.environ)
    except subprocess.TimeoutExpired as e:
        pytest.fail(f"perf_analyzer did not end; it said:\n{(e.stdout or b'').decode()}{(e.stderr or b'').decode()}")
    assert p.returncode == 0, p.stdout + p.stderr
    return p.stdout


def counts(out):
    """The requests that it counted, and the inferences that the server says it made: the windows' ends may miss some."""
    requests, inferences = (int(re.search(rf"{what} count: (\d+)", out)[1]) for what in ("Request", "Inference"))
    assert requests >= 1000, out
    return requests, inferences


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model,shape", [("wine", []), ("language", ["--shape", "tokens:24"])])
def test_closed_loop(model, shape, way):
    out = perf_analyzer("-m", model, *shape, *WAYS[way], "--concurrency-range", "4")
    assert float(re.search(r"Throughput: ([0-9.]+)", out)[1]) > 10, out
    server = out[out.index("Server:") :]
    requests, inferences = counts(out)
    assert inferences >= 0.9 * requests, out
    assert int(re.search(r"Execution count: (\d+)", server)[1]) > 0, out
    assert re.search(r"compute infer \d+ usec", server), out


def test_batches_over_grpc():
    out = perf_analyzer("-m", "digits", *WAYS["grpc"], "-b", "8", "--concurrency-range", "2")
    requests, inferences = counts(out)
    assert inferences >= 0.9 * 8 * requests, out


def test_open_loop_over_http():
    out = perf_analyzer("-m", "wine", *WAYS["http-binary"], "--request-rate-range", "500", "--request-distribution", "poisson")
    assert float(re.search(r"Throughput: ([0-9.]+)", out)[1]) > 100, out
