"""What a person sees: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["Progress", "clock", "say", "say_columns"]

#: Seconds between plain lines where there is no terminal.
_LINE_SECONDS = 10.0


def say(message: str = "") -> None:
    """Print a line for people, to standard error; standard output is for results."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()


def say_columns(rows: Sequence[Sequence[str]], texts: int = 1) -> None:
    """Print rows with columns as wide as they must be, the first ``texts`` of them words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say("  " + "  ".join(padded).rstrip())


class Progress:
    """Progress of a share from 0 to 1 with a line of figures.

    Parameters
    ----------
    label : str
        What is being done.
    initial : float
        Share done before; a resumed run starts there.
    stream : TextIO, optional
        Standard error by default.
    """

    def __init__(self, label: str, initial: float = 0.0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._label = label
        self._done = self._initial = initial
        self._start = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}  {postfix}"
            self._bar = tqdm(
                total=1.0, initial=initial, desc=label, bar_format=form, file=self._stream
            )

    def update(self, done: float, figures: str) -> None:
        """Show the share done and the figures."""
        if self._bar is not None:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(done - self._done)
            self._bar.refresh()
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            eta = clock(self._remaining(done))
            say(f"{self._label} {100 * done:3.0f}%  ETA {eta}  {figures}")
        self._done = done

    def _remaining(self, done: float) -> float:
        """Seconds left at the present pace."""
        gained = max(done - self._initial, 1e-9)
        return (time.monotonic() - self._start) * (1 - done) / gained

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self._bar is not None:
            self._bar.close()


def clock(seconds: float) -> str:
    """Say a number of seconds as minutes and seconds, or hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
