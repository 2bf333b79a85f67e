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
    # A fixed number of requests: on a busy machine its own rule for a stable window may never be met.
    command = [PERF_ANALYZER, *arguments, "--request-count", "1000"]
    p = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert p.returncode == 0, p.stdout + p.stderr
    return p.stdout


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model,shape", [("wine", []), ("language", ["--shape", "tokens:24"])])
def test_closed_loop(model, shape, way):
    out = perf_analyzer("-m", model, *shape, *WAYS[way], "--concurrency-range", "4")
    assert float(re.search(r"Throughput: ([0-9.]+)", out)[1]) > 10, out
    server = out[out.index("Server:") :]
    assert int(re.search(r"Inference count: (\d+)", server)[1]) >= 900, out  # the window's ends may miss some
    assert int(re.search(r"Execution count: (\d+)", server)[1]) > 0, out
    assert re.search(r"compute infer \d+ usec", server), out


def test_batches_over_grpc():
    out = perf_analyzer("-m", "digits", *WAYS["grpc"], "-b", "8", "--concurrency-range", "2")
    assert int(re.search(r"Inference count: (\d+)", out)[1]) >= 7200, out
    assert "Request count: 1000" in out, out


def test_open_loop_over_http():
    out = perf_analyzer("-m", "wine", *WAYS["http-binary"], "--request-rate-range", "500", "--request-distribution", "poisson")
    assert float(re.search(r"Throughput: ([0-9.]+)", out)[1]) > 100, out
