"""Over every wire form, alone, in batches and in a crowd, the answers are those of ONNX Runtime itself."""
import concurrent.futures
import json

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor

from support import EXAMPLES, FIELD, NAME, NUMPY, REPOSITORY, example, reference, request, tensor

R = np.random.default_rng(5)
f32 = lambda *shape: R.standard_normal(shape).astype(np.float32)
# The real models: name, then feeds of different batch sizes and shapes.
REAL = {
    "magika": [{"bytes": R.integers(0, 257, (n, 2048)).astype(np.int32)} for n in (1, 3)],
    "ocr_cls": [{"x": f32(n, 3, 48, 192)} for n in (1, 2)],
    "ocr_det": [{"x": f32(1, 3, 96, 160)}, {"x": f32(2, 3, 64, 64)}],
    "ocr_rec": [{"x": f32(1, 3, 48, 100)}, {"x": f32(2, 3, 48, 64)}],
    "silero_vad": [{"input": f32(n, 576), "state": np.zeros((2, n, 128), np.float32), "sr": np.array(16000, np.int64)} for n in (1, 2)],
    "silero_vad_16k_sequence": [{"input": f32(t, 576), "h": f32(1, 1, 128), "c": f32(1, 1, 128)} for t in (1, 7)],
}
CASES = [(m, *example(m, n)) for m in EXAMPLES for n in (1, 2, 7, 64)] + [(m, 1, feed) for m, feeds in REAL.items() for feed in feeds]
IDS = [f"{m}-{'x'.join(map(str, next(iter(feed.values())).shape))}" for m, _, feed in CASES]


def by_client(module, url):
    def ask(model, feed, **arguments):
        inputs = []
        for name, a in feed.items():
            i = module.InferInput(name, list(a.shape), NAME[a.dtype])
            i.set_data_from_numpy(a, **arguments)
            inputs.append(i)
        with module.InferenceServerClient(url) as client:
            answer = client.infer(model, inputs)
        outputs = answer.get_response()
        outputs = outputs["outputs"] if isinstance(outputs, dict) else outputs.outputs
        return {n: answer.as_numpy(n) for n in (o["name"] if isinstance(o, dict) else o.name for o in outputs)}

    return ask


def by_json(model, feed):
    body = json.dumps({"inputs": [tensor(k, a) for k, a in feed.items()]}).encode()
    status, headers, answer = request("POST", f"/v2/models/{model}/infer", body, {"Content-Type": "application/json"})
    assert status == 200 and headers["content-type"].startswith("application/json"), answer[:500]
    return {o["name"]: np.array(o["data"], NUMPY[o["datatype"]]).reshape(o["shape"]) for o in json.loads(answer)["outputs"]}


def by_typed_contents(model, feed):
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    from support import GRPC

    r = pb.ModelInferRequest(model_name=model)
    for name, a in feed.items():
        t = r.inputs.add(name=name, datatype=NAME[a.dtype], shape=list(a.shape))
        getattr(t.contents, FIELD[NAME[a.dtype]]).extend(a.ravel().tolist())
    unlimited = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(GRPC, options=unlimited) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(r, timeout=60)
    out = {}
    for o, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        flat = deserialize_bytes_tensor(raw) if o.datatype == "BYTES" else np.frombuffer(raw, NUMPY[o.datatype])
        out[o.name] = flat.reshape(list(o.shape))
    return out


def ways():
    from support import GRPC, HTTP

    return {
        "http-json": by_json,
        "http-binary": by_client(tritonclient.http, HTTP),
        "grpc-raw": by_client(tritonclient.grpc, GRPC),
        "grpc-typed": by_typed_contents,
    }


WAYS = ways()


def agree(got, want):
    assert list(got) == list(want)
    for name, a in want.items():
        assert got[name].shape == a.shape and got[name].dtype == a.dtype, name
        np.testing.assert_allclose(got[name], a, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model,version,feed", CASES, ids=IDS)
def test_answer(model, version, feed, way):
    agree(WAYS[way](model, feed), reference(model, feed, version))


def test_nothing_of_the_real_models_is_left_out():
    assert set(REAL) <= {p.name for p in REPOSITORY.iterdir()}


@pytest.mark.parametrize("way", ["http-json", "http-binary", "grpc-raw"])
@pytest.mark.parametrize("model", [*EXAMPLES, "magika"])
def test_a_crowd_of_different_requests(model, way):
    """Requests that the server may stack into batches of any size: each gets its own rows back."""
    sizes = [1, 1, 2, 1, 3, 1, 1, 5] * 4
    version, feed = example(model, sum(sizes)) if model in EXAMPLES else (1, {"bytes": R.integers(0, 257, (sum(sizes), 2048)).astype(np.int32)})
    want, ends = reference(model, feed, version), np.cumsum(sizes)
    part = lambda arrays, i: {k: a[ends[i] - sizes[i] : ends[i]] for k, a in arrays.items()}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: WAYS[way](model, part(feed, i)), range(len(sizes))))
    for i, answer in enumerate(answers):
        agree(answer, part(want, i))


@pytest.mark.parametrize("way", ["http-binary", "grpc-raw"])
def test_a_crowd_of_different_lengths(way):
    """Sequences of different length do not share a batch, nor each other's answers."""
    feeds = [{"tokens": np.random.default_rng(i).integers(1, 255, (1, 5 + i % 6)).astype(np.int64)} for i in range(48)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda feed: WAYS[way]("language", feed), feeds))
    for feed, answer in zip(feeds, answers):
        agree(answer, reference("language", feed))
