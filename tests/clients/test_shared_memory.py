"""System shared memory: tritonclient's own utilities and clients, unmodified, over both protocols."""
import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from support import GRPC, HTTP

KIND = {"http": (http, HTTP), "grpc": (grpc, GRPC)}
COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), np.int32)
SIZE = COUNT.nbytes


@pytest.fixture(params=KIND)
def setup(request):
    """A client, its module, and a region of four tensors that is gone afterwards."""
    module, url = KIND[request.param]
    key = f"/onnxd_test_{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("tensors", key, 4 * SIZE)
    with module.InferenceServerClient(url) as client:
        yield module, client, handle, key
        client.unregister_system_shared_memory()
    shm.destroy_shared_memory_region(handle)


def placed(module, offset, size=SIZE):
    inputs = [module.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for i, tensor in enumerate(inputs):
        tensor.set_shared_memory("tensors", size, offset=i * SIZE)
    outputs = [module.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    for i, output in enumerate(outputs):
        output.set_shared_memory("tensors", SIZE, offset=offset + i * SIZE)
    return inputs, outputs


def test_both_ways(setup):
    module, client, handle, key = setup
    assert "system_shared_memory" in str(client.get_server_metadata())
    shm.set_shared_memory_region(handle, [COUNT, ONES])
    client.register_system_shared_memory("tensors", key, 4 * SIZE)
    status = client.get_system_shared_memory_status()
    assert "tensors" in str(status) and key in str(status)
    inputs, outputs = placed(module, 2 * SIZE)
    answer = client.infer("simple", inputs, outputs=outputs)
    output = answer.get_output("OUTPUT0")
    shape = output["shape"] if isinstance(output, dict) else list(output.shape)
    assert shape == [1, 16]
    assert (shm.get_contents_as_numpy(handle, np.int32, shape, offset=2 * SIZE) == COUNT + ONES).all()
    assert (shm.get_contents_as_numpy(handle, np.int32, shape, offset=3 * SIZE) == COUNT - ONES).all()
    # One tensor there, the other sent.
    inputs[1] = module.InferInput("INPUT1", [1, 16], "INT32")
    inputs[1].set_data_from_numpy(2 * ONES)
    outputs[1] = module.InferRequestedOutput("OUTPUT1")
    answer = client.infer("simple", inputs, outputs=outputs)
    assert (answer.as_numpy("OUTPUT1") == COUNT - 2).all()
    assert (shm.get_contents_as_numpy(handle, np.int32, shape, offset=2 * SIZE) == COUNT + 2).all()


def test_strings(setup):
    module, client, handle, key = setup
    texts = np.array([[b"a", b"", "ü".encode()]], dtype=object)
    shm.set_shared_memory_region(handle, [serialize_byte_tensor(texts)])
    client.register_system_shared_memory("tensors", key, 4 * SIZE)
    tensor = module.InferInput("INPUT0", [1, 3], "BYTES")
    tensor.set_shared_memory("tensors", 3 * 4 + 3)
    output = module.InferRequestedOutput("OUTPUT0")
    output.set_shared_memory("tensors", 64, offset=64)
    client.infer("identity_bytes", [tensor], outputs=[output])
    assert (shm.get_contents_as_numpy(handle, np.object_, [1, 3], offset=64) == texts).all()


def refused(call, *words):
    with pytest.raises(InferenceServerException) as raised:
        call()
    assert all(word in str(raised.value) for word in words), raised.value


def test_refusals(setup):
    module, client, handle, key = setup
    register = client.register_system_shared_memory
    refused(lambda: register("tensors", key, 5 * SIZE), "tensors", "not within")
    refused(lambda: register("tensors", "/etc/passwd", 8), "tensors")
    refused(lambda: register("tensors", "/another", 8), "not allowed")
    refused(lambda: client.get_system_shared_memory_status("tensors"), "no region 'tensors'")
    inputs, outputs = placed(module, 2 * SIZE)
    refused(lambda: client.infer("simple", inputs, outputs=outputs), "no region 'tensors'")
    register("tensors", key, 4 * SIZE)
    refused(lambda: register("tensors", key, 4 * SIZE), "already")
    inputs, outputs = placed(module, 2 * SIZE, size=SIZE - 4)
    refused(lambda: client.infer("simple", inputs, outputs=outputs), "INPUT0")
    inputs, outputs = placed(module, 3 * SIZE)
    refused(lambda: client.infer("simple", inputs, outputs=outputs), "not within")
    inputs, outputs = placed(module, 2 * SIZE)
    outputs[0].set_shared_memory("tensors", 8)
    refused(lambda: client.infer("simple", inputs, outputs=outputs), "OUTPUT0", "takes 64 bytes")
    # The file is cut short behind the server's back: an error, and the server lives.
    os.truncate(Path("/dev/shm") / key[1:], 8)
    inputs, outputs = placed(module, 2 * SIZE)
    refused(lambda: client.infer("simple", inputs, outputs=outputs), "shorter")
    client.unregister_system_shared_memory("tensors")
    client.unregister_system_shared_memory("never there")
    assert client.is_server_live()
    os.truncate(Path("/dev/shm") / key[1:], 4 * SIZE)


def test_cuda_answers_harmlessly(setup):
    _, client, _, _ = setup
    assert not getattr(client.get_cuda_shared_memory_status(), "regions", {})
    client.unregister_cuda_shared_memory()
    refused(lambda: client.register_cuda_shared_memory("gpu", b"aGFuZGxl", 0, 8), "CUDA")
