#!/usr/bin/env python3
"""Writes the operator test cases of the `onnx` package as a repository, one model a case: make_operators.py REPOSITORY.

Kept are the cases that the protocol can carry (tensors of its datatypes in and out) and that ONNX Runtime itself, in this
process, answers as the case expects (which leaves out BF16: its Python takes none). Their inputs and expected outputs go
to REPOSITORY/../cases.pickle, the counts to standard output."""
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.backend.test.case.node import collect_testcases

from tensors import NAME, alike, array

warnings.simplefilter("ignore")  # cases compute infinities on purpose


def carried(model, sets):
    """Whether the protocol has a form for all that goes in and comes out."""
    kinds = {v.type.WhichOneof("value") for v in [*model.graph.input, *model.graph.output]}
    values = [v for s in sets for side in s for v in side]
    return kinds <= {"tensor_type"} and all(
        isinstance(v, (np.ndarray, np.generic)) and (np.asarray(v).dtype in NAME or np.asarray(v).dtype.kind == "U")
        for v in values
    )


def passes(case, path, sets):
    """Whether ONNX Runtime, asked directly, answers as the case expects."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for inputs, expected in sets:
            feed = dict(zip((i.name for i in session.get_inputs()), map(decoded, inputs), strict=True))
            outputs = [array(v) for v in session.run(None, feed)]
            if len(outputs) != len(expected):
                return False
            if not all(alike(*pair, case.rtol, case.atol) for pair in zip(outputs, expected)):
                return False
        return True
    except Exception:  # whatever ONNX Runtime says no with
        return False


def decoded(a):
    """Strings as ONNX Runtime's Python takes them."""
    return np.vectorize(bytes.decode, otypes=[object])(a) if a.dtype.kind == "O" and a.size else a


def main(repository):
    onnxruntime.set_default_logger_severity(4)
    cases, kept, expressible = collect_testcases(None), [], 0
    for case in cases:
        sets = case.data_sets
        if not sets or not carried(case.model, sets):
            continue
        expressible += 1
        sets = [tuple([array(v) for v in side] for side in s) for s in sets]
        path = repository / case.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(case.model, path)
        if not passes(case, path, sets):
            path.unlink()
            path.parent.rmdir()
            path.parent.parent.rmdir()
            continue
        names = [[v.name for v in side] for side in (case.model.graph.input, case.model.graph.output)]
        kept.append((case.name, *names, sets, case.rtol, case.atol))
    with open(repository.parent / "cases.pickle", "wb") as f:
        pickle.dump(kept, f)
    print(
        f"onnx {onnx.__version__}: {len(cases)} cases, {expressible} in the protocol's datatypes, {len(kept)} of them that "
        f"onnxruntime {onnxruntime.__version__} passes"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
