"""Numbers for people: short ones, lengths of time, round ticks, moving averages."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["short", "smooth", "span_text", "ticks", "time_ticks"]

_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY = 86400.0


def smooth(values: Sequence[float | None], reach: int = 2) -> list[float | None]:
    """Average each value with those around it, for the eye.

    Parameters
    ----------
    values : sequence of float or None
        None stays None, and counts for nothing.
    reach : int
        Neighbours on either side. At the beginning, where training is fast, as many on the right
        as there are on the left, so that the curve does not lag; at the end, those there are.

    Returns
    -------
    list of float or None
        As long as the values.
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    smoothed: list[float | None] = []
    for i, value in enumerate(values):
        near = min(reach, i)
        low, high = i - near, min(i + near + 1, len(values))
        mean = (sums[high] - sums[low]) / max(counts[high] - counts[low], 1)
        smoothed.append(None if value is None else mean)
    return smoothed


def short(value: float, *, percent: bool = False) -> str:
    """Write a value in about three digits."""
    if percent:
        return f"{100 * value:.0f} %" if abs(value) >= 0.9995 else f"{100 * value:.3g} %"
    if abs(value) < 999.5:
        return f"{value:.3g}"
    if abs(value) < 9999.5:
        return f"{value:,.0f}"
    for size, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        if abs(value) < 999.5 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.2e}"


def span_text(seconds: float) -> str:
    """Write a length of time for people."""
    if seconds < 119.5:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _round_step(span: float, number: int, whole: bool) -> float:
    """Return a round distance that makes ``number`` ticks at most, or a few more."""
    raw = max(span / number, 1e-300)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    return max(1.0, math.ceil(step - 1e-9)) if whole else step


def _between(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def ticks(low: float, high: float, number: int = 5, *, whole: bool = False) -> list[float]:
    """Return round values in an interval, about ``number``; with ``whole``, whole ones."""
    return _between(low, high, _round_step(high - low, number, whole))


def time_ticks(end: float, number: int = 5) -> list[float]:
    """Return round times from 0 to ``end`` seconds: whole seconds, minutes, hours or days."""
    raw = end / number
    if raw < 1:
        return ticks(0, end, number)
    step = next((float(s) for s in _TIME_STEPS if s >= raw), 0.0)
    return _between(0, end, step or _DAY * _round_step(end / _DAY, number, True))
