"""How far a download is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time

from riboray.console import Progress, say
from riboray.room import byte_size

__all__ = ["Meter"]

_METER_SECONDS = 0.2
_LINE_SECONDS = 10.0


class Meter:
    """Bytes done and the pace: a bar on a terminal, else a line every ten seconds.

    With an ``origin`` it begins with a line that says what comes, and from where.
    """

    def __init__(self, label: str, origin: str = "") -> None:
        self._label, self._origin = label, origin
        self._progress: Progress | None = None
        self._start = -1
        self._began = self._shown = time.monotonic()

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._progress is not None:
            self._progress.close()

    def show(self, position: int, size: int | None) -> None:
        """Show the bytes done and the pace."""
        if self._start < 0:
            self._begin(position, size)
        now = time.monotonic()
        pause = _METER_SECONDS if self._progress else _LINE_SECONDS
        if position != size and now - self._shown < pause:
            return
        self._shown = now
        pace = f"{byte_size(max(position - self._start, 0) / max(now - self._began, 1e-6))}/s"
        if self._progress is None or not size:
            say(f"{self._label}  {byte_size(position)}  {pace}")
        else:
            figures = f"{byte_size(position)} of {byte_size(size)}  {pace}"
            self._progress.update(min(position / size, 1.0), figures)

    def _begin(self, position: int, size: int | None) -> None:
        self._start = position
        self._began = self._shown = time.monotonic()
        if self._origin:
            amount = "of a size that the server does not tell" if size is None else byte_size(size)
            resumed = f", going on at {byte_size(position)}" if position else ""
            say(f"{self._label}: {amount}{self._origin}{resumed}")
        if size:
            self._progress = Progress(self._label, position / size)
