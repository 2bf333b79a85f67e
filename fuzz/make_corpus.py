#!/usr/bin/env python3
"""Writes fuzz/corpus, the inputs that the fuzzers start from: make_corpus.py (with the Python of target/venv-tests)."""
import gzip
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh
from tritonclient.grpc import service_pb2 as pb

CORPUS = Path(__file__).parent / "corpus"
SIZES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2}
SIZES |= {"UINT32": 4, "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8}


def write(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def framed(*texts):
    return b"".join(struct.pack("<I", len(t)) + t for t in texts)


def grpc():
    Input = pb.ModelInferRequest.InferInputTensor
    for datatype, size in SIZES.items():
        r = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[bytes(2 * size)])
        r.inputs.append(Input(name="x", datatype=datatype, shape=[1, 2]))
        write("grpc", f"raw-{datatype}", r.SerializeToString())
    fields = {
        "BOOL": ("bool_contents", [True, False]),
        "INT8": ("int_contents", [-128, 127]),
        "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
        "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
        "UINT16": ("uint_contents", [0, 65535]),
        "UINT64": ("uint64_contents", [0, 2**64 - 1]),
        "FP32": ("fp32_contents", [0.1, float("nan")]),
        "FP64": ("fp64_contents", [0.1, float("-inf")]),
        "BYTES": ("bytes_contents", [b"", b"a\0b"]),
    }
    for datatype, (field, values) in fields.items():
        r = pb.ModelInferRequest(model_name="m", model_version="1")
        x = Input(name="x", datatype=datatype, shape=[2])
        getattr(x.contents, field).extend(values)
        r.inputs.append(x)
        write("grpc", f"typed-{datatype}", r.SerializeToString())
    r = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"", framed(b"a", b"\xff\0", b"")])
    r.inputs.append(Input(name="empty", datatype="FP32", shape=[0, 3]))
    r.inputs.append(Input(name="text", datatype="BYTES", shape=[3]))
    for key, value in {"a": True, "timeout": 5, "c": "text"}.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(r.parameters[key], kind, value)
    r.parameters["priority"].uint64_param = 2**63
    r.parameters["d"].double_param = 0.5
    out = pb.ModelInferRequest.InferRequestedOutputTensor(name="y")
    out.parameters["classification"].int64_param = 3
    r.outputs.append(out)
    write("grpc", "everything", r.SerializeToString(deterministic=True))


def text_and_binary():
    x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.12345678901234568, -1e-7]}
    samples = {
        "floats": {"id": "1", "inputs": [x]},
        "nested": {"inputs": [{**x, "shape": [2, 1, 2], "data": [[[1, 2]], [[3, 4.5]]]}]},
        "integers": {"inputs": [{**x, "datatype": "INT64", "data": [-(2**63), 2**63 - 1]}]},
        "unsigned": {"inputs": [{**x, "datatype": "UINT64", "data": [0, 2**64 - 1]}]},
        "small": {"inputs": [{**x, "datatype": "INT8", "data": [-128, 127]}]},
        "bool": {"inputs": [{**x, "datatype": "BOOL", "data": [True, 0]}]},
        "half": {"inputs": [{**x, "datatype": "FP16", "data": [65504, 6e-8]}]},
        "bfloat": {"inputs": [{**x, "datatype": "BF16", "data": [3e38, 1]}]},
        "double": {"inputs": [{**x, "datatype": "FP64", "data": [1.7976931348623157e308, 5e-324]}]},
        "strings": {"inputs": [{**x, "datatype": "BYTES", "data": ["", "é\n\"\\\u0000\U0001f600"]}]},
        "special": {"inputs": [{**x, "shape": [5], "data": ["NaN", "-Infinity", float("inf"), float("nan"), 0]}]},
        "scalar": {"inputs": [{**x, "shape": [], "data": [7]}]},
        "empty": {"inputs": [{**x, "shape": [0, 3], "data": []}]},
        "late": {"inputs": [dict(reversed(x.items()))]},
        "parameters": {
            "parameters": {"a": 1, "b": -1.5e3, "c": "t", "timeout": 18446744073709551615, "binary_data_output": False},
            "inputs": [x],
            "outputs": [{"name": "y", "parameters": {"classification": 3, "binary_data": True}}, {"name": "z"}],
            "unknown": [{"a": [[], {}, None, True]}],
        },
    }
    for name, body in samples.items():
        write("json", name, json.dumps(body))
        write("json", f"{name}-ascii-off", json.dumps(body, ensure_ascii=False, separators=(",", ":")))
    write("json", "deep", '{"inputs":[{"name":"x","a":' + "[" * 90 + "]" * 90 + "}]}")
    write("json", "long-numbers", '{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[1e400,0.' + "1" * 60 + ",-0]}]}")
    for datatype, size in [*SIZES.items(), ("BYTES", 7)]:
        data = framed(b"abc") if datatype == "BYTES" else bytes(2 * size)
        shape = [1] if datatype == "BYTES" else [2]
        head = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        for name, inputs, tail in (("one", [head], data), ("two", [x, head], data)):
            text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
            write("binary", f"{name}-{datatype}", struct.pack("<H", len(text)) + text + tail)
    write("binary", "raw", struct.pack("<H", 0) + bytes(8))


def tfs():
    """A byte for the kind of body (1: examples) and of model (2: two inputs, 4: which may be left out), then the body."""
    bodies = {
        "rows": (0, {"instances": [[1, 2.5], [3, -4e2]]}),
        "row-objects": (2, {"instances": [{"a": "x", "b": [1, 2]}, {"a": {"b64": "YQ=="}, "b": [3, 4]}]}),
        "columns": (2, {"inputs": {"a": ["x", "y"], "b": [[1.5, 2], [3, 4]]}, "signature_name": "serving_default"}),
        "one-column": (0, {"inputs": [[1.5, 2], [3, 4]]}),
        "optional": (6, {"instances": [{"b": [1]}, {"b": [2]}]}),
        "examples": (3, {"context": {"b": [1, 2]}, "examples": [{"a": "x"}, {"a": ["y"], "b": [3, 4]}]}),
        "ragged": (0, {"instances": [[1, 2], [3], [[4]]]}),
    }
    for name, (kind, body) in bodies.items():
        write("tfs", name, bytes([kind]) + json.dumps(body).encode())
    write("tfs", "tokens", b"\0" + b'{"instances": [[NaN, Infinity], [-Infinity, "NaN"]]}')
    write("tfs", "deep", b"\0" + b'{"inputs": ' + b"[" * 90 + b"]" * 90 + b"}")


def graphs():
    value = lambda name, shape, kind=T.FLOAT: h.make_tensor_value_info(name, kind, shape)
    add = h.make_node("Add", ["x", "w"], ["y"])
    w = nh.from_array(np.ones((1, 2), np.float32), "w")
    plain = h.make_graph([add], "g", [value("x", ["N", 2])], [value("y", ["N", 2])], [w])
    branch = lambda op: h.make_graph([h.make_node(op, ["x"], ["z"])], op, [], [value("z", None)])
    choice = h.make_node("If", ["c"], ["y"], then_branch=branch("Abs"), else_branch=branch("Neg"))
    control = h.make_graph([choice], "g", [value("c", [], T.BOOL), value("x", [2])], [value("y", [2])])
    external = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[1, 2], data_location=T.EXTERNAL)
    external.external_data.add(key="location", value="../../etc/passwd")
    outside = h.make_graph([add], "g", [value("x", [1, 2])], [value("y", [1, 2])], [external])
    pairs = h.make_map_type_proto(T.INT64, h.make_tensor_type_proto(T.FLOAT, None))
    zipped = h.make_graph(
        [h.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])],
        "g",
        [value("x", ["N", 2])],
        [h.make_value_info("y", h.make_sequence_type_proto(pairs))],
    )
    opsets = [h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", 3)]
    for name, graph in {"plain": plain, "if": control, "external": outside, "zipmap": zipped}.items():
        m = h.make_model(graph, opset_imports=opsets, producer_name="corpus")
        m.ir_version = 9
        if name == "plain":
            h.set_model_props(m, {"labels": '["a", "b"]', "labels_output": "y"})
        write("graph", name, m.SerializeToString())


def yaml():
    root = Path(__file__).parents[1]
    write("yaml", "model", (root / "docs/model.example.yaml").read_bytes())
    write("yaml", "versions", "format: 1\nversions: {latest: 2}\nbatching: {mode: turn, max_batch_size: 8}\n")
    write("yaml", "list", "format: 1\nversions: [1, 3]\nlabels: {y: [a, b]}\n")
    providers = "[{name: openvino, device_id: 0, options: {device_type: CPU}}]"
    write("yaml", "providers", f"backend: ort\nsession:\n  providers: {providers}\n  fallback: true\n")
    write("yaml", "server", "models: m\nhttp: off\nload: [a, b]\nlog: {level: debug}\ndefaults: {warmup: false}\n")
    write("yaml", "aliases", "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n")
    write("yaml", "nested", "labels: " + "[" * 60 + "]" * 60 + "\n")


def pbtxt():
    whole = """
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] },
  { name: "mask", data_type: TYPE_INT64, dims: -1 optional: false }
]
output { name: "y" data_type: TYPE_FP32 dims: 1000 label_filename: "labels.txt" }
version_policy: { latest { num_versions: 2 } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 2, 4 ]
  max_queue_delay_microseconds: 500
  priority_levels: 4
  default_priority_level: 3
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 2500 max_queue_size: 100 }
}
optimization {
  graph { level: 1 }
  execution_accelerators {
    cpu_execution_accelerator: [ { name: "openvino" } ]
  }
}
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value: { data_type: TYPE_FP32 dims: 3 zero_data: true } } } ]
response_cache { enable: true }
model_transaction_policy { decoupled: false }
"""
    write("pbtxt", "whole", whole)
    write("pbtxt", "brackets", "input < name: 'x' dims: [-1, 0x10, 017], > ; output { name: \"y\" \"z\" }")
    write("pbtxt", "escapes", 'name: "\\x6d" # m\nmetric_tags { key: "\\n\\101\\u00fc" value: \'"\' }')
    write("pbtxt", "gpus", 'instance_group { kind: KIND_GPU gpus: [ 1, 2 ] } optimization { graph { level: -1 } }')
    write("pbtxt", "deep", "optimization { cuda { " * 20)
    write("pbtxt", "refused", 'sequence_batching { }')


def paths():
    for n, text in enumerate(["model", "%2e%2e", "a%2Fb", "%252e", "%00", "%e2%82%ac", "%", "%zz", "%ff", "a" * 300]):
        write("path", str(n), text)


def flate():
    text = b"the same, " * 20
    packed = {"gzip": (0, gzip.compress(text, mtime=0)), "deflate": (1, zlib.compress(text))}
    packed["members"] = (0, gzip.compress(b"a", mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(text, mtime=0))
    packed["bomb"] = (0, gzip.compress(bytes(1 << 18), mtime=0))
    packed["raw"] = (1, zlib.compress(text)[2:-4])
    packed["plain"] = (0, text)
    for name, (coding, data) in packed.items():
        for pace in (0, 99):
            write("flate", f"{name}-{pace}", bytes([coding, pace]) + data)


def heads():
    length, chunked = b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"
    for name, fields in {
        "plain": length,
        "chunked": chunked,
        "both": length + chunked,
        "two-lengths": length + length,
        "two-encodings": chunked + chunked,
        "bare-lf": b"A: b\n" + length,
        "folded": b"A: b\r\n c: d\r\n",
        "long": b"A: " + b"b" * 1100 + b"\r\n",
    }.items():
        write("head", name, b"Host: a\r\n" + fields + b"\r\n{}")


for make in (grpc, text_and_binary, tfs, graphs, yaml, pbtxt, paths, flate, heads):
    make()
