#!/usr/bin/env python3
"""Writes the models that the client tests ask for: make_models.py REPOSITORY. Small, seeded, one behaviour each."""
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh

OPSET, IR = 17, 9
DATATYPES = {
    "BOOL": T.BOOL,
    "UINT8": T.UINT8,
    "UINT16": T.UINT16,
    "UINT32": T.UINT32,
    "UINT64": T.UINT64,
    "INT8": T.INT8,
    "INT16": T.INT16,
    "INT32": T.INT32,
    "INT64": T.INT64,
    "FP16": T.FLOAT16,
    "BF16": T.BFLOAT16,
    "FP32": T.FLOAT,
    "FP64": T.DOUBLE,
    "BYTES": T.STRING,
}


def value(name, datatype, shape):
    return h.make_tensor_value_info(name, DATATYPES[datatype], shape)


def const(name, array):
    return nh.from_array(np.asarray(array), name)


def model(nodes, ins, outs, inits=()):
    m = h.make_model(h.make_graph(nodes, "g", ins, outs, list(inits)), opset_imports=[h.make_opsetid("", OPSET)])
    m.ir_version, m.producer_name = IR, "onnxd tests/clients"
    onnx.checker.check_model(m)
    return m


def simple():
    """Triton's public example: the sum and the difference of two INT32 [N, 16]."""
    pair = lambda kind: [value(f"{kind}{i}", "INT32", ["N", 16]) for i in (0, 1)]
    nodes = [h.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), h.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
    return model(nodes, pair("INPUT"), pair("OUTPUT"))


def simple_string():
    """The same over decimal numbers as BYTES."""
    cast = lambda i, o, to: h.make_node("Cast", [i], [o], to=to)
    pair = lambda kind: [value(f"{kind}{i}", "BYTES", ["N", 16]) for i in (0, 1)]
    nodes = [
        cast("INPUT0", "a", T.INT64),
        cast("INPUT1", "b", T.INT64),
        h.make_node("Add", ["a", "b"], ["sum"]),
        h.make_node("Sub", ["a", "b"], ["difference"]),
        cast("sum", "OUTPUT0", T.STRING),
        cast("difference", "OUTPUT1", T.STRING),
    ]
    return model(nodes, pair("INPUT"), pair("OUTPUT"))


def identity(datatype):
    """Gives back what came, bit for bit."""
    side = lambda name: [value(name, datatype, ["N", "M"])]
    return model([h.make_node("Identity", ["INPUT0"], ["OUTPUT0"])], side("INPUT0"), side("OUTPUT0"))


def versioned(k):
    """Y = X + k: the answer tells which version gave it."""
    nodes = [h.make_node("Add", ["X", "k"], ["Y"])]
    return model(nodes, [value("X", "FP32", ["N", 4])], [value("Y", "FP32", ["N", 4])], [const("k", np.float32([k]))])


def optional():
    """Y = X * SCALE, where SCALE is 2 unless the request has it."""
    ins = [value("X", "FP32", ["N", 4]), value("SCALE", "FP32", [1])]
    nodes = [h.make_node("Mul", ["X", "SCALE"], ["Y"])]
    return model(nodes, ins, [value("Y", "FP32", ["N", 4])], [const("SCALE", np.float32([2]))])


def scalar():
    """Y = X + 1 on a tensor of rank 0."""
    nodes = [h.make_node("Add", ["X", "one"], ["Y"])]
    return model(nodes, [value("X", "FP32", [])], [value("Y", "FP32", [])], [const("one", np.float32(1))])


def mixed():
    """Several inputs and outputs of different types and ranks."""
    ins = [value("features", "FP32", ["N", 3]), value("weight", "FP64", ["N"]), value("name", "BYTES", ["N", 1])]
    outs = [value("sum", "FP32", ["N"]), value("weighted", "FP64", ["N"]), value("echo", "BYTES", ["N", 1]), value("big", "BOOL", ["N"])]
    nodes = [
        h.make_node("ReduceSum", ["features", "axis"], ["sum"], keepdims=0),
        h.make_node("Cast", ["sum"], ["wide"], to=T.DOUBLE),
        h.make_node("Mul", ["wide", "weight"], ["weighted"]),
        h.make_node("Identity", ["name"], ["echo"]),
        h.make_node("Greater", ["sum", "ten"], ["big"]),
    ]
    return model(nodes, ins, outs, [const("axis", np.int64([1])), const("ten", np.float32(10))])


def total():
    """The sum over an axis that may have no element."""
    nodes = [h.make_node("ReduceSum", ["X", "axis"], ["Y"], keepdims=0)]
    return model(nodes, [value("X", "FP32", ["N", "M"])], [value("Y", "FP32", ["N"])], [const("axis", np.int64([1]))])


def dense():
    """A dense layer whose weights lie in a file beside the model."""
    r = np.random.default_rng(3)
    inits = [const("w", r.standard_normal((64, 64)).astype(np.float32)), const("b", r.standard_normal(64).astype(np.float32))]
    nodes = [h.make_node("Gemm", ["X", "w", "b"], ["Y"])]
    return model(nodes, [value("X", "FP32", ["N", 64])], [value("Y", "FP32", ["N", 64])], inits)


def nan_inf():
    """X / 0: infinities and no number for 1, -1 and 0."""
    nodes = [h.make_node("Div", ["X", "zero"], ["Y"])]
    return model(nodes, [value("X", "FP32", ["N", 3])], [value("Y", "FP32", ["N", 3])], [const("zero", np.float32([0]))])


def fixed():
    """No batch axis: every dimension is a number."""
    nodes = [h.make_node("Neg", ["X"], ["Y"])]
    return model(nodes, [value("X", "FP32", [2, 3])], [value("Y", "FP32", [2, 3])])


def burn(width=96):
    """Costs what the caller says: ITERS turns of a matrix product. Y is X[0], which ties an answer to its request."""
    w = (np.random.default_rng(1).standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    square = lambda name: h.make_tensor_value_info(name, T.FLOAT, [width, width])
    flag = lambda name: h.make_tensor_value_info(name, T.BOOL, [])
    steps = [
        h.make_node("MatMul", ["s_in", "W"], ["m"]),
        h.make_node("Tanh", ["m"], ["s_out"]),
        h.make_node("Identity", ["go_in"], ["go_out"]),
    ]
    turn = h.make_tensor_value_info("i", T.INT64, [])
    body = h.make_graph(steps, "body", [turn, flag("go_in"), square("s_in")], [flag("go_out"), square("s_out")])
    nodes = [
        h.make_node("Squeeze", ["ITERS"], ["n"]),
        h.make_node("Loop", ["n", "yes", "W"], ["S"], body=body),
        h.make_node("ReduceMax", ["S"], ["max"], keepdims=0),
        h.make_node("Mul", ["max", "zero"], ["nothing"]),
        h.make_node("Add", ["X", "nothing"], ["Y"]),
    ]
    inits = [const("W", w), const("yes", np.array(True)), const("zero", np.float32(0))]
    return model(nodes, [value("X", "FP32", [1]), value("ITERS", "INT64", [1])], [value("Y", "FP32", [1])], inits)


def boom():
    """Fails when it runs, not when it loads: a lookup at the caller's index in a table of four."""
    nodes = [h.make_node("Gather", ["table", "IDX"], ["Y"])]
    table = const("table", np.arange(4, dtype=np.float32))
    return model(nodes, [value("IDX", "INT64", [1])], [value("Y", "FP32", [1])], [table])


def lookup():
    """The same for a batch: one bad row of it fails the whole run."""
    nodes = [h.make_node("Gather", ["table", "IDX"], ["Y"])]
    table = const("table", np.arange(4, dtype=np.float32))
    return model(nodes, [value("IDX", "INT64", ["N"])], [value("Y", "FP32", ["N"])], [table])


def noise():
    """Y = X + noise: never the same twice."""
    nodes = [h.make_node("RandomNormalLike", ["X"], ["noise"]), h.make_node("Add", ["X", "noise"], ["Y"])]
    return model(nodes, [value("X", "FP32", ["N", 4])], [value("Y", "FP32", ["N", 4])])


def huge():
    """As many ones as the caller says: a small request with an answer of any size."""
    one = h.make_tensor("one", T.FLOAT, [1], [1.0])
    nodes = [h.make_node("ConstantOfShape", ["SHAPE"], ["Y"], value=one)]
    return model(nodes, [value("SHAPE", "INT64", [1])], [value("Y", "FP32", ["N"])])


def write(repository):
    zoo = {f"identity_{d.lower()}": {1: identity(d)} for d in DATATYPES}
    zoo["versioned"] = {k: versioned(k) for k in (1, 2, 3)}
    for make in (simple, simple_string, optional, scalar, mixed, total, nan_inf, fixed, burn, boom, lookup, noise, huge):
        zoo[make.__name__] = {1: make()}
    for name, versions in zoo.items():
        for version, m in versions.items():
            directory = Path(repository, name, str(version))
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "model.onnx").write_bytes(m.SerializeToString())
    Path(repository, "versioned", "model.yaml").write_text("format: 1\nversions: all\n")
    directory = Path(repository, "external", "1")
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(dense(), directory / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return len(zoo) + 1


if __name__ == "__main__":
    print(write(sys.argv[1]), "test models in", sys.argv[1])
