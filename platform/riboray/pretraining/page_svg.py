"""Line charts as inline SVG: complete without a script, with the data for one that shows values.

Colours are classes of the page's style. Whatever comes from data is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from riboray.page import printable
from riboray.pretraining.page_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    Mark,
    XAxis,
)
from riboray.pretraining.page_scale import short, smooth, ticks

__all__ = ["CLIP", "draw_chart"]

#: Points of a line, at most: about one a unit of width. More records are averaged.
_BINS = 400

#: Put once into a page, it cuts the lines of all charts at their frame.
CLIP = (
    '<svg class="hidden" aria-hidden="true"><clipPath id="frame">'
    f'<rect x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}"/>'
    "</clipPath></svg>"
)


class _Reduced(NamedTuple):
    """A line of `_BINS` points at most: where, and mean, least and greatest value."""

    x: list[float]
    steps: list[float]
    seconds: list[float]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


Row = tuple[float, float, float, float | None]


def _reduce(line: Line, axis: XAxis) -> _Reduced:
    """Average what falls on the same unit of width, if there are more values than that."""
    x = [axis.position(*at) for at in zip(line.steps, line.seconds, strict=True)]
    rows: list[Row] = list(zip(x, line.steps, line.seconds, line.values, strict=True))
    if line.look == "stairs":  # where nothing changes, nothing needs a point
        last = len(rows) - 1
        changed = [i for i in range(1, len(rows)) if rows[i][3] != rows[i - 1][3]]
        rows = [rows[i] for i in sorted({0, last, *changed, *(i - 1 for i in changed)})]
    elif len(rows) > _BINS:
        return _binned(rows)
    values = [row[3] for row in rows]
    x, steps, seconds = ([float(row[k] or 0) for row in rows] for k in range(3))
    return _Reduced(x, steps, seconds, values, values, values)


def _binned(rows: list[Row]) -> _Reduced:
    bins: dict[int, list[Row]] = {}
    for row in rows:
        place = (row[0] - LEFT) / (RIGHT - LEFT)
        bins.setdefault(min(int(place * _BINS), _BINS - 1), []).append(row)
    reduced = _Reduced([], [], [], [], [], [])
    for _, members in sorted(bins.items()):
        for column, k in ((reduced.x, 0), (reduced.steps, 1), (reduced.seconds, 2)):
            column.append(sum(float(m[k] or 0) for m in members) / len(members))
        known = [m[3] for m in members if m[3] is not None]
        reduced.mean.append(sum(known) / len(known) if known else None)
        reduced.low.append(min(known) if known else None)
        reduced.high.append(max(known) if known else None)
    return reduced


def _average(part: _Reduced) -> list[float | None]:
    return smooth(part.mean, max(2, len(part.mean) // 40))


class _Scale(NamedTuple):
    """The y axis."""

    low: float
    high: float

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return BOTTOM - min(max(share, -0.2), 1.2) * (BOTTOM - TOP)


def _scale(chart: Chart, reduced: list[_Reduced]) -> _Scale:
    """Fit what the eye follows and nearly all of the noise; what is beyond is cut off."""
    values: list[float] = []
    for line, part in zip(chart.lines, reduced, strict=True):
        if line.look == "noisy":
            values += [v for v in _average(part) if v is not None]
            noise = sorted(v for v in (*part.low, *part.high) if v is not None)
            values += [noise[len(noise) // 100], noise[-1 - len(noise) // 100]]
        else:
            values += [v for v in part.mean if v is not None]
    least, low, high = min(values), min(values), max(values)
    if chart.from_zero or 0 <= low < 0.25 * high:
        low = min(low, 0.0)
    span, size = high - low, max(abs(low), abs(high))
    if span <= 1e-9 * size or size < 1e-12:  # flat, but for rounding
        span = size if size >= 1e-12 else 1.0
        low -= span / 2
    low -= 0.04 * span
    return _Scale(max(low, 0.0) if least >= 0 else low, high + 0.06 * span)


def draw_chart(chart: Chart) -> str:
    """Draw a chart.

    Parameters
    ----------
    chart : Chart
        With at least one line.

    Returns
    -------
    str
        A ``figure`` element; the page must hold `CLIP` once.
    """
    reduced = [_reduce(line, chart.axis) for line in chart.lines]
    scale = _scale(chart, reduced)
    parts = [*_bands(chart), *_grid(chart, scale)]
    for line, part in zip(chart.lines, reduced, strict=True):
        parts += _draw_line(line, part, scale, chart.percent)
    parts += [_mark(chart.axis, mark) for mark in chart.marks]
    label = f"{chart.heading}, {chart.unit}" if chart.unit else chart.heading
    hover = escape(_hover(chart, reduced, scale))
    unit = f' <span class="unit">{escape(chart.unit)}</span>' if chart.unit else ""
    key = "".join(_key(line, chart.percent) for line in chart.lines)
    return (
        f'<figure class="chart"><figcaption><b>{escape(chart.heading)}</b>{unit}'
        f'<span class="keys">{key}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" '
        f'data-hover="{hover}">{"".join(parts)}</svg></figure>\n'
    )


def _key(line: Line, percent: bool) -> str:
    """Say what a line is, and its last value."""
    last = next(v for v in reversed(line.values) if v is not None)
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    dot = '<circle cx="11" cy="5" r="3"/>' if line.look == "dots" else ""
    return (
        f'<span class="{line.colour}"><svg class="key" viewBox="0 0 22 10" aria-hidden="true">'
        f'<path class="line" d="M1 5H21"{dash}/>{dot}</svg>{escape(line.name)} '
        f"<b>{short(last, percent=percent)}</b></span>"
    )


def _bands(chart: Chart) -> list[str]:
    """Shade the phases of the curriculum, each with its objectives."""
    parts: list[str] = []
    if len(chart.phases) < 2:
        return parts
    for index, phase in enumerate(chart.phases):
        left, right = (
            chart.axis.position(*at) for at in zip(phase.steps, phase.seconds, strict=True)
        )
        text = escape(printable(phase.label, 40))
        parts.append(
            f'<rect class="band{index % 2}" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{BOTTOM - TOP}"><title>phase {index + 1}: {text}</title></rect>'
        )
        # A label that does not fit would run into its neighbour: then the number, then nothing.
        for words in (text, str(index + 1)):
            if 6.2 * len(words) < right - left:
                middle = (left + right) / 2
                parts.append(f'<text class="phase" x="{middle:.1f}" y="{TOP - 6}">{words}</text>')
                break
    return parts


def _grid(chart: Chart, scale: _Scale) -> list[str]:
    parts = []
    for value in ticks(scale.low, scale.high, whole=chart.whole):
        y = scale.y(value)
        text = short(value, percent=chart.percent)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
            f'<text class="y" x="{LEFT - 6}" y="{y + 3.5:.1f}">{text}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    for x, text, other in chart.axis.labels():
        # The last label must not leave the drawing.
        side = ' class="end"' if x > RIGHT - 16 else ""
        x_text = min(x + 8, RIGHT + 6) if side else x
        parts.append(
            f'<path class="axis" d="M{x:.1f} {BOTTOM}v4"/>'
            f'<g{side}><text class="x" x="{x_text:.1f}" y="{BOTTOM + 16}">{text}</text>'
            f'<text class="x faint" x="{x_text:.1f}" y="{BOTTOM + 30}">{other}</text></g>'
        )
    first, second = ("step", "time") if chart.axis.kind == "step" else ("time", "step")
    parts.append(
        f'<text class="y faint" x="{LEFT - 18}" y="{BOTTOM + 16}">{first}</text>'
        f'<text class="y faint" x="{LEFT - 18}" y="{BOTTOM + 30}">{second}</text>'
    )
    if chart.limit is not None and scale.low <= chart.limit[1] <= scale.high:
        name, value = chart.limit
        y = scale.y(value)
        parts.append(
            f'<path class="limit" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
            f'<text class="y faint halo" x="{RIGHT - 2}" y="{y - 4:.1f}">{escape(name)}</text>'
        )
    return parts


def _path(x: Sequence[float], values: Sequence[float | None], scale: _Scale, stairs: bool) -> str:
    """Write a line as SVG path data; it breaks at None."""
    commands: list[str] = []
    pen = False
    for at, value in zip(x, values, strict=True):
        if value is not None:
            y = f"{scale.y(value):.1f}"
            joined = f"V{y}H{at:.1f}" if stairs else f"L{at:.1f} {y}"
            commands.append(joined if pen else f"M{at:.1f} {y}")
        pen = value is not None
    return "".join(commands)


def _draw_line(line: Line, part: _Reduced, scale: _Scale, percent: bool) -> list[str]:
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    parts = []
    strong = part.mean
    if line.look == "noisy":
        strong = _average(part)
        ends = zip(part.x, part.low, part.high, strict=True)
        spread = "".join(
            f"M{x:.1f} {scale.y(low):.1f}V{scale.y(high):.1f}"
            for x, low, high in ends
            if low is not None and high is not None and low < high
        )
        faint = spread + _path(part.x, part.mean, scale, False)
        parts.append(f'<path class="noise" d="{faint}"/>')
    main = _path(part.x, strong, scale, line.look == "stairs")
    parts.append(f'<path class="line" d="{main}"{dash}/>')
    clipped = f'<g clip-path="url(#frame)">{"".join(parts)}</g>'
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{scale.y(value):.1f}" r="3"><title>{escape(line.name)} '
        f"{short(value, percent=percent)} at step {step:,.0f}</title></circle>"
        for x, step, value in zip(part.x, part.steps, part.mean, strict=True)
        if value is not None and line.look == "dots"
    )
    return [f'<g class="{line.colour}">{clipped}{dots}</g>']


def _mark(axis: XAxis, mark: Mark) -> str:
    x = axis.position(mark.step, mark.seconds)
    return (
        f'<g class="mark {mark.colour}"><path d="M{x:.1f} {TOP}V{BOTTOM}"/>'
        f'<path class="flag" d="M{x:.1f} {BOTTOM - 7}l4 7h-8z"/>'
        f"<title>step {mark.step:,.0f}: {escape(printable(mark.text, 200))}</title></g>"
    )


def _hover(chart: Chart, reduced: list[_Reduced], scale: _Scale) -> str:
    """Return what the page's script shows under the pointer, as JSON."""

    def digits(values: Sequence[float | None]) -> list[float | None]:
        return [None if v is None else float(f"{v:.4g}") for v in values]

    lines = [
        {
            "name": line.name,
            "colour": line.colour,
            "x": [round(x, 1) for x in part.x],
            "step": [round(s) for s in part.steps],
            "time": [round(s) for s in part.seconds],
            "value": digits(part.mean),
            "average": digits(_average(part)) if line.look == "noisy" else None,
        }
        for line, part in zip(chart.lines, reduced, strict=True)
    ]
    frame = [WIDTH, HEIGHT, TOP, BOTTOM, scale.low, scale.high]
    value = {"frame": frame, "percent": chart.percent, "lines": lines}
    return json.dumps(value, separators=(",", ":"))
