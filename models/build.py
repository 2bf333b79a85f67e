#!/usr/bin/env python3
"""Trains the example models and writes the repository they live in, with a card each: the same bytes on every run.

Run by build.sh. All data come with the packages of requirements.txt, nothing is downloaded.

The bytes do not depend on the processor (exact.py says why), the seeds are fixed, and nothing holds a date.
"""
import argparse
import filecmp
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from exact import Adam, batches, cross_entropy_gradient, dot, uniform

HERE = Path(__file__).resolve().parent
OPSET, IR_VERSION = 17, 8  # old enough for every runtime that people still use


# ---- ONNX ------------------------------------------------------------------------------------------------------------


class Graph:
    """A graph under construction; parameters become initialisers under the name they are given."""

    def __init__(self, name):
        self.name, self.nodes, self.inits = name, [], []

    def param(self, name, value, dtype=np.float32):
        self.inits.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def op(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))
        return output

    def classifier(self, logits):
        self.op("Softmax", [logits], "probabilities", axis=1)
        self.op("ArgMax", [logits], "label", axis=1, keepdims=0)

    def model(self, inputs, outputs, metadata):
        info = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, self.name, *info, self.inits)
        return finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]), metadata)


def finish(model, metadata):
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string, model.domain = "onnxd models/build.py", "", "", ""
    imports = sorted((o.domain, o.version) for o in model.opset_import)  # a converter's order is a set's
    del model.opset_import[:], model.metadata_props[:]
    model.opset_import.extend(helper.make_opsetid(*o) for o in imports)
    helper.set_model_props(model, {k: json.dumps(v, ensure_ascii=False) for k, v in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def outputs_of_classifier(classes):
    return [("label", I64, ["N"]), ("probabilities", F32, ["N", classes])]


def run(model, feed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feed)))


def log_loss(probabilities, y):
    return float(-np.mean(np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-12))))


# ---- wine: a tabular classifier in two versions ----------------------------------------------------------------------


def split(rng, count, test):
    order = rng.permutation(count)
    return order[test:], order[:test]


def wine():
    from sklearn.datasets import load_wine

    data = load_wine()
    x, y = data.data.astype(np.float32).astype(np.float64), data.target
    train, test = split(np.random.default_rng(11), len(y), 78)
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = (x - mean) / std
    labels = ["Barolo", "Grignolino", "Barbera"]
    meta = {"labels": labels, "feature_names": list(data.feature_names)}
    versions, scores = {}, {}
    for version, layers in ((1, wine_linear(scaled[train], y[train])), (2, wine_mlp(scaled[train], y[train]))):
        g = Graph("wine")
        g.op("Sub", ["features", g.param("mean", mean)], "centred")
        g.op("Div", ["centred", g.param("std", std)], "h0")
        for i, (w, b) in enumerate(layers):
            last = i == len(layers) - 1
            g.op("Gemm", [f"h{i}", g.param(f"w{i}", w), g.param(f"b{i}", b)], "logits" if last else f"z{i}")
            if not last:
                g.op("Relu", [f"z{i}"], f"h{i + 1}")
        g.classifier("logits")
        m = g.model([("features", F32, ["N", 13])], outputs_of_classifier(3), meta)
        out = run(m, {"features": x[test].astype(np.float32)})
        versions[version] = m
        scores[version] = float(np.mean(out["label"] == y[test])), log_loss(out["probabilities"], y[test])
    sample = x[test[:1]].astype(np.float32)
    (a1, l1), (a2, l2) = scores[1], scores[2]
    return Card(
        name="wine",
        title="Wine: three grapes by thirteen measurements",
        what="A classifier of Piedmontese wines from their chemistry. Version 1 is softmax regression, version 2 a network "
        "with one hidden layer of 32. `model.yaml` serves both, so that their answers can be compared; a request that "
        "names no version gets version 2.",
        data="The wine recognition data (Forina and others, UCI machine learning repository), as scikit-learn ships it: "
        "100 wines for training, 78 held out.",
        licence="Data: CC BY 4.0. Model: Apache-2.0, as the rest of this repository.",
        metric=f"On the 78 held out: version 1 accuracy {a1:.3f}, log loss {l1:.3f}; version 2 accuracy {a2:.3f}, log loss {l2:.3f}.",
        short_metric=f"accuracy {a2:.3f}, log loss {l1:.3f} (version 1), {l2:.3f} (version 2)",
        tensors="`features` FP32 [N, 13]",
        tensors_note="in the order of the metadata entry `feature_names`",
        feed={"features": sample},
        files=versions,
        extra={"model.yaml": "format: 1\nversions: all\n"},
    )


def wine_linear(x, y):
    w, b = np.zeros((13, 3)), np.zeros(3)
    for _ in range(40):
        d = cross_entropy_gradient(dot(x, w) + b, y)
        w -= 0.1 * dot(x.T, d)
        b -= 0.1 * d.sum(axis=0)
    return [(w, b)]


def wine_mlp(x, y):
    rng = np.random.default_rng(12)
    w0, b0 = uniform(rng, 13, 32, fan_in=13), np.zeros(32)
    w1, b1 = uniform(rng, 32, 3, fan_in=32), np.zeros(3)
    adam = Adam([w0, b0, w1, b1], 0.01)
    for _ in range(150):
        h = np.maximum(dot(x, w0) + b0, 0)
        d = cross_entropy_gradient(dot(h, w1) + b1, y)
        dh = dot(d, w1.T) * (h > 0)
        adam.step([dot(x.T, dh) + 1e-3 * w0, dh.sum(axis=0), dot(h.T, d) + 1e-3 * w1, d.sum(axis=0)])
    return [(w0, b0), (w1, b1)]


# ---- digits: an image classifier -------------------------------------------------------------------------------------


def windows(x):
    """[N, C, H, W] -> [N*H*W, C*9]: the 3x3 neighbourhoods, zeros outside."""
    n, c, h, w = x.shape
    p = np.zeros((n, c, h + 2, w + 2))
    p[:, :, 1:-1, 1:-1] = x
    cols = np.stack([p[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=2)
    return cols.transpose(0, 3, 4, 1, 2).reshape(n * h * w, c * 9)


def unwindows(cols, shape):
    """The gradient of `windows`."""
    n, c, h, w = shape
    cols = cols.reshape(n, h, w, c, 9).transpose(0, 3, 4, 1, 2)
    p = np.zeros((n, c, h + 2, w + 2))
    for k in range(9):
        p[:, :, k // 3 : k // 3 + h, k % 3 : k % 3 + w] += cols[:, :, k]
    return p[:, :, 1:-1, 1:-1]


class Conv:
    """A 3x3 convolution with ReLU; weights [C*9, F]."""

    def __init__(self, rng, channels, filters):
        self.w, self.b = uniform(rng, channels * 9, filters, fan_in=channels * 9), np.zeros(filters)

    def forward(self, x):
        n, _, h, w = self.shape = x.shape
        self.cols = windows(x)
        self.out = np.maximum(dot(self.cols, self.w) + self.b, 0)
        return self.out.reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def backward(self, d):
        d = d.transpose(0, 2, 3, 1).reshape(self.out.shape) * (self.out > 0)
        self.grads = [dot(self.cols.T, d), d.sum(axis=0)]
        return unwindows(dot(d, self.w.T), self.shape)

    def node(self, g, x, y):
        f = len(self.b)
        kernel = self.w.T.reshape(f, -1, 3, 3)
        g.op("Conv", [x, g.param(y + "_w", kernel), g.param(y + "_b", self.b)], y + "_z", kernel_shape=[3, 3], pads=[1] * 4)
        return g.op("Relu", [y + "_z"], y)


def pool(x):
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    return blocks.max(axis=4), blocks.argmax(axis=4)


def unpool(d, where):
    n, c, h, w = d.shape
    blocks = np.zeros((n, c, h, w, 4))
    np.put_along_axis(blocks, where[..., None], d[..., None], axis=4)
    return blocks.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)


def train_digits(x, y):
    rng = np.random.default_rng(21)
    c1, c2 = Conv(rng, 1, 16), Conv(rng, 16, 32)
    w, b = uniform(rng, 512, 10, fan_in=512), np.zeros(10)
    adam = Adam([c1.w, c1.b, c2.w, c2.b, w, b], 0.003)
    for epoch in range(12):
        for batch in batches(rng, len(y), 64):
            p, where = pool(c2.forward(c1.forward(x[batch])))
            flat = p.reshape(len(batch), -1)
            d = cross_entropy_gradient(dot(flat, w) + b, y[batch])
            c1.backward(c2.backward(unpool(dot(d, w.T).reshape(p.shape), where)))
            grads = [*c1.grads, *c2.grads, dot(flat.T, d), d.sum(axis=0)]
            adam.step(grads, 0.003 if epoch < 8 else 0.0006)
    return c1, c2, w, b


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = data.images[:, None] / 16.0, data.target
    train, test = split(np.random.default_rng(22), len(y), 450)
    c1, c2, w, b = train_digits(x[train], y[train])
    g = Graph("digits")
    g.op("Mul", ["image", g.param("scale", [1 / 16])], "scaled")
    c2.node(g, c1.node(g, "scaled", "conv1"), "conv2")
    g.op("MaxPool", ["conv2"], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    g.op("Flatten", ["pooled"], "flat", axis=1)
    g.op("Gemm", ["flat", g.param("w", w), g.param("b", b)], "logits")
    g.classifier("logits")
    labels = [str(i) for i in range(10)]
    m = g.model([("image", F32, ["N", 1, 8, 8])], outputs_of_classifier(10), {"labels": labels})
    images = data.images[:, None].astype(np.float32)
    out = run(m, {"image": images[test]})
    accuracy = float(np.mean(out["label"] == y[test]))
    return Card(
        name="digits",
        title="Digits: handwritten numerals in 8x8 pixels",
        what="A convolutional network: two 3x3 convolutions (16 and 32 filters), a maximum over 2x2, one dense layer.",
        data="Optical recognition of handwritten digits (Alpaydin and Kaynak, UCI machine learning repository), as "
        "scikit-learn ships it: 1,347 images for training, 450 held out.",
        licence="Data: CC BY 4.0. Model: Apache-2.0, as the rest of this repository.",
        metric=f"On the 450 held out: accuracy {accuracy:.3f}, log loss {log_loss(out['probabilities'], y[test]):.3f}.",
        short_metric=f"accuracy {accuracy:.3f}",
        tensors="`image` FP32 [N, 1, 8, 8]",
        tensors_note="ink from 0 to 16",
        feed={"image": images[test[:1]]},
        files={1: m},
    )


# ---- diabetes: gradient-boosted trees --------------------------------------------------------------------------------


def diabetes():
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import GradientBoostingRegressor

    data = load_diabetes(scaled=False)
    x, y = data.data.astype(np.float32), data.target
    train, test = split(np.random.default_rng(31), len(y), 110)
    trees = GradientBoostingRegressor(n_estimators=120, max_depth=3, learning_rate=0.05, min_samples_leaf=8, random_state=0)
    trees.fit(x[train], y[train])
    m = convert_sklearn(
        trees,
        name="diabetes",
        initial_types=[("features", FloatTensorType([None, 10]))],
        final_types=[("progression", FloatTensorType([None, 1]))],
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    for value in (*m.graph.input, *m.graph.output):  # a converter leaves the outputs' first axis without a name
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    m = finish(m, {"feature_names": list(data.feature_names)})
    out = run(m, {"features": x[test]})["progression"][:, 0]
    assert np.allclose(out, trees.predict(x[test]), rtol=1e-4), "the exported trees answer as scikit-learn's"
    error, spread = float(np.sqrt(np.mean((out - y[test]) ** 2))), float(np.std(y[test]))
    r2 = 1 - error**2 / spread**2
    return Card(
        name="diabetes",
        title="Diabetes: progression by gradient-boosted trees",
        what="A regressor of 120 trees of depth 3, exported by skl2onnx as one TreeEnsembleRegressor. Needs ONNX Runtime.",
        data="The diabetes data of Efron, Hastie, Johnstone and Tibshirani (Least Angle Regression, 2004), as scikit-learn "
        "ships it, unscaled: 332 patients for training, 110 held out. The output is a score of the disease's progression "
        "within a year, from 25 to 346. An example, not a medical device.",
        licence="Data: published with the paper for free use, distributed by scikit-learn (BSD-3-Clause). Model: Apache-2.0.",
        metric=f"On the 110 held out: R² {r2:.3f}, root mean squared error {error:.1f} (the mean as an answer: {spread:.1f}).",
        short_metric=f"R² {r2:.3f}",
        tensors="`features` FP32 [N, 10]",
        tensors_note="in the order of the metadata entry `feature_names`; sex is 1 or 2",
        feed={"features": x[test[:1]]},
        files={1: m},
    )


# ---- language: a sequence model with a dynamic axis ------------------------------------------------------------------

LANGUAGES = "ar cs da de el en es fi fr he hi hu id it ja ko nl pl pt ro ru sv tr uk vi zh_Hans".split()
EMBED, KERNEL, FILTERS, CROP = 24, 5, 128, 64


def catalogue(path):
    """A compiled gettext file as {message: translation}, the first form of each."""
    raw = path.read_bytes()
    magic, _, count, originals, translations = struct.unpack_from("<5I", raw)
    assert magic == 0x950412DE, path
    out = {}
    for i in range(count):
        pair = [struct.unpack_from("<2I", raw, table + 8 * i) for table in (originals, translations)]
        key, value = (raw[at : at + length].split(b"\0")[0].decode() for length, at in pair)
        out[key] = value
    return out


def plain(text):
    """A message without its placeholders and mark-up: what a person would write."""
    out, depth = [], 0
    for word in text.replace("<", " <").replace(">", "> ").split():
        depth += word.startswith("<")
        if not depth and not any(c in word for c in "%{}&_=/"):
            out.append(word)
        depth -= word.endswith(">") and depth > 0
    return " ".join(out)


def sentences():
    """[(message, language index, bytes)] from the translations that Django ships, in a fixed order."""
    import django

    root, found = Path(django.__file__).parent, {}
    for index, language in enumerate(LANGUAGES):
        for path in sorted(root.glob(f"**/locale/{'de' if language == 'en' else language}/LC_MESSAGES/*.mo")):
            for message, translation in catalogue(path).items():
                text = plain(message.split("\4")[-1] if language == "en" else translation).encode()
                if len(text) >= 8 and (language == "en" or translation != message):
                    found.setdefault((index, text), message)
    return [(message, index, text) for (index, text), message in sorted(found.items())]


def pad(texts, length):
    out = np.zeros((len(texts), length), np.int64)
    for row, text in zip(out, texts):
        row[: min(len(text), length)] = np.frombuffer(text[:length], np.uint8)
    return out


def shifted(x, back):
    """[N, T, E] -> [N*T, K*E]: each position with its neighbours, or (`back`) the gradient of that."""
    half = KERNEL // 2
    if back is None:
        p = np.pad(x, ((0, 0), (half, half), (0, 0)))
        return np.concatenate([p[:, k : k + x.shape[1]] for k in range(KERNEL)], axis=2).reshape(-1, KERNEL * EMBED)
    n, t, _ = x.shape
    back, p = back.reshape(n, t, KERNEL, EMBED), np.zeros((n, t + 2 * half, EMBED))
    for k in range(KERNEL):
        p[:, k : k + t] += back[:, :, k]
    return p[:, half:-half]


def train_language(rows):
    rng = np.random.default_rng(41)
    table = uniform(rng, 256, EMBED, fan_in=3)
    w0, b0 = uniform(rng, KERNEL * EMBED, FILTERS, fan_in=KERNEL * EMBED), np.zeros(FILTERS)
    w1, b1 = uniform(rng, FILTERS, len(LANGUAGES), fan_in=FILTERS), np.zeros(len(LANGUAGES))
    adam = Adam([table, w0, b0, w1, b1], 0.004)
    y = np.array([language for _, language, _ in rows])
    texts = [text for _, _, text in rows]
    for epoch in range(7):
        for batch in batches(rng, len(rows), 64):
            # A piece of each text that starts anywhere, so that short inputs are known too.
            starts = (rng.random(len(batch)) * [max(1, len(texts[i]) - 12) for i in batch]).astype(int)
            tokens = pad([texts[i][s : s + CROP] for i, s in zip(batch, starts)], CROP)
            mask = (tokens != 0).astype(np.float64)[:, :, None]
            length = mask.sum(axis=1)
            e = table[tokens] * mask
            cols = shifted(e, None)
            h = (np.maximum(dot(cols, w0) + b0, 0)).reshape(*tokens.shape, FILTERS) * mask
            mean = h.sum(axis=1) / length
            d = cross_entropy_gradient(dot(mean, w1) + b1, y[batch])
            dh = ((dot(d, w1.T) / length)[:, None, :] * (h > 0)).reshape(-1, FILTERS)
            de = shifted(e, dot(dh, w0.T)) * mask
            dtable = np.zeros_like(table)
            np.add.at(dtable, tokens.ravel(), de.reshape(-1, EMBED))
            adam.step([dtable, dot(cols.T, dh), dh.sum(axis=0), dot(mean.T, d), d.sum(axis=0)], 0.004 if epoch < 5 else 0.001)
    return table, w0, b0, w1, b1


def language_graph(table, w0, b0, w1, b1, labels):
    g = Graph("language")
    # Any number is taken as the nearest byte, so that no request makes the lookup fail.
    g.op("Clip", ["tokens", g.param("zero", 0, np.int64), g.param("highest", 255, np.int64)], "bytes")
    g.op("Cast", ["bytes"], "ink", to=F32)
    g.op("Min", ["ink", g.param("one", [1.0])], "mask")  # 0 stays 0, the rest becomes 1
    g.op("Unsqueeze", ["mask", g.param("axis_last", [2], np.int64)], "mask3")
    g.op("Gather", [g.param("table", table), "bytes"], "looked_up", axis=0)
    g.op("Mul", ["looked_up", "mask3"], "embedded")
    g.op("Transpose", ["embedded"], "channels", perm=[0, 2, 1])
    kernel = w0.reshape(KERNEL, EMBED, FILTERS).transpose(2, 1, 0)
    half = KERNEL // 2
    g.op("Conv", ["channels", g.param("w0", kernel), g.param("b0", b0)], "z", kernel_shape=[KERNEL], pads=[half, half])
    g.op("Relu", ["z"], "h")
    g.op("Unsqueeze", ["mask", g.param("axis_channel", [1], np.int64)], "mask_c")
    g.op("Mul", ["h", "mask_c"], "kept")
    g.op("ReduceSum", ["kept", g.param("axis_time", [2], np.int64)], "total", keepdims=0)
    g.op("ReduceSum", ["mask", g.param("axis_row", [1], np.int64)], "count", keepdims=1)
    g.op("Max", ["count", "one"], "length")
    g.op("Div", ["total", "length"], "mean")
    g.op("Gemm", ["mean", g.param("w1", w1), g.param("b1", b1)], "logits")
    g.classifier("logits")
    return g.model([("tokens", I64, ["N", "T"])], outputs_of_classifier(len(labels)), {"labels": labels})


def language():
    rows = sentences()
    rng = np.random.default_rng(42)
    messages = sorted({message for message, _, _ in rows})
    held = {messages[i] for i in split(rng, len(messages), len(messages) // 6)[1]}
    train = [r for r in rows if r[0] not in held]
    test = [r for r in rows if r[0] in held]
    labels = [x.split("_")[0] for x in LANGUAGES]
    m = language_graph(*train_language(train), labels)
    y = np.array([index for _, index, _ in test])
    out = run(m, {"tokens": pad([text for _, _, text in test], 128)})
    accuracy = float(np.mean(out["label"] == y))
    short = [text[:16].decode(errors="ignore").encode() for _, _, text in test]
    accuracy_short = float(np.mean(run(m, {"tokens": pad(short, 16)})["label"] == y))
    example = "Bitte geben Sie ein Datum ein.".encode()
    return Card(
        name="language",
        title=f"Language: which of {len(labels)} languages a text is in",
        what="A sequence model over bytes: an embedding, a convolution over five of them, the mean over the text, a dense "
        "layer. Both axes are dynamic; padding with 0 changes no answer.",
        data=f"The translations of its own messages that Django {requirement('Django')} ships: {len(train):,} messages in "
        f"{len(labels)} languages for training, {len(test):,} held out, no message in both.",
        licence="Data: BSD-3-Clause (Django Software Foundation and individual contributors). Model: Apache-2.0.",
        metric=f"On the {len(test):,} held out: accuracy {accuracy:.3f}; on their first 16 bytes alone {accuracy_short:.3f}.",
        short_metric=f"accuracy {accuracy:.3f}",
        tensors="`tokens` INT64 [N, T]",
        tensors_note="a text's UTF-8 bytes, 0 behind its end",
        feed={"tokens": np.array([list(example)], np.int64)},
        note=f"The tokens are `list(\"{example.decode()}\".encode())`.",
        files={1: m},
    )


# ---- the repository --------------------------------------------------------------------------------------------------


def requirement(name):
    lines = (HERE / "requirements.txt").read_text().split()
    return next(line.split("==")[1] for line in lines if line.startswith(name + "=="))


class Card:
    def __init__(self, **fields):
        self.note, self.extra = "", {}
        self.__dict__.update(fields)

    def text(self):
        model = self.files[max(self.files)]
        datatype = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
        shown = [
            {"name": k, "shape": list(a.shape), "datatype": datatype[a.dtype], "data": [number(v) for v in a.ravel().tolist()]}
            for k, a in self.feed.items()
        ]
        answer = "\n".join(f"- `{k}`: {brief(v)}" for k, v in run(model, self.feed).items())
        labels = next((p.value for p in model.metadata_props if p.key == "labels"), None)
        outputs = ", ".join(f"`{o.name}` {'INT64' if o.type.tensor_type.elem_type == I64 else 'FP32'}" for o in model.graph.output)
        sizes = ", ".join(f"version {v}: {len(serialize(m)):,} bytes" for v, m in sorted(self.files.items()))
        parts = [
            f"# {self.title}\n",
            f"{self.what}\n",
            f"- In: {self.tensors}, {self.tensors_note}\n- Out: {outputs}" + (f"\n- Labels: {', '.join(json.loads(labels))}" if labels else ""),
            f"- Trained on: {self.data}\n- Measured: {self.metric}\n- Licence: {self.licence}\n- Size: {sizes}\n",
            "Ask it:\n",
            "```sh\ncurl -s localhost:8000/v2/models/%s/infer -d '%s'\n```\n" % (self.name, json.dumps({"inputs": shown})),
            *([self.note + "\n"] if self.note else []),
            f"It answers\n\n{answer}\n",
            "Written by `models/build.py`; do not edit.",
        ]
        return "\n".join(parts) + "\n"


def number(v):
    """A float32 in its shortest decimal form."""
    if isinstance(v, int):
        return v
    v = float(str(np.float32(v)))
    return int(v) if v.is_integer() else v


def brief(a):
    flat = a.ravel().tolist()
    if len(flat) > 12:
        return f"{len(flat)} numbers, the largest {max(flat):.3f}"
    return "[" + ", ".join(str(v) if isinstance(v, int) else f"{v:.3f}" for v in flat) + "]"


def serialize(model):
    return model.SerializeToString(deterministic=True)


def table(cards):
    rows = [
        "# The example models\n",
        "Small, real, and rebuilt bit for bit by `models/build.sh` (`--check` compares with what is committed) from data that",
        "ship inside the packages of `requirements.txt`. Each has its card.\n",
        "| model | what | inputs | measured on held-out data | runtimes |",
        "|---|---|---|---|---|",
    ]
    for c in cards:
        trees = any(o.domain == "ai.onnx.ml" for o in c.files[1].opset_import)
        versions = f", {len(c.files)} versions" if len(c.files) > 1 else ""
        runtimes = "ONNX Runtime" if trees else "ONNX Runtime, tract"
        what = c.title.split(": ")[1] + versions
        rows.append(f"| [{c.name}]({c.name}/README.md) | {what} | {c.tensors} | {c.short_metric} | {runtimes} |")
    rows.append("\nWritten by `models/build.py`; do not edit.")
    return "\n".join(rows) + "\n"


def write(out):
    cards = [wine(), digits(), diabetes(), language()]
    made = {Path("README.md"): table(cards).encode()}
    for card in cards:
        made[Path(card.name, "README.md")] = card.text().encode()
        made |= {Path(card.name, name): text.encode() for name, text in card.extra.items()}
        made |= {Path(card.name, str(version), "model.onnx"): serialize(m) for version, m in card.files.items()}
    for path, raw in made.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(raw)
    return sorted(made)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="build elsewhere and compare; exit code 3 where a file differs")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside this script)")
    args = parser.parse_args()
    if not args.check:
        for path in write(args.out):
            print(f"{(args.out / path).stat().st_size:>9,}  {path}")
        return 0
    with tempfile.TemporaryDirectory() as other:
        paths = write(Path(other))
        bad = [p for p in paths if not (HERE / p).is_file() or not filecmp.cmp(HERE / p, Path(other, p), shallow=False)]
    for path in bad:
        print(f"models/{path} is not what build.py makes", file=sys.stderr)
    print(f"models: {len(paths) - len(bad)} of {len(paths)} files are what build.py makes")
    return 3 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
