"""Items of many requests, gathered into batches: a queue that knows nothing of HTTP.

A batch is what waits when the model is free, up to a budget: nothing is held back for a fuller one.
Requests take turns, so that one of ten thousand sequences does not keep one of a single sequence
waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from riboray.serving.errors import ErrorCode, ServiceError

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")

#: How much the last batch counts in what is known of the speed.
_NEWEST = 0.2

#: Seconds after which to come again, at least and at most.
_SOONEST, _LATEST = 1.0, 60.0


class _Request(Generic[Item, Result]):
    """The items of one request that wait, and its results so far."""

    def __init__(self, items: Sequence[Item], answer: asyncio.Future[None]) -> None:
        self.waiting = deque(enumerate(items))
        self.results: list[Result | Exception | None] = [None] * len(items)
        self.missing = len(items)
        self.answer = answer

    def deliver(self, index: int, result: Result | Exception) -> None:
        self.results[index] = result
        self.missing -= 1
        if not self.missing and not self.answer.done():
            self.answer.set_result(None)


class Batcher(Generic[Item, Result]):
    """Runs a function on batches of items, one batch at a time, in a thread.

    Parameters
    ----------
    run : callable
        Takes a list of items, returns as many results in their order. If it raises, its items are
        tried one by one, and an item that fails by itself has the exception for a result.
    cost : callable
        Cost of an item, such as its tokens; positive.
    budget : int
        Cost of a batch, at most. An item that alone costs more is a batch.
    capacity : int
        Cost of all that may wait. What comes when as much is waiting is turned away.

    Notes
    -----
    All methods are for one event loop. A caller that is cancelled takes what waits of it along.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        cost: Callable[[Item], int],
        budget: int,
        capacity: int,
    ) -> None:
        self._run, self._cost = run, cost
        self._budget, self._capacity = budget, capacity
        self._requests: deque[_Request[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="riboray-model")
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._speed = 0.0
        self.waiting = 0
        """Cost of what waits; what is being computed does not count."""
        self.failures = 0
        """Batches without a single result since the last one that had any."""

    async def submit(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Have items computed.

        Parameters
        ----------
        items : sequence
            Of one request.

        Returns
        -------
        list
            A result, or an exception, for each item.

        Raises
        ------
        ServiceError
            ``TOO_LARGE`` if it is more than may wait at all, ``OVERLOADED`` if too much waits
            already, ``NOT_READY`` once closed.
        """
        if self._closed:
            raise ServiceError(ErrorCode.NOT_READY, "the service is ending")
        if not items:
            return []
        cost = sum(map(self._cost, items))
        if cost > self._capacity:
            raise ServiceError(
                ErrorCode.TOO_LARGE,
                f"it would take as long as {cost:,} nucleotides, more than the "
                f"{self._capacity:,} that may wait: send several requests",
            )
        if self.waiting and self.waiting + cost > self._capacity:
            raise ServiceError(
                ErrorCode.OVERLOADED,
                "more is waiting than may wait; try again later",
                retry_after=self._time_to_wait(),
            )
        loop = asyncio.get_running_loop()
        request = _Request[Item, Result](items, loop.create_future())
        self._requests.append(request)
        self.waiting += cost
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        try:
            await request.answer
        finally:
            self._drop(request)
        return [result for result in request.results if result is not None]

    @property
    def closed(self) -> bool:
        """Whether nothing more is computed."""
        return self._closed

    async def close(self) -> None:
        """Compute nothing more; who waits is told."""
        self._closed = True
        error = ServiceError(ErrorCode.NOT_READY, "the service is ending")
        for request in list(self._requests):
            if not request.answer.done():
                request.answer.set_exception(error)
            self._drop(request)
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    def _time_to_wait(self) -> float:
        """Estimate the seconds until half of what waits is done."""
        seconds = self.waiting / 2 / self._speed if self._speed else _SOONEST
        return min(max(seconds, _SOONEST), _LATEST)

    def _drop(self, request: _Request[Item, Result]) -> None:
        """Forget what still waits of a request."""
        self.waiting -= sum(self._cost(item) for _, item in request.waiting)
        request.waiting.clear()
        if request in self._requests:
            self._requests.remove(request)

    def _take(self) -> list[tuple[_Request[Item, Result], int, Item]]:
        """Take a batch off the requests, an item of each in turn."""
        batch: list[tuple[_Request[Item, Result], int, Item]] = []
        left = self._budget
        while self._requests:
            request = self._requests[0]
            index, item = request.waiting[0]
            cost = self._cost(item)
            if batch and cost > left:
                break
            request.waiting.popleft()
            self.waiting -= cost
            left -= cost
            batch.append((request, index, item))
            self._requests.rotate(-1)
            if not request.waiting:
                self._requests.pop()
        return batch

    async def _work(self) -> None:
        """Compute batch after batch while there is something to compute."""
        loop = asyncio.get_running_loop()
        while self._requests:
            batch = self._take()
            items = [item for _, _, item in batch]
            start = time.monotonic()
            results = await loop.run_in_executor(self._thread, self._compute, items)
            speed = sum(map(self._cost, items)) / max(time.monotonic() - start, 1e-6)
            self._speed += (speed - self._speed) * (_NEWEST if self._speed else 1.0)
            # What says itself why there is no result is an answer, and no failure of the model.
            failed = all(
                isinstance(result, Exception) and not isinstance(result, ServiceError)
                for result in results
            )
            self.failures = self.failures + 1 if failed else 0
            for (request, index, _), result in zip(batch, results, strict=True):
                request.deliver(index, result)

    def _compute(self, items: list[Item]) -> Sequence[Result | Exception]:
        """Run a batch; if that fails, run its items one by one."""
        try:
            return self._run(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [result for item in items for result in self._compute([item])]
