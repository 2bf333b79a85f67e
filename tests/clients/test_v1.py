"""TensorFlow Serving's REST calls, as its manual makes them with curl, and what KServe's v1 clients ask."""
import json
import math
import subprocess

import numpy as np
import pytest

from support import EXAMPLES, HTTP, example, reference, request


def curl(*args):
    """curl's own defaults: with `-d` the content type is that of a form."""
    out = subprocess.run(["curl", "-s", "-w", "\n%{http_code}", *args], capture_output=True, text=True, check=True, timeout=60)
    body, code = out.stdout.rsplit("\n", 1)
    return int(code), body


def post(path, body):
    code, answer = curl("-X", "POST", f"http://{HTTP}/v1/models/{path}", "-d", body if isinstance(body, str) else json.dumps(body))
    return code, json.loads(answer)


def test_predict_by_rows_and_by_columns():
    """https://www.tensorflow.org/tfx/serving/api_rest: `instances`, `inputs`, one named tensor drops its name."""
    x = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    for path, k in (("versioned:predict", 3), ("versioned/versions/2:predict", 2)):
        expected = (x + k).tolist()
        for instances in (x.tolist(), [{"X": row} for row in x.tolist()]):
            assert post(path, {"signature_name": "serving_default", "instances": instances}) == (200, {"predictions": expected})
        for inputs in (x.tolist(), {"X": x.tolist()}):
            assert post(path, {"inputs": inputs}) == (200, {"outputs": expected})


def test_several_inputs_and_outputs():
    rows = [{"features": [1, 2, 3], "weight": 2, "name": ["a"]}, {"features": [4, 5, 6], "weight": 0.5, "name": [{"b64": "Yg=="}]}]
    code, answer = post("mixed:predict", {"instances": rows})
    expected = [
        {"sum": 6, "weighted": 12, "echo": ["a"], "big": False},
        {"sum": 15, "weighted": 7.5, "echo": ["b"], "big": True},
    ]
    assert (code, answer) == (200, {"predictions": expected})
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    code, answer = post("mixed:predict", {"inputs": columns})
    assert (code, answer["outputs"]) == (200, {key: [row[key] for row in expected] for key in expected[0]})


@pytest.mark.parametrize("model", EXAMPLES)
def test_the_example_models(model):
    version, feed = example(model)
    expected = reference(model, feed, version)
    rows = [{name: a[i].tolist() for name, a in feed.items()} for i in range(3)]
    code, answer = post(f"{model}:predict", {"instances": rows})
    assert code == 200, answer
    for i, row in enumerate(answer["predictions"]):
        for name, a in expected.items():
            got = row[name] if len(expected) > 1 else row
            assert np.allclose(np.array(got, a.dtype), a[i], rtol=1e-5), (model, name)


def test_numbers_that_are_none_are_bare_tokens():
    code, body = curl("-d", '{"instances": [[1, 0, -1], [NaN, Infinity, 2]]}', f"http://{HTTP}/v1/models/nan_inf:predict")
    assert code == 200 and '"' not in body.split(":", 1)[1]
    first, second = json.loads(body)["predictions"]
    assert first[0] == math.inf and math.isnan(first[1]) and first[2] == -math.inf
    assert math.isnan(second[0]) and second[1:] == [math.inf, math.inf]


def test_classify_and_regress():
    version, feed = example("wine", 2)
    expected = reference("wine", feed, version)["probabilities"]
    examples = [{"features": row} for row in feed["features"].tolist()]
    code, answer = post("wine:classify", {"examples": examples})
    assert code == 200, answer
    for row, scores in zip(answer["result"], expected):
        assert len(row) == 3 and all(isinstance(label, str) for label, _ in row)
        assert np.allclose([score for _, score in row], scores, rtol=1e-5)
    version, feed = example("diabetes", 2)
    expected = list(reference("diabetes", feed, version).values())[0].ravel()
    code, answer = post("diabetes:regress", {"examples": [{"features": row} for row in feed["features"].tolist()]})
    assert code == 200, answer
    assert np.allclose(answer["result"], expected, rtol=1e-5)


def test_status_and_metadata():
    code, body = curl(f"http://{HTTP}/v1/models/versioned")
    answer = json.loads(body)
    assert code == 200 and answer["ready"] is True and answer["name"] == "versioned"
    states = {v["version"]: v["state"] for v in answer["model_version_status"]}
    assert states == {"1": "AVAILABLE", "2": "AVAILABLE", "3": "AVAILABLE"}
    assert all(v["status"] == {"error_code": "OK", "error_message": ""} for v in answer["model_version_status"])
    code, body = curl(f"http://{HTTP}/v1/models/versioned/versions/1")
    assert code == 200 and [v["version"] for v in json.loads(body)["model_version_status"]] == ["1"]
    code, body = curl(f"http://{HTTP}/v1/models/versioned/metadata")
    answer = json.loads(body)
    assert answer["model_spec"] == {"name": "versioned", "signature_name": "", "version": "3"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}], "unknown_rank": False}
    assert signature["inputs"]["X"] == {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "X"}
    assert "versioned" in json.loads(curl(f"http://{HTTP}/v1/models")[1])["models"]


def test_refusals():
    for path, body, code, words in (
        ("nosuch:predict", {"instances": [1]}, 404, "nosuch"),
        ("versioned/versions/9:predict", {"instances": [1]}, 404, "9"),
        ("versioned/labels/canary:predict", {"instances": [1]}, 404, "canary"),
        ("versioned:predict", "{", 400, "JSON"),
        ("versioned:predict", {"instances": [[1, 2, 3]]}, 400, "shape"),
        ("versioned:predict", {"instances": [["a", 2, 3, 4]]}, 400, "'X'"),
        ("versioned:classify", {"instances": []}, 400, "examples"),
        ("mixed:classify", {"examples": [{}]}, 400, ":predict"),
        ("versioned:explain", {"instances": []}, 501, ":explain"),
    ):
        status, answer = post(path, body)
        assert status == code and words in answer["error"], (path, status, answer)
    assert request("GET", "/v1/models/versioned:predict")[0] in (404, 405)
    assert request("POST", "/v1/models/versioned", b"{}")[0] == 405
