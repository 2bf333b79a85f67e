"""One ONNX model behind plain onnxruntime, with the OIP v2 JSON and binary-tensor bodies.

Shared by every peer that leaves model code to its user, so that all of them run the same
session options: ORT_INTRA threads per run (default 1), one inter-op thread, CPU provider.
"""
import json, os
import numpy as np
import onnxruntime as ort

try:
    import orjson
    loads, dumps = orjson.loads, orjson.dumps
except ImportError:  # a peer without orjson
    loads = json.loads
    dumps = lambda o: json.dumps(o, separators=(",", ":")).encode()

HOME = os.environ["PEERS_HOME"]
DT = {"FP32": np.float32, "INT64": np.int64, "FP64": np.float64, "INT32": np.int32, "BOOL": np.bool_,
      "UINT8": np.uint8, "INT8": np.int8, "FP16": np.float16}
DT_OF = {np.dtype(v): k for k, v in DT.items()}


class OrtModel:
    def __init__(self, name=None):
        self.name = name or os.environ["MODEL"]
        so = ort.SessionOptions()
        so.intra_op_num_threads = int(os.environ.get("ORT_INTRA", "1"))
        so.inter_op_num_threads = 1
        so.log_severity_level = 3
        self.s = ort.InferenceSession(os.path.join(HOME, "models", self.name, "1", "model.onnx"), so,
                                      providers=["CPUExecutionProvider"])
        self.ins = [i.name for i in self.s.get_inputs()]
        self.outs = [o.name for o in self.s.get_outputs()]

    def run(self, feed):
        return self.s.run(None, feed)

    def infer(self, req):
        """OIP JSON request (parsed) -> OIP JSON response (a dict, lists as data)."""
        feed = {t["name"]: np.asarray(t["data"], DT[t["datatype"]]).reshape(t["shape"]) for t in req["inputs"]}
        outs = self.run(feed)
        return {"model_name": self.name, "model_version": "1",
                "outputs": [{"name": n, "datatype": DT_OF[o.dtype], "shape": list(o.shape), "data": o.ravel().tolist()}
                            for n, o in zip(self.outs, outs)]}

    def infer_body(self, body, header_len=None):
        """Raw HTTP body -> (raw reply, reply's JSON length or None). Binary both ways if header_len."""
        if header_len is None:
            return dumps(self.infer(loads(body))), None
        head, off, feed = loads(body[:header_len]), header_len, {}
        for t in head["inputs"]:
            n = t["parameters"]["binary_data_size"]
            feed[t["name"]] = np.frombuffer(body, DT[t["datatype"]], n // np.dtype(DT[t["datatype"]]).itemsize,
                                            off).reshape(t["shape"])
            off += n
        outs = self.run(feed)
        h = dumps({"model_name": self.name, "model_version": "1",
                   "outputs": [{"name": n, "datatype": DT_OF[o.dtype], "shape": list(o.shape),
                                "parameters": {"binary_data_size": o.nbytes}} for n, o in zip(self.outs, outs)]})
        return b"".join([h] + [o.tobytes() for o in outs]), len(h)
