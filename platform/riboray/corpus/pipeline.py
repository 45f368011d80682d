"""Ingesting on Ray: the steps' functions as tasks, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from riboray.corpus.memory import keep_memory
from riboray.pipeline import connect, fetch, worker_count

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["RayRunner", "ray_runner"]

#: Bytes of arguments, such as decompressed text, that may wait in the object store.
_BYTES_AHEAD = 320 << 20
#: Seconds that tasks get to end when one has failed.
_PATIENCE = 15.0


@ray.remote(num_cpus=1, max_retries=20)
def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function. Done twice, after a crash, it leaves the same files."""
    keep_memory()
    return function(*arguments)


class RayRunner:
    """Calls functions in Ray tasks; a lost process is replaced and its task repeated.

    Parameters
    ----------
    workers : int
        Tasks that run at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Call ``function(*item)`` for every item; yield results as they come.

        Raises
        ------
        RiborayError
            If a call fails for a reason other than a lost process.
        """
        running: dict[Any, int] = {}
        try:
            for item in items:
                size = _size(item)
                while running and (
                    len(running) >= self.workers or sum(running.values()) + size > _BYTES_AHEAD
                ):
                    yield from self._collect(running)
                running[_call.remote(function, item)] = size
            while running:
                yield from self._collect(running)
        finally:
            # Whoever clears up after a failure must not have somebody write beside them.
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE)

    @staticmethod
    def _collect(running: dict[Any, int]) -> Iterator[Any]:
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            del running[reference]
            yield fetch(reference, "a step of ingesting")


def _size(item: Any) -> int:
    """Add up the bytes of text in a task's arguments."""
    if isinstance(item, tuple):
        return sum(_size(part) for part in item)
    return len(item) if isinstance(item, bytes) else 0


@contextmanager
def ray_runner(address: str, workers: int | None) -> Iterator[RayRunner]:
    """Connect to Ray, or start one on this machine, for the length of a ``with`` block."""
    with connect(address, cpus=workers or 0, spare=0) as resources:
        yield RayRunner(worker_count(workers, address, resources))
