"""The actor between a run's workers and its driver.

It imports next to nothing: its process starts together with the workers, on the same cores.
"""

from __future__ import annotations

import ray

from riboray.pretraining.sessions import Record

__all__ = ["ProgressBoard"]


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Where workers post their records and the driver reads them; carries requests back.

    It lives on the driver's node and survives any worker. It ends with the driver: then the run
    ends too, and the same command goes on from the newest checkpoint.
    """

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._stop = False
        self._checkpoints = 0
        self._step = 0
        self._failures = 0

    def post(self, record: Record) -> None:
        """Keep a record."""
        self._records.append(record)

    def since(self, start: int) -> list[Record]:
        """Return the records from number ``start`` on."""
        return self._records[start:]

    def request_stop(self) -> None:
        """Ask the workers to stop after their current step."""
        self._stop = True

    def request_checkpoint(self) -> None:
        """Ask the workers to write a checkpoint now."""
        self._checkpoints += 1

    def requests(self) -> tuple[bool, int]:
        """Tell whether to stop, and how many checkpoints were asked for so far."""
        return self._stop, self._checkpoints

    def note_failure(self) -> None:
        """Count a failure; starting anew with more or fewer workers is none."""
        self._failures += 1

    def begin_attempt(self, step: int) -> int:
        """Return the failures since there was a new checkpoint; the newest is of ``step``."""
        if step > self._step:
            self._step, self._failures = step, 0
        return self._failures
