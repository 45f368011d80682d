"""Ctrl-C and SIGTERM as requests to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from riboray.console import say
from riboray.errors import RiborayError

__all__ = ["Interrupted", "Stop", "stop_on_signal"]


class Interrupted(RiborayError):
    """The user stopped the run; what is needed to go on is on disk."""

    exit_code = 130


class Stop:
    """A handler of signals that remembers the first and obeys the second."""

    def __init__(self) -> None:
        self.is_requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ask for a stop, or interrupt."""
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        say("\nstopping after this step; press Ctrl-C again to stop at once")


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a request, the second into an interruption."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
