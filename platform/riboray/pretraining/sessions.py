"""What the training loop needs from the world around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ["LocalSession", "Requests", "Session"]

Record = dict[str, Any]


class Requests(NamedTuple):
    """What the user, or the cluster, asks of this worker."""

    stop: bool = False
    """Stop after the current step."""
    checkpoint: bool = False
    """Write a checkpoint now: something is about to happen. Told once."""


class Session(Protocol):
    """The world of one worker; see `pipeline.RaySession` and `LocalSession`."""

    def publish(self, record: Record) -> None:
        """Show and keep a record of metrics; rank 0 only, must not block."""

    def requests(self) -> Requests:
        """Tell what is asked of this worker; called every step, must not block."""

    def losing_machine(self) -> bool:
        """Tell whether a machine of the run is about to be taken away (spot instances).

        All workers call this together, every few seconds, and get the same answer. True once
        for every such notice.
        """


@dataclass
class LocalSession:
    """A session in this process, which keeps the records."""

    records: list[Record] = field(default_factory=list)

    def publish(self, record: Record) -> None:
        """Keep the record."""
        self.records.append(record)

    def requests(self) -> Requests:
        """Nothing is asked."""
        return Requests()

    def losing_machine(self) -> bool:
        """Never."""
        return False
