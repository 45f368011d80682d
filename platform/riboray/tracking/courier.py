"""Records carried to a place that may be slow or gone, without the sender ever waiting."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from riboray.console import say
from riboray.errors import ConfigError, RiborayError
from riboray.tracking.records import Record

__all__ = ["CREDENTIALS", "Backend", "Courier", "Item", "Pace", "Status", "in_short"]

Status = Literal["finished", "stopped", "failed"]

#: User and password of an address, which belong in no message and no file.
CREDENTIALS = re.compile(r"//[^/@\s]+@")


class Item(NamedTuple):
    """A record, and when it was made, in seconds since 1970."""

    when: float
    record: Record


class Backend(Protocol):
    """A place for records. A `Courier` calls it from one thread; it may block and may raise."""

    name: str
    batch: int
    """Records written at once, at most."""

    def open(self) -> None:
        """Prepare the place; an error here ends the run before training begins."""

    def write(self, items: list[Item]) -> None:
        """Keep records, in order; called again with the same ones after it has raised."""

    def close(self, status: Status) -> None:
        """Say how the run ended."""


@dataclass(frozen=True)
class Pace:
    """How patient a courier is."""

    capacity: int = 4096
    """Records that wait, at most. A run of any length makes a few thousand: see the loop."""
    first_pause: float = 1.0
    """Seconds before what failed is tried again; every further pause is twice as long."""
    longest_pause: float = 120.0
    """Seconds between two trials, at most."""
    patience: float = 900.0
    """Seconds after which what failed is given up, so that a record that the place refuses for
    good does not keep all others from it."""


class Courier:
    """Hands records to a backend from a thread of its own.

    Parameters
    ----------
    backend : Backend
        Where they go.
    pace : Pace
        Bounds of the queue and of the trials.

    Notes
    -----
    The thread is a daemon: a server that never answers does not keep the process from ending.
    """

    def __init__(self, backend: Backend, pace: Pace | None = None) -> None:
        self.name = backend.name
        self._backend = backend
        self._pace = pace or Pace()
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._opened = threading.Event()
        self._opening_error: BaseException | None = None
        self._abandoned = False
        self._status: Status | None = None
        self._in_hand = 0
        self._lost = 0
        self._told: set[str] = set()
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name=f"tracker-{self.name}", daemon=True)

    def open(self, seconds: float) -> None:
        """Start, and wait until the backend is open.

        Raises
        ------
        ConfigError
            If it cannot be opened, or not within ``seconds``.
        """
        self._thread.start()
        if not self._opened.wait(seconds):
            self._abandoned = True
            raise ConfigError(f"tracker {self.name} gave no answer within {seconds:g} s")
        error = self._opening_error
        if isinstance(error, RiborayError):
            raise error
        if error is not None:
            raise ConfigError(f"tracker {self.name} cannot be used: {in_short(error)}") from error

    def log(self, record: Record) -> None:
        """Queue a record; never waits, never raises."""
        with self._changed:
            if self._status is not None:
                return
            if len(self._waiting) < self._pace.capacity:
                self._waiting.append(Item(time.time(), dict(record)))
                self._changed.notify_all()
                return
            self._lost += 1
        self._warn("full", f"{self._pace.capacity:,} records wait; further ones are left out")

    @property
    def undelivered(self) -> int:
        """Records that were left out or still wait."""
        with self._changed:
            return self._lost + len(self._waiting) + self._in_hand

    def begin_close(self, status: Status) -> None:
        """Take no more records; those that wait are still delivered."""
        with self._changed:
            self._status = self._status or status
            self._changed.notify_all()

    def finish(self, deadline: float) -> None:
        """Wait until the backend is closed or ``time.monotonic()`` reaches ``deadline``."""
        self._thread.join(max(deadline - time.monotonic(), 0))
        late = self._thread.is_alive()
        with self._changed:
            self._give_up()
        if count := self.undelivered:
            reason = self._last_error or ("no answer in time" if late else "the queue was full")
            self._warn("lost", f"{count:,} records did not get there ({reason})")
        elif late:
            self._warn("lost", "all records are sent, but the end of the run is not confirmed")

    def _run(self) -> None:
        try:
            self._backend.open()
        except BaseException as error:
            self._opening_error = error
            return
        finally:
            self._opened.set()
        if self._abandoned:
            self.begin_close("failed")
        while items := self._next():
            self._deliver(items)
        assert self._status is not None
        try:
            self._backend.close(self._status)
        except Exception as error:
            self._warn("close", f"the end of the run could not be recorded: {in_short(error)}")

    def _next(self) -> list[Item]:
        """Take the next records; none once there are no more and none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._status is not None)
            count = self._in_hand = min(len(self._waiting), self._backend.batch)
            return [self._waiting.popleft() for _ in range(count)]

    def _deliver(self, items: list[Item]) -> None:
        """Write records, again and again if need be."""
        began, pause, failed = time.monotonic(), self._pace.first_pause, False
        while True:
            closing = self._status is not None
            try:
                self._backend.write(items)
            except Exception as error:
                failed = True
                self._last_error = in_short(error)
                self._warn("error", f"{self._last_error}; training goes on, this is tried again")
            else:
                if failed:
                    self._warn("again", "works again")
                    self._last_error = ""
                break
            with self._changed:
                if closing:  # the one trial more that closing grants has failed: so would the rest
                    self._give_up()
                if closing or time.monotonic() - began > self._pace.patience:
                    self._lost += len(items)
                    break
                self._changed.wait_for(lambda: self._status is not None, timeout=pause)
            pause = min(2 * pause, self._pace.longest_pause)
        self._in_hand = 0

    def _give_up(self) -> None:
        """Leave out what waits."""
        self._lost += len(self._waiting)
        self._waiting.clear()

    def _warn(self, topic: str, message: str) -> None:
        """Tell the user, once for each topic."""
        if topic not in self._told:
            self._told.add(topic)
            with suppress(Exception):  # a terminal that is gone must not end training either
                say(f"  warning     {self.name}: {message}")


def in_short(error: BaseException) -> str:
    """Return what an error says in one line of bearable length, without any credentials."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    text = CREDENTIALS.sub("//***@", text)
    return text if len(text) <= 600 else f"{text[:599]}…"
