"""KServe's SDK, unmodified, against the server: a program of its own, since its messages have the names of tritonclient's."""
import asyncio
import os

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

HTTP, GRPC = os.environ["CLIENTS_HTTP"], os.environ["CLIENTS_GRPC"]
COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)


def asked(binary):
    given = [InferInput(name=name, shape=[1, 16], datatype="INT32") for name in ("INPUT0", "INPUT1")]
    for tensor in given:
        tensor.set_data_from_numpy(COUNT, binary_data=binary)
    return InferRequest(model_name="simple", infer_inputs=given)


async def main():
    url = f"http://{HTTP}"
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await rest.is_server_live(url) and await rest.is_server_ready(url) and await rest.is_model_ready(url, "simple")
    grpc = InferenceGRPCClient(url=GRPC)
    assert await grpc.is_server_live() and await grpc.is_server_ready() and await grpc.is_model_ready("simple")
    for binary in (True, False):
        for answer in (await rest.infer(url, asked(binary), model_name="simple"), await grpc.infer(asked(binary))):
            assert (answer.outputs[0].as_numpy() == 2 * COUNT).all()
    await rest.close()
    await grpc.close()
    first = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await first.is_server_live(url) and await first.is_model_ready(url, "versioned")
    answer = await first.infer(url, {"instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}, model_name="versioned")
    assert answer == {"predictions": [[4, 5, 6, 7], [8, 9, 10, 11]]}, answer
    await first.close()


asyncio.run(main())
