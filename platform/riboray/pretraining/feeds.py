"""One worker's share of an objective's streams, and where each stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from riboray.pretraining.streams import Batch, Cursor, StreamSpec
from riboray.pretraining.trainer import Trainer

__all__ = ["Batches", "Feed", "OpenStream"]

Batches = Iterator[tuple[Cursor, Batch]]
OpenStream = Callable[[StreamSpec, int, Cursor], Batches]


class Feed:
    """The streams of one objective that this worker serves: k with k mod workers == rank.

    Parameters
    ----------
    spec : StreamSpec
        What the streams hold.
    trainer : Trainer
        Knows this worker's rank and the number of workers.
    open_stream : callable
        Opens a stream at a cursor.
    cursors : list of (visit, batch)
        Where every stream stands; empty at the beginning of a run.
    phase : int
        Phase of the curriculum that the run stands in.

    Notes
    -----
    A stream is opened when its first batch is wanted, or by `open`. `peek` looks at the batches of
    the next step without moving on: a checkpoint made meanwhile holds the step as not taken.
    """

    def __init__(
        self,
        spec: StreamSpec,
        trainer: Trainer,
        open_stream: OpenStream,
        cursors: list[list[int]] | None,
        phase: int = 0,
    ) -> None:
        self.spec = spec
        self._now = spec.in_phase(phase)
        self._open_stream = open_stream
        self._mine = range(trainer.rank, spec.streams, trainer.world_size)
        self._cursors = [Cursor(*c) for c in cursors] if cursors else [Cursor()] * spec.streams
        self._batches: dict[int, Batches] = {}
        self._next: list[tuple[Cursor, Batch]] = []
        self._waited = 0.0

    def open(self) -> None:
        """Begin to read ahead."""
        for stream in self._mine:
            if stream not in self._batches:
                cursor = self._cursors[stream]
                self._batches[stream] = self._open_stream(self._now, stream, cursor)

    def close(self) -> None:
        """Stop reading; what was read ahead and not trained on is read again by `open`."""
        self._batches, self._next = {}, []

    def enter(self, phase: int) -> None:
        """Go on with what the streams hold in a phase."""
        wanted = self.spec.in_phase(phase)
        if wanted is not self._now:
            self._now = wanted
            self.close()

    def peek(self) -> list[Batch]:
        """Return the next step's batches, one of each stream of this worker."""
        if not self._next:
            self.open()
            start = time.monotonic()
            self._next = [next(self._batches[stream]) for stream in self._mine]
            self._waited += time.monotonic() - start
        return [batch for _, batch in self._next]

    def take_wait(self) -> float:
        """Return the seconds spent waiting for batches since this was asked before."""
        waited, self._waited = self._waited, 0.0
        return waited

    def advance(self) -> None:
        """Count the batches that were peeked at as trained on."""
        for stream, (cursor, _) in zip(self._mine, self._next, strict=True):
            self._cursors[stream] = cursor
        self._next = []

    @property
    def visits(self) -> int:
        """Windows that this worker's streams have finished."""
        return sum(self._cursors[stream].visit for stream in self._mine)

    def all_cursors(self, trainer: Trainer) -> list[list[int]]:
        """Return every stream's cursor, gathered from all workers (all call this together)."""
        own = [
            number
            for stream, cursor in enumerate(self._cursors)
            for number in (cursor if stream in self._mine else (0, 0))
        ]
        flat = [int(number) for number in trainer.all_sum(own)]
        return [flat[i : i + 2] for i in range(0, len(flat), 2)]
