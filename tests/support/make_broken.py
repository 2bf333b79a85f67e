#!/usr/bin/env python3
"""Writes models that no server can serve, or none in place of `versioned`, whole files all of them: make_broken.py REPOSITORY."""
import sys
from pathlib import Path

import onnx
from onnx import TensorProto as T, helper as h

OPSETS = [h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", 3), h.make_opsetid("com.example", 1)]


def model(node, ins, outs):
    m = h.make_model(h.make_graph([node], "g", ins, outs), opset_imports=OPSETS)
    m.ir_version, m.producer_name = 9, "onnxd tests/support"
    return m


def unknown_operator():
    """A node that no runtime knows."""
    side = lambda name: [h.make_tensor_value_info(name, T.FLOAT, ["N", 4])]
    return model(h.make_node("Nonesuch", ["X"], ["Y"], domain="com.example"), side("X"), side("Y"))


def zipmap():
    """What sklearn exports unless told otherwise: probabilities as a sequence of maps."""
    scores = [h.make_tensor_value_info("P", T.FLOAT, ["N", 2])]
    row = h.make_map_type_proto(T.INT64, h.make_tensor_type_proto(T.FLOAT, []))
    rows = [h.make_value_info("Z", h.make_sequence_type_proto(row))]
    return model(h.make_node("ZipMap", ["P"], ["Z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]), scores, rows)


def no_number():
    """As make_models.py's `versioned`, and answers NaN: the root of something negative."""
    side = lambda name: [h.make_tensor_value_info(name, T.FLOAT, ["N", 4])]
    nodes = [h.make_node("Abs", ["X"], ["a"]), h.make_node("Neg", ["a"], ["n"]), h.make_node("Sub", ["n", "one"], ["m"]), h.make_node("Sqrt", ["m"], ["Y"])]
    one = h.make_tensor("one", T.FLOAT, [1], [1.0])
    m = h.make_model(h.make_graph(nodes, "g", side("X"), side("Y"), [one]), opset_imports=OPSETS)
    m.ir_version, m.producer_name = 9, "onnxd tests/support"
    return m


def other_shape():
    """As `versioned`, and answers twice as many columns."""
    side = lambda name, columns: [h.make_tensor_value_info(name, T.FLOAT, ["N", columns])]
    return model(h.make_node("Concat", ["X", "X"], ["Y"], axis=1), side("X", 4), side("Y", 8))


if __name__ == "__main__":
    for make in (unknown_operator, zipmap, no_number, other_shape):
        directory = Path(sys.argv[1], make.__name__, "1")
        directory.mkdir(parents=True, exist_ok=True)
        onnx.save(make(), directory / "model.onnx")
