"""tritonclient.http, unmodified, against the server: what is asked of it by hand and by programs."""
import json
import time

import numpy as np
import pytest
import tritonclient.http as h
from tritonclient.utils import InferenceServerException

from support import DATATYPES, EXAMPLES, FLOATS, NAME, NUMPY, edges, example, names, post, random, reference, request, same, strings, tensor

COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)


def inputs(feed, binary=True):
    made = []
    for name, a in feed.items():
        i = h.InferInput(name, list(a.shape), NAME[a.dtype])
        i.set_data_from_numpy(a, binary_data=binary)
        made.append(i)
    return made


def simple(binary=True):
    return inputs({"INPUT0": COUNT, "INPUT1": COUNT}, binary)


def identity(client, a, binary_in, binary_out):
    outputs = [h.InferRequestedOutput("OUTPUT0", binary_data=binary_out)]
    return client.infer("identity_" + NAME[a.dtype].lower(), inputs({"INPUT0": a}, binary_in), outputs=outputs).as_numpy("OUTPUT0")


def refused(client, status, *parts, model="simple", **arguments):
    with pytest.raises(InferenceServerException) as e:
        client.infer(model, **{"inputs": simple(), **arguments})
    assert e.value.status() == str(status), e.value
    names(e.value.message(), *parts)


# ---- what the server says about itself


def test_health(http_client):
    c = http_client
    assert c.is_server_live() and c.is_server_ready()
    assert c.is_model_ready("simple") and c.is_model_ready("versioned", "2")
    assert not c.is_model_ready("nosuch") and not c.is_model_ready("versioned", "9")


def test_server_metadata(http_client):
    m = http_client.get_server_metadata()
    assert m["name"] and m["version"]
    assert {"binary_tensor_data", "model_configuration", "statistics", "model_repository"} <= set(m["extensions"])


def test_model_metadata(http_client):
    m = http_client.get_model_metadata("simple")
    assert (m["name"], m["versions"]) == ("simple", ["1"]) and m["platform"]
    assert [(t["name"], t["datatype"], t["shape"]) for t in m["inputs"]] == [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])]
    assert [t["name"] for t in m["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert http_client.get_model_metadata("versioned")["versions"] == ["1", "2", "3"]
    assert http_client.get_model_metadata("language")["inputs"][0]["shape"] == [-1, -1]
    assert http_client.get_model_metadata("scalar")["inputs"][0]["shape"] == []
    assert http_client.get_model_metadata("fixed")["inputs"][0]["shape"] == [2, 3]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_metadata_names_every_datatype(http_client, datatype):
    m = http_client.get_model_metadata("identity_" + datatype.lower())
    assert m["inputs"][0]["datatype"] == m["outputs"][0]["datatype"] == datatype


def test_config(http_client):
    c = http_client.get_model_config("simple")
    assert c["name"] == "simple" and c["max_batch_size"] > 0
    assert [(t["name"], t["data_type"], [int(d) for d in t["dims"]]) for t in c["input"]] == [("INPUT0", "TYPE_INT32", [16]), ("INPUT1", "TYPE_INT32", [16])]
    fixed = http_client.get_model_config("fixed")
    assert fixed["max_batch_size"] == 0 and [int(d) for d in fixed["input"][0]["dims"]] == [2, 3]


def test_index(http_client):
    index = http_client.get_model_repository_index()
    found = {(e["name"], e.get("version")): e["state"] for e in index}
    assert all(found.get((m, "1")) == "READY" for m in ("simple", "versioned", "digits")), found
    assert found.get(("versioned", "3")) == "READY"


def test_statistics_count_rows_and_runs(http_client):
    def stats():
        [s] = http_client.get_inference_statistics("digits", "1")["model_stats"]
        return s

    before = stats()
    for rows in (1, 2):
        http_client.infer("digits", inputs(example("digits", rows)[1]))
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 2
    kinds = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    assert set(kinds) <= set(after["inference_stats"])
    done = {k: after["inference_stats"][k]["count"] - before["inference_stats"][k]["count"] for k in kinds}
    assert done["success"] == 2 and done["fail"] == 0, done
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    everything = http_client.get_inference_statistics()["model_stats"]
    assert {"simple", "digits"} <= {s["name"] for s in everything}


# ---- answers


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("model", EXAMPLES)
def test_example_models(http_client, model, binary):
    version, feed = example(model)
    answer = http_client.infer(model, inputs(feed, binary), request_id="r-1")
    assert answer.get_response()["model_version"] == str(version) and answer.get_response()["id"] == "r-1"
    for name, want in reference(model, feed, version).items():
        np.testing.assert_allclose(answer.as_numpy(name), want, rtol=1e-4, atol=1e-5)


def test_versions(http_client):
    x = inputs({"X": np.zeros((1, 4), np.float32)})
    for version, want in (("1", 1), ("2", 2), ("3", 3), ("", 3)):
        answer = http_client.infer("versioned", x, model_version=version)
        assert answer.as_numpy("Y").tolist() == [[want] * 4] and answer.get_response()["model_version"] == str(want)


def test_outputs_asked_for_are_the_outputs_sent(http_client):
    answer = http_client.infer("simple", simple(), outputs=[h.InferRequestedOutput("OUTPUT1")])
    assert [o["name"] for o in answer.get_response()["outputs"]] == ["OUTPUT1"] and answer.as_numpy("OUTPUT0") is None
    both = [h.InferRequestedOutput("OUTPUT1", binary_data=False), h.InferRequestedOutput("OUTPUT0", binary_data=True)]
    answer = http_client.infer("simple", simple(), outputs=both)
    assert same(answer.as_numpy("OUTPUT0"), 2 * COUNT) and same(answer.as_numpy("OUTPUT1"), 0 * COUNT)


def test_binary_and_json_inputs_in_one_request(http_client):
    mixed = [inputs({"INPUT0": COUNT}, True)[0], inputs({"INPUT1": COUNT}, False)[0]]
    assert same(http_client.infer("simple", mixed).as_numpy("OUTPUT0"), 2 * COUNT)


def test_inputs_in_any_order(http_client):
    feed = {"INPUT1": COUNT, "INPUT0": 3 * COUNT}
    assert same(http_client.infer("simple", inputs(feed)).as_numpy("OUTPUT1"), 2 * COUNT)


def test_no_id_is_no_id(http_client):
    assert "id" not in http_client.infer("simple", simple()).get_response()


def test_strings_through_a_model(http_client):
    text = np.array([[str(i).encode() for i in range(16)]], dtype=object)
    answer = http_client.infer("simple_string", inputs({"INPUT0": text, "INPUT1": text}))
    assert [int(v) for v in answer.as_numpy("OUTPUT0").ravel()] == [2 * i for i in range(16)]


def test_several_types_and_ranks(http_client):
    feed = {
        "features": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        "weight": np.array([0.5, 2], np.float64),
        "name": np.array([[b"a"], [b"\xff\x00b"]], dtype=object),
    }
    answer = http_client.infer("mixed", inputs(feed))
    assert answer.as_numpy("sum").tolist() == [6, 15] and answer.as_numpy("weighted").tolist() == [3, 30]
    assert same(answer.as_numpy("echo"), feed["name"]) and answer.as_numpy("big").tolist() == [False, True]


def test_optional_input(http_client):
    x = np.ones((1, 4), np.float32)
    assert http_client.infer("optional", inputs({"X": x})).as_numpy("Y").tolist() == [[2] * 4]
    with_scale = inputs({"X": x, "SCALE": np.array([5], np.float32)})
    assert http_client.infer("optional", with_scale).as_numpy("Y").tolist() == [[5] * 4]


@pytest.mark.parametrize("binary", [True, False])
def test_scalar(http_client, binary):
    y = http_client.infer("scalar", inputs({"X": np.array(41, np.float32)}, binary)).as_numpy("Y")
    assert y.shape == () and y == 42


def test_zero_length_axis(http_client):
    y = http_client.infer("total", inputs({"X": np.zeros((2, 0), np.float32)})).as_numpy("Y")
    assert y.tolist() == [0, 0]
    assert http_client.infer("total", inputs({"X": np.zeros((0, 3), np.float32)})).as_numpy("Y").shape == (0,)


def test_external_data(http_client):
    feed = {"X": random("FP32", (2, 64))}
    y = http_client.infer("external", inputs(feed)).as_numpy("Y")
    np.testing.assert_allclose(y, reference("external", feed)["Y"], rtol=1e-4, atol=1e-5)


# ---- every datatype


@pytest.mark.parametrize("binary_in,binary_out", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("datatype", [d for d in DATATYPES if d not in ("FP16", "BF16")])
def test_edge_values(http_client, datatype, binary_in, binary_out):
    a = edges(datatype)
    assert same(identity(http_client, a, binary_in, binary_out), a)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (32, 64)])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_shapes(http_client, datatype, shape):
    a = random(datatype, shape)
    assert same(identity(http_client, a, True, True), a)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_no_elements(http_client, datatype):
    assert identity(http_client, np.zeros((1, 0), NUMPY[datatype]), True, True).shape == (1, 0)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_as_json_numbers(datatype):
    """tritonclient does not send them so; curl and browsers do."""
    a = edges(datatype)
    status, answer = post(f"/v2/models/identity_{datatype.lower()}/infer", {"inputs": [tensor("INPUT0", a, a.astype(float).ravel().tolist())]})
    assert status == 200, answer
    assert same(np.array(answer["outputs"][0]["data"], float).astype(a.dtype).reshape(a.shape), a)


@pytest.mark.parametrize("datatype", FLOATS)
def test_bits_of_no_number_survive(http_client, datatype):
    bits = {
        "FP16": (np.uint16, [0x7E01, 0xFE00, 0x7C00, 0xFC00]),
        "BF16": (np.uint16, [0x7FC1, 0xFFC0, 0x7F80, 0xFF80]),
        "FP32": (np.uint32, [0x7FC12345, 0xFFC00000, 0x7F800000, 0xFF800000]),
        "FP64": (np.uint64, [0x7FF8000012345678, 0xFFF8000000000000, 0x7FF0000000000000, 0xFFF0000000000000]),
    }[datatype]
    a = np.array([bits[1]], bits[0]).view(NUMPY[datatype])
    assert identity(http_client, a, True, True).tobytes() == a.tobytes()


def test_no_number_in_json(http_client):
    x = inputs({"X": np.array([[1, -1, 0]], np.float32)}, False)
    _, answer = post("/v2/models/nan_inf/infer", {"inputs": [tensor("X", np.array([[1, -1, 0]], np.float32))]})
    assert answer["outputs"][0]["data"] == ["Infinity", "-Infinity", "NaN"]
    y = http_client.infer("nan_inf", x).as_numpy("Y").ravel()
    assert np.isposinf(y[0]) and np.isneginf(y[1]) and np.isnan(y[2])
    for text in (b'["Infinity","-Infinity","NaN"]', b"[Infinity,-Infinity,NaN]"):
        body = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,3],"data":%s}]}' % text
        status, answer = post("/v2/models/identity_fp32/infer", body)
        assert status == 200 and answer["outputs"][0]["data"] == ["Infinity", "-Infinity", "NaN"], answer


def test_bytes_are_any_bytes(http_client):
    a = strings(b"\xff\xfe\x00\x80", b"\x00", b"a\x00b", b"")
    assert same(identity(http_client, a, True, True), a)
    with pytest.raises(InferenceServerException) as e:
        identity(http_client, a, True, False)
    assert e.value.status() == "400"
    names(e.value.message(), "OUTPUT0", "binary")


def test_int64_beyond_a_doubles_precision():
    a = np.array([[2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]], np.int64)
    status, answer = post("/v2/models/identity_int64/infer", {"inputs": [tensor("INPUT0", a)]})
    assert status == 200 and answer["outputs"][0]["data"] == a.ravel().tolist()


# ---- what is refused, and in which words


def test_unknown_model_and_version(http_client):
    refused(http_client, 404, "nosuch", model="nosuch")
    refused(http_client, 404, "simple", "9", model_version="9")


def test_wrong_datatype(http_client):
    refused(http_client, 400, "INPUT0", "INT32", "FP32", inputs=[*inputs({"INPUT0": COUNT.astype(np.float32)}), simple()[1]])


def test_wrong_shape(http_client):
    refused(http_client, 400, "INPUT1", "16", "15", inputs=[simple()[0], *inputs({"INPUT1": COUNT[:, :15].copy()})])


def test_rows_that_do_not_agree(http_client):
    two = inputs({"INPUT1": np.vstack([COUNT, COUNT])})
    refused(http_client, 400, "INPUT1", "1", "2", inputs=[simple()[0], *two])


def test_missing_unknown_and_repeated_inputs(http_client):
    refused(http_client, 400, "INPUT1", inputs=simple()[:1])
    refused(http_client, 400, "BOGUS", inputs=[*simple(), *inputs({"BOGUS": COUNT})])
    refused(http_client, 400, "INPUT0", inputs=[*simple(), simple()[0]])


def test_unknown_output(http_client):
    refused(http_client, 400, "BOGUS", outputs=[h.InferRequestedOutput("BOGUS")])


def test_bytes_that_do_not_fit_the_shape(http_client):
    body, json_length = h.InferenceServerClient.generate_request_body(simple())
    headers = {"Inference-Header-Content-Length": str(json_length)}
    for raw in (body[:-1], body + b"x", body[:-64]):
        status, _, answer = request("POST", "/v2/models/simple/infer", raw, headers)
        assert status == 400, answer
    head = json.dumps({"inputs": [{"name": n, "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": 60}} for n in ("INPUT0", "INPUT1")]}).encode()
    status, _, answer = request("POST", "/v2/models/simple/infer", head + bytes(120), {"Inference-Header-Content-Length": str(len(head))})
    assert status == 400
    names(json.loads(answer)["error"], "INPUT0", "64", "60")


@pytest.mark.parametrize("data,want", [([1] * 15, 16), ([1] * 17, 16)])
def test_json_values_that_do_not_fit_the_shape(data, want):
    status, answer = post("/v2/models/simple/infer", {"inputs": [tensor("INPUT0", COUNT, data), tensor("INPUT1", COUNT)]})
    assert status == 400
    names(answer["error"], "INPUT0", want, len(data))


@pytest.mark.parametrize(
    "datatype,bad",
    [("INT8", 128), ("UINT8", -1), ("INT32", 2**31), ("UINT64", 2**64), ("INT32", 1.5), ("INT32", "7"), ("BOOL", 2), ("FP32", "x"), ("FP32", None), ("BYTES", 5)],
)
def test_json_value_outside_its_type(datatype, bad):
    body = {"inputs": [{"name": "INPUT0", "datatype": datatype, "shape": [1, 1], "data": [bad]}]}
    status, answer = post(f"/v2/models/identity_{datatype.lower()}/infer", body)
    assert status == 400, answer
    names(answer["error"], "INPUT0", datatype)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"inputs":[]}', b'{"inputs":5}', b"\xff\xfe", b'{"inputs":[{"name":"INPUT0"}]}'])
def test_malformed_body(body):
    status, _, answer = request("POST", "/v2/models/simple/infer", body, {"Content-Type": "application/json"})
    assert status == 400 and json.loads(answer)["error"], answer


def test_runtime_error_fails_that_request_alone(http_client):
    with pytest.raises(InferenceServerException) as e:
        http_client.infer("boom", inputs({"IDX": np.array([99], np.int64)}))
    assert e.value.status() in ("400", "500")
    assert http_client.infer("boom", inputs({"IDX": np.array([2], np.int64)})).as_numpy("Y").tolist() == [2]


def test_timeout_parameter_is_kept(http_client):
    work = inputs({"X": np.array([5], np.float32), "ITERS": np.array([10**6], np.int64)})
    start = time.monotonic()
    refused(http_client, 504, model="burn", inputs=work, timeout=300_000)
    assert time.monotonic() - start < 5
    short = inputs({"X": np.array([5], np.float32), "ITERS": np.array([2], np.int64)})
    assert http_client.infer("burn", short, timeout=20_000_000).as_numpy("Y").tolist() == [5]


def test_async_infer(http_client):
    waiting = [http_client.async_infer("simple", inputs({"INPUT0": i * COUNT, "INPUT1": COUNT})) for i in range(20)]
    for i, w in enumerate(waiting):
        assert same(w.get_result().as_numpy("OUTPUT0"), (i + 1) * COUNT)


# ---- compression


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
def test_compression(http_client, sent, answer, binary):
    a = np.arange(30_000, dtype=np.float32).reshape(3, 10_000) / 8
    outputs = [h.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    r = http_client.infer(
        "identity_fp32",
        inputs({"INPUT0": a}, binary),
        outputs=outputs,
        request_compression_algorithm=sent,
        response_compression_algorithm=answer,
    )
    assert same(r.as_numpy("OUTPUT0"), a)


def test_a_damaged_body_is_refused():
    import gzip

    body = gzip.compress(b'{"inputs": []}')
    for bad in (body[:-1], body[:-5] + b"?" + body[-4:], body + b"?"):
        status, _, answer = request("POST", "/v2/models/simple/infer", bad, {"Content-Encoding": "gzip"})
        assert status == 400 and "gzip" in json.loads(answer)["error"]
