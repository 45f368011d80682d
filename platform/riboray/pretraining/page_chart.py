"""What a line chart is: lines, x axis of steps or time, phases, marks. `page_svg` draws it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from riboray.pretraining.page_scale import short, span_text, ticks, time_ticks
from riboray.pretraining.run_report_state import Phase

__all__ = ["BOTTOM", "HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "Chart", "Line", "Mark", "XAxis"]

#: The drawing, in units that the page scales, and the frame of the plot in it.
WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 62, 468, 20, 196


class Line(NamedTuple):
    """A line of a chart.

    Attributes
    ----------
    name, colour : str
        Words of the key, and a colour class of the page's style.
    steps, seconds : sequence of float
        Where each value was recorded.
    values : sequence of float or None
        None breaks the line.
    look : str
        ``noisy``: values faint, their moving average strong. ``dots``: each value a dot, joined.
        ``stairs``: a value holds from the record before on. ``plain``: a line through the values.
    dash : str
        SVG dash pattern, to tell lines apart without colours.
    """

    name: str
    colour: str
    steps: Sequence[float]
    seconds: Sequence[float]
    values: Sequence[float | None]
    look: Literal["noisy", "dots", "stairs", "plain"]
    dash: str = ""


class Mark(NamedTuple):
    """Something that happened: a line across the chart, in a colour class of the style."""

    step: float
    seconds: float
    text: str
    colour: str


@dataclass(frozen=True)
class XAxis:
    """The x axis that charts of one kind share: steps, or seconds of training.

    Attributes
    ----------
    kind : str
        ``step`` or ``time``.
    clock : sequence of (float, float)
        Steps and seconds of the records, neither decreasing: what translates one into the other.
        The axis ends at the last.
    """

    kind: Literal["step", "time"]
    clock: Sequence[tuple[float, float]]

    @property
    def end(self) -> float:
        """Last value of the axis; never 0."""
        return self.clock[-1][0 if self.kind == "step" else 1] or 1.0

    def position(self, step: float, seconds: float) -> float:
        """Return where on the drawing a record stands."""
        share = (step if self.kind == "step" else seconds) / self.end
        return LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT)

    def labels(self) -> list[tuple[float, str, str]]:
        """Return each tick's place, its label, and the other of step and time there."""
        if self.kind == "step":
            return [
                (self.position(at, 0), short(at), span_text(self._translate(at, 0)))
                for at in ticks(0, self.end, whole=True)
            ]
        return [
            (self.position(0, at), span_text(at), short(round(self._translate(at, 1))))
            for at in time_ticks(self.end)
        ]

    def _translate(self, value: float, key: int) -> float:
        """Interpolate the time of a step (key 0) or the step of a time (key 1)."""
        after = bisect_left(self.clock, value, key=lambda pair: pair[key])
        if after == len(self.clock):
            return self.clock[-1][1 - key]
        high, low = self.clock[after], self.clock[after - 1] if after else (0.0, 0.0)
        share = (value - low[key]) / (high[key] - low[key]) if high[key] > low[key] else 1.0
        return low[1 - key] + share * (high[1 - key] - low[1 - key])


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What to draw.

    Attributes
    ----------
    heading, unit : str
        Title, and what the values are.
    lines : list of Line
        Each with at least one value.
    axis : XAxis
        The x axis.
    phases : list of Phase
        Shaded where there are two or more.
    marks : list of Mark
        Events.
    percent : bool
        Values are shares, shown in per cent.
    from_zero, whole : bool
        Whether the y axis begins at 0, and whether it counts.
    limit : (str, float), optional
        A horizontal line, and what it is.
    """

    heading: str
    unit: str
    lines: list[Line]
    axis: XAxis
    phases: list[Phase] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    percent: bool = False
    from_zero: bool = False
    whole: bool = False
    limit: tuple[str, float] | None = None
