"""Ingesting on Ray: the steps' functions as tasks, a few at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from riboray.console import say
from riboray.corpus.memory import keep_memory
from riboray.crew.folders import common_file, unshared, visible
from riboray.crew.size import Needs
from riboray.pipeline import connect, fetch
from riboray.rayenv import LOCAL

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["RayRunner", "ray_runner"]

#: Bytes of arguments, such as decompressed text, that may wait in the object store.
_BYTES_AHEAD = 320 << 20
#: Seconds that tasks get to end when one has failed.
_PATIENCE = 15.0
#: Tasks that may wait for a cluster's next machines, beside as many as run: its autoscaler sees
#: them.
_WAITING = 4
#: Seconds for which the number of a cluster's CPUs is taken as known.
_GOOD_FOR = 5.0


@ray.remote(max_retries=20)
def _call(function: Callable[..., Any], arguments: tuple[Any, ...], probe: str | None) -> Any:
    """Call a function. Done twice, after a crash, it leaves the same files."""
    keep_memory()
    if probe is not None and not visible(probe):
        raise unshared(Path(probe).parent, socket.gethostname())
    return function(*arguments)


class RayRunner:
    """Calls functions in Ray tasks; a lost process is replaced and its task repeated.

    Parameters
    ----------
    workers : int, list of int or None
        Tasks that run at a time, or least and most. None: as many as there are CPUs, and on a
        cluster twice as many, so that it may grow.
    address : str
        Which Ray.
    folder : Path, optional
        Where tasks write, which must be the same folder on all machines.
    memory : float, optional
        GiB that each task holds.
    """

    def __init__(
        self,
        workers: int | list[int] | None,
        address: str,
        folder: Path | None = None,
        memory: float | None = None,
    ) -> None:
        self._asked = workers[1] if isinstance(workers, list) else workers
        self._address, self._folder = address, folder
        self._needs = Needs(memory=memory)
        self._call = _call.options(**self._needs.share())
        self._counted = (-_GOOD_FOR, 0)

    @property
    def workers(self) -> int:
        """Tasks that are with Ray at a time."""
        if self._asked is not None or self._address == LOCAL:
            return self._asked or os.cpu_count() or 1
        if time.monotonic() - self._counted[0] >= _GOOD_FOR:
            cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
            self._counted = time.monotonic(), cpus
        cpus = self._counted[1]
        return cpus + max(cpus, _WAITING)

    def map(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Call ``function(*item)`` for every item; yield results as they come.

        Raises
        ------
        RiborayError
            If a call fails for a reason other than a lost process.
        """
        running: dict[Any, int] = {}
        with common_file(self._address, self._folder) as probe:
            yield from self._map(function, items, running, probe)

    def _map(
        self,
        function: Callable[..., Any],
        items: Iterable[tuple[Any, ...]],
        running: dict[Any, int],
        probe: str | None,
    ) -> Iterator[Any]:
        try:
            for item in items:
                size = _size(item)
                while running and (
                    len(running) >= self.workers or sum(running.values()) + size > _BYTES_AHEAD
                ):
                    yield from self._collect(running)
                running[self._call.remote(function, item, probe)] = size
            while running:
                yield from self._collect(running)
        finally:
            # Whoever clears up after a failure must not have somebody write beside them.
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE)

    def _collect(self, running: dict[Any, int]) -> Iterator[Any]:
        while not (done := ray.wait(list(running), num_returns=1, timeout=60)[0]):
            if not ray.cluster_resources().get("CPU"):  # type: ignore[no-untyped-call]
                say(self._needs.no_room())
        for reference in done:
            del running[reference]
            yield fetch(reference, "a step of ingesting")


def _size(item: Any) -> int:
    """Add up the bytes of text in a task's arguments."""
    if isinstance(item, tuple):
        return sum(_size(part) for part in item)
    return len(item) if isinstance(item, bytes) else 0


@contextmanager
def ray_runner(
    address: str, workers: int | None, folder: Path | None, memory: float | None
) -> Iterator[RayRunner]:
    """Connect to Ray, or start one on this machine, for the length of a ``with`` block."""
    with connect(address, cpus=workers or 0, spare=0):
        yield RayRunner(workers, address, folder, memory)
