"""tritonclient's asyncio clients, unmodified, over both protocols: many requests at once, and the calls they share."""
import asyncio
import time

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from support import EXAMPLES, GRPC, HTTP, NAME, example, names, reference

SIDES = {
    "http": (tritonclient.http, tritonclient.http.aio, HTTP),
    "grpc": (tritonclient.grpc, tritonclient.grpc.aio, GRPC),
}
STATUS = {
    "http": {"missing": "404", "invalid": "400", "late": "504"},
    "grpc": {"missing": "StatusCode.NOT_FOUND", "invalid": "StatusCode.INVALID_ARGUMENT", "late": "StatusCode.DEADLINE_EXCEEDED"},
}
both = pytest.mark.parametrize("side", SIDES)
COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)


def inputs(side, feed):
    made = []
    for name, a in feed.items():
        i = SIDES[side][0].InferInput(name, list(a.shape), NAME[a.dtype])
        i.set_data_from_numpy(a)
        made.append(i)
    return made


def run(side, work):
    async def whole():
        _, module, address = SIDES[side]
        async with module.InferenceServerClient(address) as client:
            return await asyncio.wait_for(work(client), 60)

    return asyncio.run(whole())


@both
def test_what_it_says_about_itself(side):
    async def work(c):
        assert await c.is_server_live() and await c.is_server_ready() and await c.is_model_ready("simple", "1")
        server, model, config, index, stats = await asyncio.gather(
            c.get_server_metadata(),
            c.get_model_metadata("simple"),
            c.get_model_config("simple"),
            c.get_model_repository_index(),
            c.get_inference_statistics("simple"),
        )
        assert server and model and config and index and stats

    run(side, work)


@both
@pytest.mark.parametrize("model", EXAMPLES)
def test_many_at_once_get_their_own_answers(side, model):
    version, feed = example(model, 40)
    want = reference(model, feed, version)

    async def work(c):
        rows = [{k: a[i : i + 1] for k, a in feed.items()} for i in range(40)]
        answers = await asyncio.gather(*(c.infer(model, inputs(side, row), request_id=str(i)) for i, row in enumerate(rows)))
        for i, answer in enumerate(answers):
            response = answer.get_response()
            assert (response["id"] if side == "http" else response.id) == str(i)
            for name, all_rows in want.items():
                np.testing.assert_allclose(answer.as_numpy(name), all_rows[i : i + 1], rtol=1e-4, atol=1e-5)

    run(side, work)


@both
def test_errors(side):
    async def work(c):
        feed = inputs(side, {"INPUT0": COUNT, "INPUT1": COUNT})
        with pytest.raises(InferenceServerException) as e:
            await c.infer("nosuch", feed)
        assert e.value.status() == STATUS[side]["missing"]
        names(e.value.message(), "nosuch")
        with pytest.raises(InferenceServerException) as e:
            await c.infer("simple", feed[:1])
        assert e.value.status() == STATUS[side]["invalid"]
        names(e.value.message(), "INPUT1")

    run(side, work)


@both
def test_timeout(side):
    async def work(c):
        start = time.monotonic()
        with pytest.raises(InferenceServerException) as e:
            feed = {"X": np.array([5], np.float32), "ITERS": np.array([10**6], np.int64)}
            await c.infer("burn", inputs(side, feed), timeout=300_000)
        assert e.value.status() == STATUS[side]["late"] and time.monotonic() - start < 5

    run(side, work)


@both
def test_a_cancelled_call_harms_nobody(side):
    async def work(c):
        feed = inputs(side, {"X": np.array([5], np.float32), "ITERS": np.array([10**7], np.int64)})
        tasks = [asyncio.create_task(c.infer("burn", feed)) for _ in range(4)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        answer = await c.infer("simple", inputs(side, {"INPUT0": COUNT, "INPUT1": COUNT}))
        assert (answer.as_numpy("OUTPUT0") == 2 * COUNT).all()
        short = inputs(side, {"X": np.array([7], np.float32), "ITERS": np.array([2], np.int64)})
        assert (await c.infer("burn", short)).as_numpy("Y").tolist() == [7]

    run(side, work)
