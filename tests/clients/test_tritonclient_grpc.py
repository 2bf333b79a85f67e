"""tritonclient.grpc, unmodified, against the server; and, by the generated stub, what that client cannot say."""
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as g
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor

from support import DATATYPES, EXAMPLES, FIELD, GRPC, NAME, NUMPY, edges, example, names, random, reference, same, strings

COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)


def inputs(feed):
    made = []
    for name, a in feed.items():
        i = g.InferInput(name, list(a.shape), NAME[a.dtype])
        i.set_data_from_numpy(a)
        made.append(i)
    return made


def simple():
    return inputs({"INPUT0": COUNT, "INPUT1": COUNT})


def refused(client, status, *parts, model="simple", **arguments):
    with pytest.raises(InferenceServerException) as e:
        client.infer(model, **{"inputs": simple(), **arguments})
    assert e.value.status() == "StatusCode." + status, e.value
    names(e.value.message(), *parts)


# ---- what the server says about itself


def test_health(grpc_client):
    c = grpc_client
    assert c.is_server_live() and c.is_server_ready()
    assert c.is_model_ready("simple") and c.is_model_ready("versioned", "2")
    for model, version in (("nosuch", ""), ("versioned", "9")):
        with pytest.raises(InferenceServerException) as e:
            c.is_model_ready(model, version)
        assert e.value.status() == "StatusCode.NOT_FOUND"


def test_server_metadata(grpc_client):
    m = grpc_client.get_server_metadata()
    assert m.name and m.version
    assert {"binary_tensor_data", "model_configuration", "statistics", "model_repository"} <= set(m.extensions)


def test_model_metadata(grpc_client):
    m = grpc_client.get_model_metadata("simple")
    assert (m.name, list(m.versions)) == ("simple", ["1"]) and m.platform
    assert [(t.name, t.datatype, list(t.shape)) for t in m.inputs] == [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])]
    assert list(grpc_client.get_model_metadata("versioned").versions) == ["1", "2", "3"]
    for datatype in DATATYPES:
        assert grpc_client.get_model_metadata("identity_" + datatype.lower()).inputs[0].datatype == datatype


def test_config(grpc_client):
    c = grpc_client.get_model_config("simple").config
    assert c.name == "simple" and c.max_batch_size > 0
    assert [(t.name, list(t.dims)) for t in c.input] == [("INPUT0", [16]), ("INPUT1", [16])]
    assert c.input[0].data_type == g.model_config_pb2.TYPE_INT32
    fixed = grpc_client.get_model_config("fixed").config
    assert fixed.max_batch_size == 0 and list(fixed.input[0].dims) == [2, 3]


def test_index(grpc_client):
    found = {(m.name, m.version): m.state for m in grpc_client.get_model_repository_index().models}
    assert all(found.get((m, "1")) == "READY" for m in ("simple", "versioned", "digits")), found


def test_statistics(grpc_client):
    stats = lambda: grpc_client.get_inference_statistics("diabetes", "1").model_stats[0]
    before = stats()
    grpc_client.infer("diabetes", inputs(example("diabetes", 4)[1]))
    after = stats()
    assert (after.name, after.version) == ("diabetes", "1")
    assert after.inference_count - before.inference_count == 4 and after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns


# ---- answers


@pytest.mark.parametrize("model", EXAMPLES)
def test_example_models(grpc_client, model):
    version, feed = example(model)
    answer = grpc_client.infer(model, inputs(feed), request_id="r-1")
    got = answer.get_response()
    assert (got.model_name, got.model_version, got.id) == (model, str(version), "r-1")
    for name, want in reference(model, feed, version).items():
        np.testing.assert_allclose(answer.as_numpy(name), want, rtol=1e-4, atol=1e-5)


def test_versions(grpc_client):
    x = inputs({"X": np.zeros((1, 4), np.float32)})
    for version, want in (("1", 1), ("2", 2), ("3", 3), ("", 3)):
        assert grpc_client.infer("versioned", x, model_version=version).as_numpy("Y").tolist() == [[want] * 4]


def test_outputs_asked_for_are_the_outputs_sent(grpc_client):
    answer = grpc_client.infer("simple", simple(), outputs=[g.InferRequestedOutput("OUTPUT1")])
    assert [o.name for o in answer.get_response().outputs] == ["OUTPUT1"] and answer.as_numpy("OUTPUT0") is None


def test_several_types_and_ranks(grpc_client):
    feed = {
        "features": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        "weight": np.array([0.5, 2], np.float64),
        "name": np.array([[b"a"], [b"\xff\x00b"]], dtype=object),
    }
    answer = grpc_client.infer("mixed", inputs(feed))
    assert answer.as_numpy("sum").tolist() == [6, 15] and answer.as_numpy("weighted").tolist() == [3, 30]
    assert same(answer.as_numpy("echo"), feed["name"]) and answer.as_numpy("big").tolist() == [False, True]


def test_optional_scalar_and_empty(grpc_client):
    x = np.ones((1, 4), np.float32)
    assert grpc_client.infer("optional", inputs({"X": x})).as_numpy("Y").tolist() == [[2] * 4]
    assert grpc_client.infer("optional", inputs({"X": x, "SCALE": np.array([5], np.float32)})).as_numpy("Y").tolist() == [[5] * 4]
    y = grpc_client.infer("scalar", inputs({"X": np.array(41, np.float32)})).as_numpy("Y")
    assert y.shape == () and y == 42
    assert grpc_client.infer("total", inputs({"X": np.zeros((2, 0), np.float32)})).as_numpy("Y").tolist() == [0, 0]


def test_a_large_message(grpc_client):
    a = random("FP32", (8, 1 << 20))  # 32 MiB, past gRPC's usual limit of 4
    assert same(grpc_client.infer("identity_fp32", inputs({"INPUT0": a})).as_numpy("OUTPUT0"), a)


# ---- every datatype


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_contents(grpc_client, datatype):
    for a in (edges(datatype), random(datatype, (3, 5)), np.zeros((1, 0), NUMPY[datatype])):
        got = grpc_client.infer("identity_" + datatype.lower(), inputs({"INPUT0": a})).as_numpy("OUTPUT0")
        assert got.shape == a.shape and (a.size == 0 or same(got, a))


def typed(datatype, a, model=None):
    r = pb.ModelInferRequest(model_name=model or "identity_" + datatype.lower())
    t = r.inputs.add(name="INPUT0", datatype=datatype, shape=list(a.shape))
    getattr(t.contents, FIELD[datatype]).extend(a.ravel().tolist())
    return r


@pytest.mark.parametrize("datatype", FIELD)
def test_typed_contents(stub, datatype):
    a = edges(datatype)
    answer = stub.ModelInfer(typed(datatype, a), timeout=20)
    raw = answer.raw_output_contents[0]
    got = deserialize_bytes_tensor(raw) if datatype == "BYTES" else np.frombuffer(raw, NUMPY[datatype])
    assert answer.outputs[0].datatype == datatype and list(answer.outputs[0].shape) == list(a.shape)
    assert same(got.reshape(a.shape), a)


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT16", "UINT16"])
def test_typed_value_outside_its_type(stub, datatype):
    with pytest.raises(grpc.RpcError) as e:
        stub.ModelInfer(typed(datatype, np.array([[70000]])), timeout=20)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    names(e.value.details(), "INPUT0", datatype, 70000)


def test_bytes_are_any_bytes(grpc_client):
    a = strings(b"\xff\xfe\x00\x80", b"\x00", b"a\x00b", b"")
    assert same(grpc_client.infer("identity_bytes", inputs({"INPUT0": a})).as_numpy("OUTPUT0"), a)


# ---- what is refused, and in which words


def test_unknown_model_and_version(grpc_client):
    refused(grpc_client, "NOT_FOUND", "nosuch", model="nosuch")
    refused(grpc_client, "NOT_FOUND", "simple", "9", model_version="9")


def test_signature(grpc_client):
    one = simple()
    refused(grpc_client, "INVALID_ARGUMENT", "INPUT0", "INT32", "FP32", inputs=[*inputs({"INPUT0": COUNT.astype(np.float32)}), one[1]])
    refused(grpc_client, "INVALID_ARGUMENT", "INPUT1", "16", "15", inputs=[one[0], *inputs({"INPUT1": COUNT[:, :15].copy()})])
    refused(grpc_client, "INVALID_ARGUMENT", "INPUT1", inputs=one[:1])
    refused(grpc_client, "INVALID_ARGUMENT", "BOGUS", inputs=[*one, *inputs({"BOGUS": COUNT})])
    refused(grpc_client, "INVALID_ARGUMENT", "INPUT0", inputs=[*one, one[0]])
    refused(grpc_client, "INVALID_ARGUMENT", "BOGUS", outputs=[g.InferRequestedOutput("BOGUS")])


def raw_request():
    r = pb.ModelInferRequest(model_name="simple")
    for name in ("INPUT0", "INPUT1"):
        r.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        r.raw_input_contents.append(COUNT.tobytes())
    return r


def broken_requests():
    r = raw_request()
    r.raw_input_contents[0] = r.raw_input_contents[0][:-1]
    yield "short", r, ("INPUT0", 64, 63)
    r = raw_request()
    r.raw_input_contents[0] += b"z"
    yield "long", r, ("INPUT0", 64, 65)
    r = raw_request()
    r.raw_input_contents.pop()
    yield "too few", r, ()
    r = raw_request()
    r.raw_input_contents.append(b"x")
    yield "too many", r, ()
    r = raw_request()
    r.inputs[0].contents.int_contents.extend([1] * 16)
    yield "raw and typed", r, ()
    r = raw_request()
    r.inputs[0].datatype = "NOPE"
    yield "unknown datatype", r, ("INPUT0", "NOPE")
    for shape in ([-1, 16], [2**62, 16], [2**32, 2**32], [], [1] * 5000 + [16]):
        r = raw_request()
        r.inputs[0].shape[:] = shape
        yield f"shape {str(shape)[:20]}", r, ("INPUT0",)
    for version in ("abc", "-1", "99999999999999999999"):
        r = raw_request()
        r.model_version = version
        yield f"version {version}", r, ()
    for model in ("", "../../etc/passwd", "simple\x00x"):
        r = raw_request()
        r.model_name = model
        yield f"model {model!r}", r, ()


BROKEN = {name: (r, parts) for name, r, parts in broken_requests()}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_request(stub, case):
    r, parts = BROKEN[case]
    with pytest.raises(grpc.RpcError) as e:
        stub.ModelInfer(r, timeout=20)
    assert e.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), e.value
    names(e.value.details(), *parts)
    assert stub.ModelInfer(raw_request(), timeout=20).model_name == "simple"


@pytest.mark.parametrize("raw", [b"", b"\x01\x00", b"\xff\xff\xff\x7faaaa", b"\x01\0\0\0a" * 2, b"\x01\0\0\0a" * 4, b"\x01\0\0\0a" * 3 + b"\0"])
def test_broken_strings(stub, raw):
    r = pb.ModelInferRequest(model_name="identity_bytes", raw_input_contents=[raw])
    r.inputs.add(name="INPUT0", datatype="BYTES", shape=[1, 3])
    with pytest.raises(grpc.RpcError) as e:
        stub.ModelInfer(r, timeout=20)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    names(e.value.details(), "INPUT0")


def test_unknown_method(stub):
    with grpc.insecure_channel(GRPC) as channel:
        nope = channel.unary_unary("/inference.GRPCInferenceService/Nope", request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as e:
            nope(b"", timeout=20)
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_runtime_error_fails_that_request_alone(grpc_client):
    with pytest.raises(InferenceServerException) as e:
        grpc_client.infer("boom", inputs({"IDX": np.array([99], np.int64)}))
    assert e.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL")
    assert grpc_client.infer("boom", inputs({"IDX": np.array([2], np.int64)})).as_numpy("Y").tolist() == [2]


# ---- time


def burn(iterations):
    return inputs({"X": np.array([5], np.float32), "ITERS": np.array([iterations], np.int64)})


def test_deadline_and_timeout(grpc_client):
    for arguments in ({"client_timeout": 0.3}, {"timeout": 300_000}):
        start = time.monotonic()
        refused(grpc_client, "DEADLINE_EXCEEDED", model="burn", inputs=burn(10**6), **arguments)
        assert time.monotonic() - start < 5
    assert grpc_client.infer("burn", burn(2), client_timeout=20, timeout=0).as_numpy("Y").tolist() == [5]


def test_cancelled_work_makes_room(grpc_client):
    """What a client gave up is ended in the runtime: what comes next need not wait for it."""
    left = threading.Event()
    calls = [grpc_client.async_infer("burn", burn(10**7), lambda result, error: left.set()) for _ in range(8)]
    time.sleep(0.2)
    for call in calls:
        call.cancel()
    assert left.wait(5)
    assert grpc_client.infer("burn", burn(2), client_timeout=20).as_numpy("Y").tolist() == [5]


def test_async_infer(grpc_client):
    answers, done = {}, threading.Event()

    def keep(i, result, error):
        answers[i] = error or result.as_numpy("OUTPUT0")
        if len(answers) == 50:
            done.set()

    for i in range(50):
        feed = inputs({"INPUT0": i * COUNT, "INPUT1": COUNT})
        grpc_client.async_infer("simple", feed, lambda result, error, i=i: keep(i, result, error))
    assert done.wait(20)
    for i, answer in answers.items():
        assert same(answer, (i + 1) * COUNT), answer


# ---- compression


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [1, 3000])
def test_compression(grpc_client, algorithm, rows):
    a = np.arange(rows * 10, dtype=np.float32).reshape(rows, 10) / 8
    r = grpc_client.infer("identity_fp32", inputs({"INPUT0": a}), compression_algorithm=algorithm)
    assert same(r.as_numpy("OUTPUT0"), a)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_channel(compression):
    """Every call of the channel: what the routers answer too."""
    from tritonclient.grpc import service_pb2_grpc

    with grpc.insecure_channel(GRPC, compression=compression) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest())
        assert len(index.models) > 10
        with pytest.raises(grpc.RpcError) as e:
            stub.ModelMetadata(pb.ModelMetadataRequest(name="nosuch" * 200))
        assert e.value.code() == grpc.StatusCode.NOT_FOUND
