"""What a person sees: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

__all__ = [
    "Manner",
    "Progress",
    "clock",
    "listing",
    "relay",
    "say",
    "say_columns",
    "show",
    "show_columns",
    "speaking",
    "tell",
    "warn",
]

#: Seconds between plain lines where there is no terminal.
_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Manner:
    """How a command talks."""

    as_json: bool = False
    """The result is one JSON document on standard output, and nothing else goes there."""
    quiet: bool = False
    """Nothing is said but warnings, errors and what was asked for."""


_manner = Manner()


@contextmanager
def speaking(manner: Manner) -> Iterator[None]:
    """Have this process talk in a manner meanwhile."""
    global _manner
    before, _manner = _manner, manner
    try:
        yield
    finally:
        _manner = before


def say(message: str = "") -> None:
    """Print a line for people, to standard error; standard output is for results."""
    if not _manner.quiet:
        tell(message)


def show(message: str = "") -> None:
    """Print a line of the result, to standard output, unless that comes as JSON."""
    if not _manner.as_json:
        tqdm.write(message, file=sys.stdout)


def tell(message: str) -> None:
    """Print a line that is not to be missed and is no result, to standard error."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()


def warn(message: str) -> None:
    """Print a warning, even if nothing else is said."""
    tell(f"  warning     {message}")


def listing(values: Mapping[str, Any]) -> str:
    """Write a result for people: a line for each value, those of a part indented.

    Parameters
    ----------
    values : mapping
        Texts, numbers, lists and mappings of them.

    Returns
    -------
    str
        Lines, without a last line end.
    """
    return "\n".join(_lines(values, ""))


def _lines(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    width = max((len(str(name)) for name in values), default=0) + 2
    for name, value in values.items():
        label = f"{indent}{str(name).replace('_', ' '):<{width}}"
        if isinstance(value, Mapping) and value:
            yield label.rstrip()
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for number, item in enumerate(value, 1):
                yield f"{label.rstrip()} {number}"
                yield from _lines(item, indent + "  ")
        else:
            yield f"{label}{_text(value)}"


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ()):
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def relay(text: str) -> None:
    """Pass on what another process prints, as it is; where a result comes as JSON, beside it."""
    stream = sys.stderr if _manner.as_json else sys.stdout
    stream.write(text)
    stream.flush()


def say_columns(rows: Sequence[Sequence[str]], texts: int = 1) -> None:
    """Say rows with columns as wide as they must be, the first ``texts`` of them words."""
    for line in _columns(rows, texts):
        say(line)


def show_columns(rows: Sequence[Sequence[str]], texts: int = 1) -> None:
    """Show rows, like `say_columns`."""
    for line in _columns(rows, texts):
        show(line)


def _columns(rows: Sequence[Sequence[str]], texts: int) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join(padded).rstrip()


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
        if self._stream.isatty() and not _manner.quiet:
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
        elif not _manner.quiet and time.monotonic() - self._last_line >= _LINE_SECONDS:
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
