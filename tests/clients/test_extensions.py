"""Triton's extensions beside inference, and the standard services, with the clients that people have."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from support import GRPC, example, reference

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(params=MODULES)
def client(request, http_client, grpc_client):
    return {"http": http_client, "grpc": grpc_client}[request.param]


def module(client):
    return MODULES["http" if isinstance(client, tritonclient.http.InferenceServerClient) else "grpc"]


def classified(client, model, feed, output, k, **how):
    m = module(client)
    given = []
    for name, array in feed.items():
        given.append(m.InferInput(name, list(array.shape), "FP32"))
        given[-1].set_data_from_numpy(array)
    asked = m.InferRequestedOutput(output, class_count=k, **(how if m is tritonclient.http else {}))
    return client.infer(model, given, outputs=[asked]).as_numpy(output)


# ---- classification


@pytest.mark.parametrize("binary", [True, False])
def test_classes_with_their_labels(client, binary):
    version, feed = example("digits", 4)
    [(output, scores)] = [(n, a) for n, a in reference("digits", feed, version).items() if a.dtype == np.float32]
    got = classified(client, "digits", feed, output, 3, binary_data=binary)
    assert got.shape == (4, 3)
    for row, texts in zip(scores, got):
        best = np.argsort(-row, kind="stable")[:3]
        for index, text in zip(best, texts):
            text = text if isinstance(text, str) else text.decode()  # of JSON the client makes strings
            value, at, *label = text.split(":")
            assert int(at) == index and value == "%f" % row[index], (text, row)
            assert label in ([], [str(index)]), text


def test_more_classes_than_there_are(client):
    version, feed = example("wine", 2)
    [(output, scores)] = [(n, a) for n, a in reference("wine", feed, version).items() if a.dtype == np.float32]
    assert classified(client, "wine", feed, output, 1000).shape == (2, scores.shape[1])


def test_what_is_no_number_is_refused(client):
    text = np.array([[b"a"]], dtype=object)
    given = module(client).InferInput("INPUT0", [1, 1], "BYTES")
    given.set_data_from_numpy(text)
    asked = module(client).InferRequestedOutput("OUTPUT0", class_count=1)
    with pytest.raises(InferenceServerException, match="OUTPUT0.*BYTES"):
        client.infer("identity_bytes", [given], outputs=[asked])


# ---- settings


def test_settings_are_read_and_not_changed(client):
    as_json = {} if module(client) is tritonclient.http else {"as_json": True}
    read = lambda answer: answer.get("settings", answer)
    for model in (None, "wine"):
        trace = read(client.get_trace_settings(model, **as_json))
        assert trace["trace_level"] in (["OFF"], {"value": ["OFF"]})
    assert read(client.update_trace_settings(settings={"trace_level": ["OFF"]}, **as_json)) == trace
    log = read(client.get_log_settings(**as_json))
    assert log["log_file"] in ("", {"string_param": ""})
    assert read(client.update_log_settings({}, **as_json)) == log
    for change in (
        lambda: client.update_trace_settings(settings={"trace_file": "/tmp/elsewhere"}),
        lambda: client.update_trace_settings("wine", settings={"trace_rate": "1"}),
        lambda: client.update_log_settings({"log_file": "/tmp/elsewhere"}),
        lambda: client.update_log_settings({"log_verbose_level": 5}),
    ):
        with pytest.raises(InferenceServerException, match="configuration"):
            change()
    with pytest.raises(InferenceServerException, match="nosuch"):
        client.get_trace_settings("nosuch")
    assert not os.path.exists("/tmp/elsewhere")


def test_what_is_listed_is_there(client):
    metadata = client.get_server_metadata()
    extensions = metadata["extensions"] if isinstance(metadata, dict) else metadata.extensions
    assert sorted(extensions) == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    ]


# ---- grpc.health.v1 and reflection


@pytest.fixture
def channel():
    import grpc

    with grpc.insecure_channel(GRPC) as channel:
        yield channel


def test_health(channel):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub, serving = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckResponse.SERVING
    check = lambda name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status
    for name in ("", "inference.GRPCInferenceService", "wine"):
        assert check(name) == serving
    with pytest.raises(grpc.RpcError) as e:
        check("nosuch")
    assert e.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="nosuch"), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    if hasattr(stub, "List"):
        assert stub.List(health_pb2.HealthListRequest(), timeout=20).statuses["wine"].status == serving


def buf(*arguments):
    command = [Path(sys.executable).parent / "buf", "curl", "--http2-prior-knowledge", *arguments]
    p = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return p.returncode, p.stdout, p.stderr


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
def test_buf_by_reflection(version):
    asked = ["--protocol", "grpc", "--reflect-protocol", version]
    code, out, err = buf(*asked, "--list-services", f"http://{GRPC}")
    assert code == 0, err
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(out.split()), out
    service = f"http://{GRPC}/inference.GRPCInferenceService"
    code, out, err = buf(*asked, "-d", '{"name": "wine"}', f"{service}/ModelMetadata")
    assert code == 0 and json.loads(out)["name"] == "wine", err
    code, out, err = buf(*asked, "-d", '{"name": "nosuch"}', f"{service}/ModelMetadata")
    assert code != 0 and "not_found" in out + err


# ---- KServe's SDK


def test_kserve_sdk():
    program = Path(__file__).parent / "kserve_sdk.py"
    p = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100, env=os.environ)
    assert p.returncode == 0, p.stdout + p.stderr
