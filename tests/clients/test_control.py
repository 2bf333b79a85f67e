"""Load, unload and the index, as tritonclient's clients and KServe's messages ask for them."""
import shutil

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from support import GRPC, REPOSITORY, names

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(params=MODULES)
def client(request, http_client, grpc_client):
    return {"http": http_client, "grpc": grpc_client}[request.param]


@pytest.fixture
def model(request):
    """A model of the test's own, with one version on disk that no server has seen."""
    name = request.node.name.replace("[", "-").replace("]", "")
    (REPOSITORY / name).mkdir()
    put(name, 1)
    yield name
    shutil.rmtree(REPOSITORY / name)


def put(name, version):
    """Version N answers with its input plus N."""
    shutil.copytree(REPOSITORY / "versioned" / str(version), REPOSITORY / name / str(version))


def index(client):
    found = client.get_model_repository_index()
    rows = found if isinstance(found, list) else [{"name": m.name, "version": m.version, "state": m.state, "reason": m.reason} for m in found.models]
    return {(row["name"], row["version"]): (row["state"], row.get("reason", "")) for row in rows}


def ask(client, model):
    m = MODULES["http" if isinstance(client, tritonclient.http.InferenceServerClient) else "grpc"]
    x = m.InferInput("X", [1, 4], "FP32")
    x.set_data_from_numpy(np.zeros((1, 4), np.float32))
    return client.infer(model, [x]).as_numpy("Y").tolist()[0][0]


def refused(call, code, *parts):
    with pytest.raises(InferenceServerException) as e:
        call()
    assert e.value.status() in code, e.value
    names(e.value.message(), *parts)


BAD, MISSING, UNAVAILABLE = ("400", "StatusCode.INVALID_ARGUMENT"), ("404", "StatusCode.NOT_FOUND"), ("503", "StatusCode.UNAVAILABLE")


def test_load_and_unload(client, model):
    refused(lambda: ask(client, model), MISSING, model)
    client.load_model(model)
    assert client.is_model_ready(model) and ask(client, model) == 1
    put(model, 2)
    client.load_model(model)
    assert ask(client, model) == 2, "the call comes back when the new version serves"
    assert index(client)[model, "2"] == ("READY", "")
    assert index(client)[model, "1"][0] == "UNAVAILABLE"
    client.unload_model(model)
    assert not client.is_model_ready(model)
    # "draining" for a moment, then "unloaded".
    refused(lambda: ask(client, model), UNAVAILABLE, model, "version 2")
    assert index(client)[model, "2"][0] == "UNAVAILABLE"
    client.unload_model(model, unload_dependents=True)
    client.load_model(model)
    assert ask(client, model) == 2


def test_a_broken_version_is_refused_with_its_reason(client, model):
    client.load_model(model)
    (REPOSITORY / model / "2").mkdir()
    (REPOSITORY / model / "2" / "model.onnx").write_bytes(b"\x08\x0a no model")
    refused(lambda: client.load_model(model), BAD, model, "version 2", "version 1 serves")
    assert ask(client, model) == 1
    state, reason = index(client)[model, "2"]
    assert state == "UNAVAILABLE" and "model.onnx" in reason
    shutil.rmtree(REPOSITORY / model / "2")
    put(model, 2)
    client.load_model(model)
    assert ask(client, model) == 2 and index(client)[model, "2"] == ("READY", "")


def test_what_is_not_honoured_is_named(client, model):
    refused(lambda: client.load_model(model, config="{}"), BAD, "'config'")
    refused(lambda: client.load_model(model, config="{}", files={"file:1/model.onnx": b"x"}), BAD, "not honoured")
    assert (model, "1") not in index(client), "nothing was loaded"
    refused(lambda: client.load_model("nosuch"), MISSING, "nosuch")
    refused(lambda: client.unload_model("nosuch"), MISSING, "nosuch")
    refused(lambda: client.load_model("..%2fetc" if client.__module__.startswith("tritonclient.http") else "../etc"), BAD)


@pytest.mark.parametrize("verb", ["Load", "Unload"])
def test_kserves_messages(grpc_client, model, verb):
    """The model's name at number 1, and an answer with name and outcome."""
    with grpc.insecure_channel(GRPC) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/RepositoryModel{verb}", request_serializer=bytes, response_deserializer=bytes)
        if verb == "Unload":
            grpc_client.load_model(model)
        name = model.encode()
        field = b"\x0a" + bytes([len(name)]) + name
        assert call(field, timeout=60) == field + b"\x10\x01"
    assert grpc_client.is_model_ready(model) == (verb == "Load")
