"""Numbers of a replica, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["METRICS_TYPE", "Metrics"]

Item = TypeVar("Item")
Result = TypeVar("Result")

METRICS_TYPE = CONTENT_TYPE_LATEST
"""Media type of what `Metrics.text` gives."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_NUCLEOTIDES = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)


class Metrics:
    """Counts requests and batches of one process."""

    def __init__(self) -> None:
        self._paths: frozenset[str] = frozenset()
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "riboray_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "riboray_request_seconds",
            "Seconds from a request's head to its answer's head.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "riboray_batch_nucleotides",
            "Cost of a batch, in nucleotides.",
            buckets=_NUCLEOTIDES,
            registry=registry,
        )
        self._computing = Counter(
            "riboray_computing_seconds", "Seconds that the model computed.", registry=registry
        )
        self._waiting = Gauge(
            "riboray_waiting_nucleotides", "Nucleotides that wait.", registry=registry
        )

    def tell_apart(self, paths: Iterable[str]) -> None:
        """Say which paths there are; all others are one, whatever clients make up."""
        self._paths = frozenset(paths)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        known = path if path in self._paths else "other"
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Say whom to ask what waits."""
        self._waiting.set_function(waiting)

    def timed(
        self, run: Callable[[list[Item]], Sequence[Result]], cost: Callable[[Item], int]
    ) -> Callable[[list[Item]], Sequence[Result]]:
        """Count the batches of a function."""

        def counted(items: list[Item]) -> Sequence[Result]:
            start = time.monotonic()
            try:
                return run(items)
            finally:
                self._computing.inc(time.monotonic() - start)
                self._batches.observe(sum(map(cost, items)))

        return counted

    def text(self) -> bytes:
        """Return the numbers in Prometheus' text format."""
        return generate_latest(self._registry)
