"""The first screen of a run's report: how far, how good, on what, how to go on; every option."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from riboray.page import html_table, printable
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.page_scale import short, span_text
from riboray.pretraining.run_report_state import RunView, number

__all__ = ["Facts", "best_of", "headline", "options_section", "validation_section"]

Record = dict[str, Any]

#: Fields of a measurement, in the order of the tables; whether more is better.
_MEASURED = {
    "mlm_loss": ("MLM loss", False),
    "mlm_accuracy": ("MLM accuracy", True),
    "mlm_targets": ("MLM targets", None),
    "sal_loss": ("SAL loss", False),
    "sal_f1": ("F1", True),
    "sal_sensitivity": ("sensitivity", True),
    "sal_ppv": ("PPV", True),
    "sal_pairs": ("pairs", None),
    "ss_loss": ("SS loss", False),
    "ss_accuracy": ("SS accuracy", True),
    "sfp_loss": ("SFP loss", False),
    "sfp_accuracy": ("SFP accuracy", True),
}

_STAR = "\N{NO-BREAK SPACE}★\N{NO-BREAK SPACE}best"
_SILENT_SECONDS = 600
_WAITING_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the headline says beside the records.

    Attributes
    ----------
    counts : dict of str to int
        Sequences, pairs and families on either side; empty if unknown.
    held_out_families : tuple of str
        Families that training never sees.
    parameters : int or None
        Size of the model, heads included.
    notes : tuple of str
        What a reader should know beside the notes of the run.
    now : datetime
        When the report is made (UTC).
    """

    counts: dict[str, int] = field(default_factory=dict)
    held_out_families: tuple[str, ...] = ()
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


def best_of(validations: list[Record]) -> tuple[int, str] | None:
    """Choose the best measurement.

    Parameters
    ----------
    validations : list of dict
        Measurements in order.

    Returns
    -------
    tuple of (int, str) or None
        Its place and why it is the best: because the run said so (the last it said so of), by
        alignment F1, by masked accuracy, by the structure head or by nearest sequences. None if
        nothing tells them apart.
    """
    said = [i for i, record in enumerate(validations) if record.get("best") is True]
    if said:
        return said[-1], "as the run marked it"
    for name, why in (
        ("sal_f1", "by alignment F1"),
        ("mlm_accuracy", "by masked nucleotides recovered"),
        ("ss_accuracy", "by structure classes recovered"),
        ("sfp_accuracy", "by nearest sequences of the same family"),
    ):
        known = [(v, i) for i, r in enumerate(validations) if (v := number(r, name)) is not None]
        if known:
            return max(known)[1], why
    return None


def headline(run: RunView, facts: Facts) -> str:
    """Write the header: name, state, what to know, facts, figures before and after, commands.

    Returns
    -------
    str
        HTML, everything from data escaped.
    """
    progress = number(run.last, "progress")
    share = min(max(progress or 0.0, 0.0), 1.0)
    state: str = run.state
    if state != "finished" and progress is not None:
        state += f", {share:.0%}"
    css_class = run.state.replace(" ", "-")
    notes = "".join(
        f'<p class="warning">{escape(printable(note, 400))}</p>'
        for note in (*run.notes, *facts.notes, *_observations(run, facts.now))
    )
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(printable(value, 600))}</dd></div>"
        for name, value in _facts(run, facts)
    )
    return f"""<header>
<h1>{escape(printable(run.name, 120))} <span class="state {css_class}">{state}</span></h1>
<div class="progress" role="img" aria-label="{share:.0%} done">
<span style="width:{100 * share:.1f}%"></span></div>
</header>
<main>
{notes}<dl class="facts">{rows}</dl>
{_before_after(run)}
{_commands(run)}
"""


def _facts(run: RunView, facts: Facts) -> Iterator[tuple[str, str]]:
    last, counts = run.last, facts.counts
    elapsed, progress = last["elapsed_s"], number(last, "progress") or 0.0
    yield "Steps", f"{last['step']:,}"
    time = f"{span_text(elapsed)} of training"
    if run.state == "going on" and 0 < progress < 1:
        time += f"; about {span_text(elapsed * (1 - progress) / progress)} to go"
    yield "Time", time
    yield "Last record", f"{run.written:%Y-%m-%d %H:%M} UTC"
    epochs = [
        f"{v:,.3g} ({name.upper()})"
        for name in ("mlm", "sal", "ss")
        if (v := number(last, f"{name}_epochs")) is not None
    ]
    if epochs:
        yield "Epochs", ", ".join(epochs)
    rates = []
    for name, unit in (("tokens_per_s", "nucleotides/s"), ("pairs_per_s", "pairs/s")):
        values = [v for r in run.training if (v := number(r, name)) is not None]
        if any(values):
            rates.append(f"{short(sum(values) / len(values))} {unit}")
    if rates:
        yield "Throughput", f"{', '.join(rates)} (means of the records)"
    workers = [int(v) for r in run.training if (v := number(r, "workers")) is not None]
    if workers:
        spread = f"{min(workers)} to {max(workers)}" if len(set(workers)) > 1 else str(workers[0])
        yield "Workers", f"{spread}; {workers[-1]} at the last record"
    yield "Model", _model(run, facts)
    if counts:
        get = counts.get
        yield (
            "Trained on",
            f"{get('mlm_training_sequences', 0):,} sequences; {get('sal_training_pairs', 0):,} "
            f"pairs of {get('sal_training_families', 0):,} families",
        )
        yield (
            "Held out",
            f"{get('mlm_validation_sequences', 0):,} sequences; "
            f"{get('sal_validation_families', 0):,} families "
            f"({get('sal_validation_pairs', 0):,} pairs measured)",
        )
    if facts.held_out_families:
        shown = facts.held_out_families[:40]
        more = len(facts.held_out_families) - len(shown)
        yield "Held-out families", ", ".join(shown) + (f" and {more:,} more" if more else "")


def _model(run: RunView, facts: Facts) -> str:
    size = "" if facts.parameters is None else f"{facts.parameters:,} parameters"
    if run.config is None:
        return size or "unknown"
    model = run.config.model
    shape = (
        f"{model.num_hidden_layers} layers of width {model.hidden_size}, "
        f"{model.num_attention_heads} heads, up to {model.max_sequence_length} nt"
    )
    return f"{size}; {shape}" if size else shape


def _observations(run: RunView, now: datetime) -> Iterator[str]:
    """Say what somebody should look into."""
    silent = (now - run.written).total_seconds()
    if run.state == "going on" and silent > _SILENT_SECONDS:
        yield (
            f"A process holds the run, but nothing was recorded for {span_text(silent)}: is it "
            "stuck?"
        )
    best = best_of(run.validations)
    if best is not None and best[0] < len(run.validations) - 1:
        record = run.validations[best[0]]
        yield f"The best measurement ({best[1]}) is that of step {record['step']:,}, not the last."
    recent = run.training[-max(len(run.training) // 4, 1) :]
    for name, what in (
        ("data_wait", "waiting for data"),
        ("alignment_wait", "waiting for alignments"),
    ):
        values = [v for r in recent if (v := number(r, name)) is not None]
        if values and sum(values) / len(values) > _WAITING_SHARE:
            share = f"{sum(values) / len(values):.0%}"
            yield f"In the last quarter of the records, {share} of the time was spent on {what}."


def _before_after(run: RunView) -> str:
    validations = run.validations
    if not validations:
        return '<p class="lead">Nothing was measured on held-out data yet.</p>'
    best = best_of(validations)
    first, last = validations[0], validations[-1]
    columns = ["", "before" if first["step"] == 0 else f"step {first['step']:,}"]
    chosen = [first]
    if best is not None and 0 < best[0] < len(validations) - 1:
        chosen.append(validations[best[0]])
        columns.append(f"best, step {chosen[-1]['step']:,}")
    if len(validations) > 1:
        chosen.append(last)
        columns.append("after" if run.state == "finished" else f"step {last['step']:,}")
    names = {
        "mlm_accuracy": "masked nucleotides recovered",
        "mlm_loss": "masked-language-modelling loss, nats",
        "sal_f1": "alignment F1, held-out families",
        "sal_sensitivity": "sensitivity (aligned pairs found)",
        "sal_ppv": "PPV (aligned pairs right)",
        "sal_loss": "alignment loss per pair",
        "ss_accuracy": "structure classes recovered",
        "ss_loss": "structure-class loss, nats",
        "sfp_accuracy": "nearest sequence is of the same family, held-out families",
        "sfp_loss": "family-contrast loss, nats",
    }
    rows = [
        (label, *(_cell(record, name) for record in chosen))
        for name, label in names.items()
        if any(number(record, name) is not None for record in chosen)
    ]
    return html_table("On held-out data", columns, rows)


def _cell(record: Record, name: str) -> str:
    value = number(record, name)
    if value is None:
        return "–"
    counts = _MEASURED.get(name, ("", None))[1] is None
    return f"{value:,.0f}" if counts else f"{value:,.4f}"


def _commands(run: RunView) -> str:
    """Say how to go on with a run, or what to do with its model."""
    directory = run.directory
    if run.state == "finished":
        model = shlex.quote(str(directory.checkpoint))
        lines = [
            f"riboray embed RNAS.fa --checkpoint {model} --output embeddings",
            f"riboray align TWO.fa --checkpoint {model}",
            f"riboray serve --checkpoint {model}",
        ]
        words = "Use the model:"
    else:
        lines = [
            f"riboray pretrain --config {shlex.quote(str(directory.config))} --storage "
            f"{shlex.quote(str(directory.path.parent))} --run-name {shlex.quote(run.name)}"
        ]
        words = "Go on with it:" if run.state == "stopped" else "Should it stop, go on with it:"
        inputs = [run.options.get(name) for name in ("corpus", "alignments")]
        paths = [str(p) for given in inputs if isinstance(given, list) for p in given]
        if any(not Path(path).is_absolute() and "://" not in path for path in paths):
            words = f"{words[:-1]} (where it was started: its inputs are relative paths):"
    text = escape("\n".join(printable(line, 2000) for line in lines))
    return f'<p class="command-title">{words}</p><pre class="command">{text}</pre>'


def _flat(values: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def options_section(run: RunView) -> str:
    """Write every option into a folded table, those that differ from the defaults marked."""
    defaults = dict(_flat(asdict(PretrainConfig())))
    rows, changed = [], []
    for place, (name, value) in enumerate(_flat(run.options)):
        differs = name not in defaults or defaults[name] != value
        default = _value(defaults[name]) if name in defaults else "(no such option now)"
        rows.append((printable(name), _value(value), default if differs else ""))
        if differs:
            changed.append(place)
    if not rows:
        return ""
    summary = f"All {len(rows)} options; {len(changed)} differ from the defaults"
    table = html_table("", ("option", "value", "default, where it differs"), rows, 3, changed)
    return f"<details><summary>{summary}</summary>{table}</details>"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return printable(", ".join(map(str, value)) or "(none)", 500)
    return "(none)" if value is None else printable(value, 500)


def validation_section(run: RunView) -> str:
    """Write the measurements as a table, one a row, the best one marked."""
    validations = run.validations
    if not validations:
        return '<p class="lead">Nothing was measured yet.</p>'
    fields = [f for f in _MEASURED if any(number(r, f) is not None for r in validations)]
    best = best_of(validations)
    rows = [
        (
            f"{record['step']:,}" + _STAR * (best is not None and best[0] == i),
            span_text(record["elapsed_s"]),
            *(_cell(record, f) for f in fields),
        )
        for i, record in enumerate(validations)
    ]
    columns = ("step", "time", *(_MEASURED[f][0] for f in fields))
    words = f"★ the best measurement, {best[1]}. " if best is not None else ""
    note = (
        f'<p class="lead">{words}F1, sensitivity and PPV are those of aligned pairs of bases, '
        "summed over all pairs of sequences.</p>"
    )
    return note + html_table("", columns, rows, 1, () if best is None else (best[0],))
