"""What a fine-tuning shows while it goes on and when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riboray.console import say, say_columns, warn
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Prepared
from riboray.finetuning.plan import Trial, TrialResult, options_text

__all__ = [
    "TrialLines",
    "announce",
    "figures_line",
    "measured_line",
    "panels",
    "print_summary",
    "results_of",
]

Record = dict[str, Any]

#: Names of measurements, as people read them.
NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
    "precision_at_l": "P@L",
    "precision_at_l2": "P@L/2",
    "precision_at_l5": "P@L/5",
    "structure_f1": "structure F1",
    "structure_sensitivity": "sensitivity",
    "structure_ppv": "PPV",
}


def announce(config: FinetuneConfig, prepared: Prepared) -> None:
    """Say what is learnt, from what, and what is measured."""
    task, folds = prepared.data.task, prepared.folds
    say(f"  labels      {task.describe()}")
    if config.split == "random":
        kind = "identical sequences together"
    else:
        groups = len(set(prepared.groups))
        what = {"family": "families", "cluster": "clusters", "column": "parts"}[config.split]
        kind = f"{groups:,} {what}" + (", each on one side" if config.split != "column" else "")
    say(f"  records     {len(prepared.data):,}; {kind}")
    if len(folds) == 1:
        fold = folds[0]
        say(
            f"  training    {len(fold.train):,}; validation {len(fold.validation):,}; "
            f"test {len(fold.test):,}"
        )
    else:
        sizes = [len(fold.test) for fold in folds]
        say(f"  folds       {len(folds)}, of {min(sizes):,} to {max(sizes):,} records to test on")
    if prepared.shared:
        warn(
            f"{prepared.shared:,} of the records to validate or test on have a "
            "sequence that is trained on"
        )
    learnt = {
        "full": "all weights",
        "frozen": "the head alone",
        "lora": f"the head, and additions of rank {config.lora_rank}",
    }
    say(f"  learns      {learnt[config.learn]}, from {Path(config.checkpoint).name}")


def figures_line(record: Record) -> str:
    """Put a training record into one line."""
    return (
        f"step {record['step']}  loss {record['loss']:.4f}  "
        f"{record['sequences_per_s']:,.0f} sequences/s"
    )


def measured_line(record: Record) -> str:
    """Put measurements into one line."""
    parts = [f"{label} {record[name]:.3f}" for name, label in NAMES.items() if name in record]
    return ", ".join(parts) or "nothing to measure on"


def panels(metrics: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return what is drawn of a run with these measurements."""
    found = [("loss", "loss", "Loss")]
    chosen = [name for name in NAMES if name in metrics and name != "loss"]
    return found + [(name, NAMES[name], f"Validation: {NAMES[name]}") for name in chosen[:5]]


class TrialLines:
    """Tells how trials go, a line for each that is over."""

    def __init__(self, trials: Sequence[Trial], metric: str, folds: Sequence[str]) -> None:
        self._trials = {trial.name: trial for trial in trials}
        self._metric, self._folds = NAMES[metric], folds
        self._last: dict[str, Record] = {}
        self._over = 0

    def tell(self, name: str, result: Record | None) -> None:
        """Take a measurement of a trial; None says that it is over."""
        if result is not None:
            best = self._last.get(name)
            if best is None or result["score"] > best["score"]:
                self._last[name] = result
            return
        self._over += 1
        trial, best = self._trials[name], self._last.get(name)
        parts = [options_text(trial.options)] if trial.options else []
        parts += [self._folds[trial.fold]] if len(self._folds) > 1 else []
        said = ""
        if best is not None:
            said = f"best {self._metric} {abs(best['score']):.3f} after {best['epochs']:.0f} epochs"
        say(f"  {self._over:3d} of {len(self._trials)}  {'  '.join(parts)}  {said}")


def print_summary(summary: Record, path: Path) -> None:
    """Show what came of the run, where it lies, and what to do next."""
    say()
    if folds := summary.get("folds"):
        _print_folds(folds, summary["cross_validation"])
    elif test := summary.get("test"):
        rows = [(NAMES[name], f"{test[name]:.3f}") for name in NAMES if name in test]
        say(f"  on {summary['data']['test']:,} test records")
        say_columns(rows)
    if "checkpoint" in summary:
        say(f"\n  model       {summary['checkpoint']}")
        say(f"\nNext: riboray predict RNAS.fa --checkpoint {summary['checkpoint']}")
    say(f"  everything  {path}")


def _print_folds(folds: list[Record], table: Record) -> None:
    names = [name for name in NAMES if name in table and name != "loss"]
    rows = [["tested on", "records", *(NAMES[name] for name in names)]]
    for fold in folds:
        found = fold["metrics"]
        cells = [f"{found[name]:.3f}" if name in found else "" for name in names]
        rows.append([fold["name"], f"{fold['records']:,}", *cells])
    rows.append(["mean", "", *(f"{table[name]['mean']:.3f}" for name in names)])
    rows.append(["sd", "", *(f"{table[name]['sd']:.3f}" for name in names)])
    say_columns(rows)


def results_of(trials: Sequence[Trial], results: dict[str, TrialResult]) -> list[Record]:
    """Tell what came of every combination of options."""
    found = []
    for trial in trials:
        result = results[trial.name]
        found.append(
            {
                "name": trial.name,
                "options": trial.options,
                "best": result.best,
                "epochs": result.epochs,
                "stopped": result.stopped,
                "failed": result.failed,
            }
        )
    return found
