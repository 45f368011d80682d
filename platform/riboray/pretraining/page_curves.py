"""Which charts a run's records make: learning curves against steps, throughput against time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

from riboray.page import html_table, printable
from riboray.pretraining.page_chart import Chart, Line, Mark, XAxis
from riboray.pretraining.page_scale import short, span_text
from riboray.pretraining.page_svg import draw_chart
from riboray.pretraining.run_report_state import RunView, number, phases_of

__all__ = ["curves_section", "throughput_section"]

Record = dict[str, Any]
Look = Literal["noisy", "dots", "stairs", "plain"]


class _Source(NamedTuple):
    """A field of the records that becomes a line."""

    field: str
    name: str
    colour: str
    look: Look
    dash: str = ""


class _Plan(NamedTuple):
    """A chart that is drawn if one of its fields was recorded."""

    heading: str
    unit: str
    sources: tuple[_Source, ...]
    percent: bool = False
    from_zero: bool = False
    whole: bool = False


def _both(field: str) -> tuple[_Source, ...]:
    return (
        _Source(field, "training", "blue", "noisy"),
        _Source(field, "held out", "red", "dots"),
    )


_CURVES = (
    _Plan("Masked nucleotides: loss", "cross-entropy, nats", _both("mlm_loss")),
    _Plan("Masked nucleotides: recovered", "share right", _both("mlm_accuracy"), percent=True),
    _Plan("Alignment: loss", "max-margin loss per pair", _both("sal_loss")),
    _Plan(
        "Alignment of held-out families",
        "pairs of bases",
        (
            _Source("sal_f1", "F1", "red", "dots"),
            _Source("sal_sensitivity", "sensitivity", "blue", "dots", "5 3"),
            _Source("sal_ppv", "PPV", "green", "dots", "1.5 3"),
        ),
    ),
    _Plan("Structure classes: loss", "cross-entropy, nats", _both("ss_loss")),
    _Plan("Structure classes: recovered", "share right", _both("ss_accuracy"), percent=True),
    _Plan("Family contrast: loss", "cross-entropy, nats", _both("sfp_loss")),
    _Plan("Family contrast: nearest right", "share right", _both("sfp_accuracy"), percent=True),
    _Plan(
        "Learning rate",
        "",
        (_Source("learning_rate", "rate", "blue", "plain"),),
        from_zero=True,
    ),
    _Plan("Gradient norm", "before clipping", (_Source("gradient_norm", "norm", "blue", "noisy"),)),
)

_THROUGHPUT = (
    _Plan(
        "Nucleotides",
        "per second, padding not counted",
        (_Source("tokens_per_s", "tokens/s", "blue", "noisy"),),
        from_zero=True,
    ),
    _Plan(
        "Pairs aligned",
        "per second",
        (_Source("pairs_per_s", "pairs/s", "green", "noisy"),),
        from_zero=True,
    ),
    _Plan(
        "Workers",
        "",
        (_Source("workers", "workers", "blue", "stairs"),),
        from_zero=True,
        whole=True,
    ),
    _Plan(
        "Time spent waiting",
        "share",
        (
            _Source("data_wait", "for data", "orange", "noisy"),
            _Source("alignment_wait", "for alignments", "blue", "noisy", "5 3"),
        ),
        percent=True,
        from_zero=True,
    ),
    _Plan(
        "Padding efficiency",
        "nucleotides per token",
        (_Source("padding_efficiency", "efficiency", "green", "noisy"),),
        percent=True,
    ),
    _Plan(
        "Model FLOPs utilisation",
        "share of peak",
        (_Source("mfu", "MFU", "blue", "noisy"),),
        percent=True,
        from_zero=True,
    ),
)

#: Always 0 in a run without alignments: nothing to draw.
_OF_ALIGNMENTS = ("pairs_per_s", "alignment_wait")

_ALARMING = ("lost", "died", "dead", "damaged", "fail", "killed", "corrupt", "error")


def _line(records: Sequence[Record], source: _Source) -> Line | None:
    """Take a field out of the records; None if none has it, or it does not concern the run."""
    kind = "validation" if source.look == "dots" else "train"
    chosen = [r for r in records if r["kind"] == kind]
    values = [number(r, source.field) for r in chosen]
    nothing = (None, 0.0) if source.field in _OF_ALIGNMENTS else (None,)
    if all(value in nothing for value in values):
        return None
    steps, seconds = ([float(r[key]) for r in chosen] for key in ("step", "elapsed_s"))
    return Line(source.name, source.colour, steps, seconds, values, source.look, source.dash)


def _axis(run: RunView, kind: Literal["step", "time"]) -> XAxis:
    clock, at = [], (0.0, 0.0)
    for record in run.records:
        # An event may be recorded late; the axis never goes back.
        at = (max(at[0], record["step"]), max(at[1], record["elapsed_s"]))
        clock.append(at)
    return XAxis(kind, clock)


def _marks(run: RunView) -> list[Mark]:
    return [
        Mark(float(e["step"]), float(e["elapsed_s"]), _message(e), _colour(_message(e)))
        for e in run.events
    ]


def _message(event: Record) -> str:
    return str(event.get("message", "(no message)"))


def _colour(message: str) -> str:
    """Say whether an event is bad news."""
    words = message.lower()
    return "red" if any(word in words for word in _ALARMING) else "grey"


def _charts(
    run: RunView, plans: Sequence[_Plan], axis: XAxis, *, events: bool
) -> Iterator[tuple[_Plan, Chart]]:
    phases, marks = phases_of(run), _marks(run) if events else []
    for plan in plans:
        lines = [line for source in plan.sources if (line := _line(run.records, source))]
        if not lines:
            continue
        limit = run.options.get("max_grad_norm")
        clipped = plan.heading == "Gradient norm" and isinstance(limit, int | float)
        yield (
            plan,
            Chart(
                heading=plan.heading,
                unit=plan.unit,
                lines=lines,
                axis=axis,
                phases=phases,
                marks=marks,
                percent=plan.percent,
                from_zero=plan.from_zero,
                whole=plan.whole,
                limit=("clipped to this", float(limit)) if clipped and limit else None,
            ),
        )


def curves_section(run: RunView) -> str:
    """Draw loss, accuracy, held-out figures, learning rate and gradient norm against steps.

    Returns
    -------
    str
        HTML; training values are faint, their moving average strong.
    """
    charts = [draw_chart(c) for _, c in _charts(run, _CURVES, _axis(run, "step"), events=False)]
    phases = phases_of(run)
    lead = (
        "Faint: training records; strong: their moving average; dots: measurements on what is held "
        "out."
    )
    table = ""
    if len(phases) > 1:
        lead += " Shaded: phases of the curriculum."
        rows = [
            (
                f"{i}  {printable(phase.label, 60)}",
                f"{phase.steps[0]:,.0f} – {phase.steps[1]:,.0f}",
                span_text(phase.seconds[1] - phase.seconds[0]),
            )
            for i, phase in enumerate(phases, start=1)
        ]
        table = html_table("Phases", ("objectives", "steps", "time"), rows)
    return f'<p class="lead">{lead}</p><div class="charts">{"".join(charts)}</div>{table}'


def throughput_section(run: RunView) -> str:
    """Draw throughput, workers, padding and waiting against time, and list the events."""
    charts = list(_charts(run, _THROUGHPUT, _axis(run, "time"), events=True))
    drawn = {s.field for plan, _ in charts for s in plan.sources if _line(run.records, s)}
    rows = [
        (name, *_three(run.training, field, percent))
        for field, name, percent in (
            ("tokens_per_s", "nucleotides per second", False),
            ("pairs_per_s", "pairs per second", False),
            ("padding_efficiency", "padding efficiency", True),
            ("data_wait", "waiting for data", True),
            ("alignment_wait", "waiting for alignments", True),
            ("mfu", "model FLOPs utilisation", True),
        )
        if field in drawn
    ]
    table = html_table(
        "Averages of the records", ("", "all", "first quarter", "last quarter"), rows
    )
    missing = [
        name
        for field, name in (
            ("workers", "number of workers"),
            ("data_wait", "waiting for data"),
            ("padding_efficiency", "padding efficiency"),
            ("mfu", "MFU"),
        )
        if field not in drawn
    ]
    absent = f'<p class="lead">Not recorded: {", ".join(missing)}.</p>' if missing else ""
    drawings = "".join(draw_chart(chart) for _, chart in charts)
    if not charts:
        return '<p class="lead">No record of training yet.</p>' + _event_list(run)
    return f'<div class="charts">{drawings}</div>{absent}{table}{_event_list(run)}'


def _three(records: Sequence[Record], field: str, percent: bool) -> tuple[str, str, str]:
    """Average a field over all records, the first and the last quarter of them."""
    values = [v for r in records if (v := number(r, field)) is not None]
    quarter = max(len(values) // 4, 1)
    parts = (values, values[:quarter], values[-quarter:])
    first, *rest = (short(sum(part) / len(part), percent=percent) for part in parts)
    return first, rest[0], rest[1]


def _event_list(run: RunView) -> str:
    if not run.events:
        return '<p class="lead">No events were recorded.</p>'
    items = "".join(
        f'<li><span class="when">step {event["step"]:,} · {span_text(event["elapsed_s"])}</span> '
        f'<span class="{_colour(_message(event))}">▲</span> '
        f"{escape(printable(_message(event), 300))}</li>"
        for event in run.events
    )
    return f'<h3>Events</h3><ol class="events">{items}</ol>'
