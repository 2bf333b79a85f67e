"""The OpenAPI document: valid on every port, and held to by the server, as schemathesis finds out."""
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from openapi_spec_validator import validate

import support

PORTS = {"http": support.HTTP, "grpc": support.GRPC, "operator": os.environ["CLIENTS_OPERATOR"]}
# Not positive_data_acceptance: a document for every model at once cannot say what one model takes.
CHECKS = ",".join([
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
])


@pytest.mark.parametrize("port", PORTS)
def test_the_document_is_valid(port):
    with urllib.request.urlopen(f"http://{PORTS[port]}/openapi.json") as answer:
        assert answer.headers["content-type"] == "application/json"
        document = json.load(answer)
    validate(document)
    answers = [list(o["responses"]) for item in document["paths"].values() for o in item.values() if "responses" in o]
    assert answers and not any("501" in codes for codes in answers)


# A model that is there, whose example in the document is answered; and whatever names schemathesis makes up.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("port, parameters", [
    ("http", {"path.model": "wine", "path.version": "2"}),
    ("http", {}),
    ("operator", {"path.model": "wine", "path.version": "2"}),
])
def test_the_server_does_what_its_document_says(port, parameters, tmp_path):
    lines = [f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in parameters.items()]
    config = tmp_path / "schemathesis.toml"
    config.write_text("[parameters]\n" + "".join(lines))
    schemathesis = Path(sys.executable).with_name("schemathesis")
    command = [
        schemathesis, "--config-file", config, "run", f"http://{PORTS[port]}/openapi.json",
        "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1",
        "--continue-on-failure", "--no-color", "--warnings", "off", "--request-timeout", "30",
        # Whoever unloads the model finds it unloaded: rightly, but then nothing else is looked at.
        "--exclude-path-regex", "/(load|unload)$" if parameters else "^$",
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    # Its own directory: schemathesis keeps what it found beside it.
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
