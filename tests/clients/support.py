"""What the client tests share: the server's addresses, edge values of every datatype, ONNX Runtime's own answers."""
import functools
import http.client
import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np

from tensors import NAME, NUMPY

HTTP, GRPC = os.environ["CLIENTS_HTTP"], os.environ["CLIENTS_GRPC"]
REPOSITORY = Path(os.environ["CLIENTS_REPOSITORY"])

DATATYPES = list(NUMPY)
INTEGERS = [d for d in DATATYPES if "INT" in d]
FLOATS = ["FP16", "BF16", "FP32", "FP64"]
# Where ModelInferRequest's typed contents put each datatype; FP16 and BF16 travel raw only.
FIELD = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def edges(datatype):
    """The values that go wrong first."""
    dtype = NUMPY[datatype]
    if datatype == "BOOL":
        return np.array([[True, False, True]])
    if datatype in INTEGERS:
        i = np.iinfo(dtype)
        return np.array([[i.min, i.max, 0, 1, i.max // 2]], dtype)
    if datatype in FLOATS:
        f = ml_dtypes.finfo(dtype)
        return np.array([[f.min, f.max, f.smallest_normal, f.smallest_subnormal, 0.0, -0.0, 0.1, 1 / 3]], dtype)
    return strings("", "a", "ü€😀", "x" * 3000, 'line\nbreak\t"q"\\', "\u0000\u001f\u2028")


def strings(*texts):
    return np.array([[t if isinstance(t, bytes) else t.encode() for t in texts]], dtype=object)


def random(datatype, shape):
    r, dtype = np.random.default_rng(7), NUMPY[datatype]
    if datatype == "BOOL":
        return r.integers(0, 2, shape).astype(bool)
    if datatype in INTEGERS:
        i = np.iinfo(dtype)
        return r.integers(i.min, i.max, shape, dtype=dtype, endpoint=True)
    if datatype in FLOATS:
        return r.standard_normal(shape).astype(dtype)
    texts = [r.bytes(int(n)) for n in r.integers(0, 40, int(np.prod(shape)))]
    out = np.empty(len(texts), dtype=object)
    out[:] = texts
    return out.reshape(shape)


def same(a, b):
    """Bit for bit, with the shape and the type."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype == object:
        encode = lambda v: v if isinstance(v, bytes) else str(v).encode()
        return [encode(v) for v in a.ravel()] == [encode(v) for v in b.ravel()]
    return a.tobytes() == b.tobytes()


@functools.lru_cache(maxsize=None)
def session(model, version):
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = REPOSITORY / model / str(version) / "model.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def reference(model, feed, version=1):
    """{output: array} as ONNX Runtime answers, in this process."""
    s = session(model, version)
    return dict(zip((o.name for o in s.get_outputs()), s.run(None, feed)))


def tokens(*texts):
    rows = [list(t.encode()) for t in texts]
    longest = max(map(len, rows))
    return np.array([r + [0] * (longest - len(r)) for r in rows], np.int64)


def example(model, rows=3):
    """A feed for one of the example models: (newest version, {input: array})."""
    r = np.random.default_rng(rows)
    if model == "wine":
        low, high = [11, 0.7, 1.4, 11, 70, 1, 0.3, 0.1, 0.4, 1.3, 0.5, 1.3, 280], [15, 6, 3.2, 30, 160, 4, 5, 0.7, 3.6, 13, 1.7, 4, 1680]
        return 2, {"features": r.uniform(low, high, (rows, 13)).astype(np.float32)}
    if model == "digits":
        return 1, {"image": r.integers(0, 17, (rows, 1, 8, 8)).astype(np.float32)}
    if model == "diabetes":
        low, high = [19, 1, 18, 62, 97, 41, 22, 2, 3.2, 58], [79, 2, 42, 133, 301, 242, 99, 9, 6.1, 124]
        return 1, {"features": r.uniform(low, high, (rows, 10)).astype(np.float32)}
    texts = ["Wie heißt das?", "Где находится вокзал?", "¿Dónde está la estación de tren?", "これは何ですか", "What is this?"]
    return 1, {"tokens": tokens(*(texts[i % len(texts)] for i in range(rows)))}


EXAMPLES = ["wine", "digits", "diabetes", "language"]


def request(method, path, body=None, headers=None):
    """One HTTP request on its own connection: (status, headers in lower case, body)."""
    c = http.client.HTTPConnection(HTTP, timeout=30)
    try:
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
    finally:
        c.close()


def post(path, body):
    """A JSON request: (status, the answer's JSON)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = request("POST", path, raw, {"Content-Type": "application/json"})
    return status, json.loads(answer)


def tensor(name, a, data=None):
    """A tensor as JSON."""
    values = [v.decode() if isinstance(v, bytes) else v for v in a.ravel().tolist()]
    return {"name": name, "shape": list(a.shape), "datatype": NAME[a.dtype], "data": values if data is None else data}


def names(message, *parts):
    """Whether an error tells all of that: the input, what was expected, what came."""
    missing = [p for p in parts if str(p) not in message]
    assert not missing, f"{message!r} does not say {missing}"
