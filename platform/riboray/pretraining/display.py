"""What a run shows while it goes on and when it is over, and the records it keeps."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from riboray.console import Progress, say
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import Phase
from riboray.pretraining.data import TrainingData
from riboray.pretraining.report import (
    figures_line,
    read_records,
    validation_line,
    write_records,
)
from riboray.pretraining.rundir import RunDirectory

__all__ = ["Display", "announce", "merge_records", "print_summary"]

Record = dict[str, Any]


def announce(config: PretrainConfig, data: TrainingData) -> None:
    """Say what is trained on, what is held out, and what ends the run."""
    counts = data.counts
    say(
        f"  held out    {counts['mlm_validation_sequences']:,} sequences; "
        f"{counts['sal_validation_families']:,} families "
        f"({counts['sal_validation_pairs']:,} pairs measured)"
    )
    families = ", ".join(data.held_out_families[:8])
    if families:
        more = len(data.held_out_families) - 8
        say(f"  {'':<11} {families}{f' and {more} more' if more > 0 else ''}")
    say(
        f"  training    {counts['mlm_training_sequences']:,} sequences; "
        f"{counts['sal_training_families']:,} families ({counts['sal_training_pairs']:,} pairs)"
    )
    if config.init is not None:
        unknown = " (what it was trained on is not known)" if data.trained is None else ""
        say(f"  starts from {Path(config.init).name}{unknown}")
    if len(config.curriculum) > 1:
        say(f"  curriculum  {', then '.join(_phase_text(phase) for phase in config.curriculum)}")
    limits = {
        "steps": config.max_steps,
        "epochs": config.max_epochs,
        "minutes": config.max_minutes,
    }
    ends = [f"{value:g} {name}" for name, value in limits.items() if value is not None]
    if config.has_end:
        ends.append("the curriculum's end")
    if config.patience:
        ends.append(f"{config.patience} measurements without a new best")
    say(f"  until       {', or '.join(ends)}")


def _phase_text(phase: Phase) -> str:
    if phase.bound is None:
        return phase.objectives
    unit, size = phase.bound
    return f"{phase.objectives} for " + (f"{size:.0%}" if unit == "share" else f"{size:g} {unit}")


class Display:
    """Shows records as they come, keeps them in the run directory, and hands them on.

    Parameters
    ----------
    run : RunDirectory
        Whose records.
    listeners : sequence of callable
        Get every record after it is kept, in order.
    figures, measured : callable
        Put a record of training, and one of a measurement, into words.
    """

    def __init__(
        self,
        run: RunDirectory,
        listeners: Sequence[Callable[[Record], None]],
        figures: Callable[[Record], str] = figures_line,
        measured: Callable[[Record], str] = validation_line,
    ) -> None:
        self._run = run
        self._listeners = listeners
        self._figures, self._measured = figures, measured
        self._bar: Progress | None = None
        self.records: list[Record] = []
        if run.metrics.is_file():
            self.records = read_records(run.metrics)
            write_records(run.metrics, self.records)  # without a torn last line

    def show(self, record: Record) -> None:
        """Show, keep and hand on one record."""
        is_event = record["kind"] == "event"
        if self.records and record["step"] < self.records[-1]["step"]:
            # Resumed from a checkpoint: what came after it did not happen. Events did.
            last = record["step"] if is_event else record["step"] - 1
            self.records = [r for r in self.records if r["step"] <= last or r["kind"] == "event"]
            write_records(self._run.metrics, [*self.records, record])
        else:
            self._append(record)
        self.records.append(record)
        for listener in self._listeners:
            listener(record)
        if record["kind"] == "validation":
            when = "before" if record["step"] == 0 else f"step {record['step']}"
            best = "  (best so far)" if record.get("best") else ""
            say(f"  {when:<11} {self._measured(record)}{best}")
        if is_event:
            say(f"  step {record['step']:<6} {record['message']}")
            return
        if self._bar is None:
            self._bar = Progress("  training", initial=record["progress"])
        if record["kind"] == "train":
            self._bar.update(record["progress"], self._figures(record))

    def _append(self, record: Record) -> None:
        try:
            with self._run.metrics.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            error.filename = str(self._run.metrics)  # writing, unlike opening, names no file
            raise

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def merge_records(history: list[Record], shown: list[Record]) -> list[Record]:
    """Add the events that only the driver saw to a checkpoint's records, by time."""
    events = [r for r in shown if r["kind"] == "event" and r not in history]
    return sorted([*history, *events], key=lambda record: float(record["elapsed_s"]))


def print_summary(run: RunDirectory, summary: Record) -> None:
    """Show what came of the run, where it lies, and what to do next."""
    rows = [
        ("mlm_accuracy", "masked nucleotides recovered"),
        ("mlm_loss", "masked-language-modelling loss"),
        ("sal_f1", "alignment F1, held-out families"),
        ("sfp_accuracy", "nearest is of the same family"),
    ]
    say(f"\n{'':34}{'before':>8}{'after':>8}")
    before, after = summary["before"], summary["after"]
    for name, label in rows:
        if name in after:
            say(f"  {label:<32}{before[name]:>8.3f}{after[name]:>8.3f}")
    say(
        f"\n  {summary['steps']:,} steps in {summary['training_seconds'] / 60:.1f} min, "
        f"{summary['tokens_per_s'] or 0:,.0f} tokens/s, {summary['pairs_per_s'] or 0:,.0f} pairs/s"
    )
    short = _from_here(run.path)
    beside = Path(sys.executable).with_name("riboray")
    command = "riboray" if shutil.which("riboray") or not beside.exists() else _from_here(beside)
    say(f"  model       {short / 'checkpoint'}  (multimolecule opens it too)")
    say(f"  figure      {short / 'training_curve.png'}")
    say(f"\nNext: look at it over HTTP with\n  {command} serve --checkpoint {short / 'checkpoint'}")


def _from_here(path: Path) -> Path:
    """Return a path as short as it can be typed."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
