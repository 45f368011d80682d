"""The queue, in a real event loop with a real thread."""

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.serving.batcher import Batcher
from riboray.serving.errors import ErrorCode, ServiceError


class Model:
    """Doubles numbers, batch by batch; a number's cost is itself."""

    def __init__(self, seconds=0.0):
        self.batches, self.seconds = [], seconds
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items):
        self.go.wait(20)
        self.batches.append(list(items))
        time.sleep(self.seconds)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def batcher_of(model, budget=100, capacity=10_000):
    return Batcher(model, cost=lambda item: item, budget=budget, capacity=capacity)


@given(
    st.lists(st.lists(st.integers(1, 40), max_size=12), max_size=6),
    st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_every_item_has_its_result(requests, budget):
    model = Model()

    async def ask():
        batcher = batcher_of(model, budget)
        found = await asyncio.gather(*(batcher.submit(items) for items in requests))
        assert batcher.waiting == 0
        await batcher.close()
        return found

    for items, results in zip(requests, asyncio.run(ask()), strict=True):
        assert len(results) == len(items)
        for item, result in zip(items, results, strict=True):
            if item == 13:
                assert isinstance(result, ValueError)
            else:
                assert result == 2 * item
    for batch in model.batches:
        assert len(batch) == 1 or sum(batch) <= budget


def test_requests_take_turns():
    """A request of one item is in the next batch, however many another has."""
    model = Model()
    model.go.clear()

    async def ask():
        batcher = batcher_of(model, budget=20)
        first = asyncio.create_task(batcher.submit([20]))  # keeps the model busy
        await asyncio.sleep(0.05)
        large = asyncio.create_task(batcher.submit([10] * 50))
        await asyncio.sleep(0)
        small = asyncio.create_task(batcher.submit([7]))
        await asyncio.sleep(0)
        model.go.set()
        assert await small == [14]
        assert not large.done()
        assert len(await large) == 50
        await first

    asyncio.run(ask())
    assert model.batches[1] == [10, 7]


def test_what_waits_shares_a_batch():
    model = Model()
    model.go.clear()

    async def ask():
        batcher = batcher_of(model)
        tasks = [asyncio.create_task(batcher.submit([1 + k])) for k in range(8)]
        await asyncio.sleep(0.05)
        model.go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == [[2 * (1 + k)] for k in range(8)]
    assert len(model.batches) <= 2


def test_too_much_is_turned_away_and_told_when_to_come_again():
    model = Model()
    model.go.clear()

    async def ask():
        batcher = batcher_of(model, budget=10, capacity=100)
        running = asyncio.create_task(batcher.submit([10]))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.submit([10] * 9))
        await asyncio.sleep(0)
        with pytest.raises(ServiceError) as refused:
            await batcher.submit([11])
        assert refused.value.code is ErrorCode.OVERLOADED
        assert refused.value.code.status == 429
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
        fits = asyncio.create_task(batcher.submit([10]))
        await asyncio.sleep(0)
        assert batcher.waiting == 100
        model.go.set()
        await asyncio.gather(running, waiting, fits)
        assert batcher.waiting == 0

    asyncio.run(ask())


def test_who_leaves_takes_its_items_along():
    model = Model()
    model.go.clear()

    async def ask():
        batcher = batcher_of(model, budget=10)
        running = asyncio.create_task(batcher.submit([10]))
        await asyncio.sleep(0.05)
        leaving = asyncio.create_task(batcher.submit([9] * 30))
        staying = asyncio.create_task(batcher.submit([8]))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert batcher.waiting == 8
        model.go.set()
        assert await staying == [16]
        assert await running == [20]

    asyncio.run(ask())
    assert [9] not in model.batches


def test_one_bad_item_fails_alone():
    model = Model()

    async def ask():
        batcher = batcher_of(model)
        return await asyncio.gather(batcher.submit([1, 13, 2]), batcher.submit([3]))

    (one, bad, two), three = asyncio.run(ask())
    assert (one, two, three) == (2, 4, [6])
    assert isinstance(bad, ValueError)


def test_closing_tells_who_waits():
    model = Model(seconds=0.1)

    async def ask():
        batcher = batcher_of(model, budget=10)
        running = asyncio.create_task(batcher.submit([10]))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.submit([10, 10]))
        await asyncio.sleep(0)
        await batcher.close()
        with pytest.raises(ServiceError) as told:
            await waiting
        assert told.value.code.status == 503
        assert await running == [20]  # what was begun is finished
        with pytest.raises(ServiceError):
            await batcher.submit([1])

    asyncio.run(ask())
    assert model.batches == [[10]]
