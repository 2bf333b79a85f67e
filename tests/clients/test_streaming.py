"""Streams with Triton's clients: start_stream, the asynchronous iterator, errors and statuses, and requests without a reader."""
import asyncio
import queue

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from support import GRPC, example, reference, same

ROWS = 3


def inputs(feed):
    made = []
    for name, array in feed.items():
        made.append(tritonclient.grpc.InferInput(name, list(array.shape), "FP32"))
        made[-1].set_data_from_numpy(array)
    return made


@pytest.fixture
def wine():
    version, feed = example("wine", ROWS)
    return inputs(feed), reference("wine", feed, version)


@pytest.fixture
def answers(grpc_client):
    """A stream whose callback queues (result, error)."""
    got = queue.Queue()
    grpc_client.start_stream(lambda result, error: got.put((result, error)))
    yield got
    grpc_client.stop_stream()


def is_final(response):
    return response.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize("flag", [True, False])
def test_answers_in_order(grpc_client, answers, wine, flag):
    given, expected = wine
    for n in range(300):
        grpc_client.async_stream_infer("wine", given, request_id=str(n), enable_empty_final_response=flag)
    for n in range(300):
        result, error = answers.get(timeout=30)
        assert error is None
        response = result.get_response()
        assert response.id == str(n) and is_final(response)
        for name, array in expected.items():
            assert same(result.as_numpy(name), array), name


def test_an_error_leaves_the_stream_open(grpc_client, answers, wine):
    given, _ = wine
    grpc_client.async_stream_infer("nosuch", given, request_id="lost")
    grpc_client.async_stream_infer("wine", given, request_id="found")
    result, error = answers.get(timeout=30)
    assert result is None and isinstance(error, InferenceServerException) and "nosuch" in error.message()
    result, error = answers.get(timeout=30)
    assert error is None and result.get_response().id == "found"


def test_an_error_as_a_status_ends_the_stream(grpc_client, wine):
    given, _ = wine
    got = queue.Queue()
    grpc_client.start_stream(lambda result, error: got.put((result, error)), headers={"triton_grpc_error": "true"})
    try:
        grpc_client.async_stream_infer("nosuch", given)
        _, error = got.get(timeout=30)
        assert error.status() == "StatusCode.NOT_FOUND", error
    finally:
        grpc_client.stop_stream(cancel_requests=True)


def test_reserved_parameters(grpc_client, answers, wine):
    given, _ = wine
    # The client keeps the reserved ones to itself; these reach the server as sequence_id, sequence_start and sequence_end.
    grpc_client.async_stream_infer("wine", given, sequence_id=7, sequence_start=True, sequence_end=True, priority=1, timeout=20_000_000)
    result, error = answers.get(timeout=30)
    assert error is None and result is not None


def test_aio(wine):
    given, expected = wine

    async def asked():
        for n in range(50):
            yield {"model_name": "wine" if n % 10 else "nosuch", "inputs": given, "request_id": str(n)}

    async def main():
        async with tritonclient.grpc.aio.InferenceServerClient(GRPC) as client:
            n = 0
            async for result, error in client.stream_infer(asked()):
                assert (error is None) == bool(n % 10), (n, error)
                if error is None:
                    assert result.get_response().id == str(n)
                    assert all(same(result.as_numpy(name), array) for name, array in expected.items())
                n += 1
            assert n == 50

    asyncio.run(main())


def test_a_whole_stream_of_tensors_larger_than_its_windows(grpc_client, answers):
    array = np.random.default_rng(1).standard_normal((1024, 13)).astype(np.float32)
    for n in range(100):
        grpc_client.async_stream_infer("wine", inputs({"features": array}), request_id=str(n))
    for n in range(100):
        result, error = answers.get(timeout=60)
        assert error is None and result.get_response().id == str(n)
