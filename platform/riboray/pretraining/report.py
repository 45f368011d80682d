"""What a finished run leaves for people: a figure and a summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riboray.manifest import atomic_path

__all__ = ["draw_training_curve", "figures_line", "summarise", "validation_line"]

Record = dict[str, Any]

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#777777"


def figures_line(record: Record) -> str:
    """Put a training record into one line."""
    parts = [f"step {record['step']}"]
    if "mlm_loss" in record:
        parts.append(f"MLM {record['mlm_loss']:.3f} (acc {record['mlm_accuracy']:.3f})")
    if "sal_loss" in record:
        parts.append(f"SAL {record['sal_loss']:.2f}")
    if "sfp_loss" in record:
        parts.append(f"SFP {record['sfp_loss']:.3f} (acc {record['sfp_accuracy']:.3f})")
    parts.append(f"{record['tokens_per_s']:,.0f} tok/s")
    if record.get("pairs_per_s"):
        parts.append(f"{record['pairs_per_s']:,.0f} pairs/s")
    return "  ".join(parts)


def validation_line(record: Record) -> str:
    """Put a validation record into one line."""
    parts = []
    if "mlm_accuracy" in record:
        parts.append(f"MLM accuracy {record['mlm_accuracy']:.3f} (loss {record['mlm_loss']:.3f})")
    if "sal_f1" in record:
        parts.append(f"alignment F1 {record['sal_f1']:.3f} on {record['sal_pairs']:,.0f} pairs")
    if "sfp_accuracy" in record:
        parts.append(f"nearest of the same family {record['sfp_accuracy']:.3f}")
    return ", ".join(parts) or "nothing held out to measure on"


def _smooth(values: list[float]) -> list[float]:
    """Exponential moving average, for the eye."""
    smoothed, current = [], values[0]
    for value in values:
        current = 0.8 * current + 0.2 * value
        smoothed.append(current)
    return smoothed


#: What is drawn of a pre-training: a number of its records, the axis, the heading.
PANELS = (
    ("mlm_loss", "cross-entropy (nats)", "Masked language modelling: loss"),
    ("sal_loss", "loss per pair", "Structural alignment learning: loss"),
    ("mlm_accuracy", "share right", "Masked nucleotides recovered"),
    ("sal_f1", "F1 of aligned pairs", "Alignment of held-out families"),
    ("sfp_loss", "cross-entropy (nats)", "Family contrast: loss"),
    ("sfp_accuracy", "share right", "Nearest sequence of the same family"),
)


def draw_training_curve(
    records: list[Record],
    path: Path,
    title: str,
    panels: Sequence[tuple[str, str, str]] = PANELS,
    across: str = "minutes of training",
) -> None:
    """Draw losses and what was measured on held-out data against minutes of training, or epochs.

    Parameters
    ----------
    records : list of dict
        Records of kind ``train`` and ``validation``.
    path : Path
        PNG to write.
    title : str
        Title of the figure.
    panels : sequence of (str, str, str)
        Number drawn, axis and heading of each; those that no record has are left out.
    across : str
        ``minutes of training``, or ``epochs``.
    """
    from matplotlib.figure import Figure

    panels = [p for p in panels if any(p[0] in r for r in records)]
    if not panels:
        return
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for number, (name, label, heading) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_panel(axes, records, name, across)
        axes.set_title(heading, fontsize=10)
        if name.endswith("_loss"):
            axes.set_ylim(bottom=max(axes.get_ylim()[0], 0))
        axes.set_ylabel(label)
        axes.set_xlabel(across)
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw_panel(axes: Any, records: list[Record], name: str, across: str) -> None:
    def place(record: Record) -> float:
        return float(record["epochs"] if across == "epochs" else record["elapsed_s"] / 60)

    def series(kind: str) -> tuple[list[float], list[float]]:
        chosen = [r for r in records if r["kind"] == kind and name in r]
        return [place(r) for r in chosen], [r[name] for r in chosen]

    minutes, values = series("train")
    if values:
        axes.plot(minutes, values, color=_GREY, alpha=0.3, linewidth=0.8)
        axes.plot(minutes, _smooth(values), color=_BLUE, linewidth=1.5, label="training")
    minutes, values = series("validation")
    if values:
        axes.plot(minutes, values, "o-", color=_ORANGE, markersize=4, label="held out")
        for index in {0, len(values) - 1}:
            axes.annotate(
                f"{values[index]:.3g}",
                (minutes[index], values[index]),
                textcoords="offset points",
                xytext=(0, -13 if index == 0 and values[1:2] > values[:1] else 7),
                ha="left" if index == 0 else "center",
                fontsize=8,
            )
        axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=8)


def summarise(records: list[Record], step: int | None = None) -> Record:
    """Return the first and last measurements and what was trained on, for ``summary.json``.

    Parameters
    ----------
    records : list of dict
        Records of a run.
    step : int, optional
        Step of the model that is handed over; the last measured one by default.
    """
    validations = [r for r in records if r["kind"] == "validation"]
    training = [r for r in records if r["kind"] == "train"]
    first, last = validations[0], validations[-1]
    chosen = next((r for r in reversed(validations) if r["step"] == step), last)
    keys = (
        *("mlm_loss", "mlm_accuracy", "sal_loss", "sal_f1", "sal_sensitivity", "sal_ppv"),
        *("ss_loss", "ss_accuracy", "sfp_loss", "sfp_accuracy"),
    )
    names = (
        *("tokens_per_s", "pairs_per_s", "padding_efficiency", "data_wait", "alignment_wait"),
        "mfu",
    )
    return {
        "steps": last["step"],
        "step_of_the_model": chosen["step"],
        "training_seconds": last["elapsed_s"],
        "epochs": {k.removesuffix("_epochs"): v for k, v in last.items() if k.endswith("_epochs")},
        "before": {k: first[k] for k in keys if k in first},
        "after": {k: chosen[k] for k in keys if k in chosen},
        **{name: _mean([r[name] for r in training if name in r]) for name in names},
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def read_records(path: Path) -> list[Record]:
    """Read a ``metrics.jsonl``; a last line that a killed process left half-written is dropped."""
    lines = path.read_text("utf-8", errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [json.loads(line) for line in lines]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a ``metrics.jsonl``, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
