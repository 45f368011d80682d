"""Trials of a search and folds of a cross-validation: what is trained, and what came of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from riboray.errors import ConfigError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.splitting import Fold
from riboray.manifest import write_json

__all__ = ["Trial", "TrialResult", "best_options", "list_trials", "mean_and_spread", "options_text"]


@dataclass(frozen=True)
class Trial:
    """One training of many.

    Attributes
    ----------
    name : str
        Unique; names a directory.
    options : dict
        What differs from the run's configuration.
    fold : int
        Number of the fold, from 0 on.
    """

    name: str
    options: dict[str, Any]
    fold: int

    def configured(self, config: FinetuneConfig) -> FinetuneConfig:
        """Return the configuration of this trial."""
        return replace(config, **self.options)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes
    ----------
    best : float or None
        Its best measurement on validation records, higher is better.
    epochs : float
        Passes after which that was.
    metrics : dict of str to float
        On the records tested on, by the best model; none if it was stopped early.
    threshold : float
        Chosen for structures.
    stopped : bool
        Whether it was given up before its end, as others were better.
    confusion : list of list of int, optional
        See `Outcome`.
    limits : dict
        Of the run then: with others, a trial goes on.
    failed : str, optional
        Why nothing came of it.
    """

    best: float | None
    epochs: float
    metrics: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.5
    stopped: bool = False
    confusion: list[list[int]] | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None

    def write(self, folder: Path) -> None:
        """Write it into a trial's directory: the trial is done then."""
        write_json(folder / "result.json", {"schema_version": 1, **asdict(self)})

    @classmethod
    def read(cls, folder: Path, limits: dict[str, Any]) -> TrialResult | None:
        """Read what `write` wrote; None if the trial is not done, by these limits."""
        path = folder / "result.json"
        if not path.is_file():
            return None
        values = json.loads(path.read_text("utf-8"))
        values.pop("schema_version")
        found = cls(**values)
        return found if found.limits == limits else None


def list_trials(config: FinetuneConfig, folds: Sequence[Fold]) -> list[Trial]:
    """List all trainings: every combination that is tried, of every fold."""
    axes = config.search.axes
    combinations = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    if config.trials is not None and config.trials < len(combinations):
        generator = np.random.default_rng(config.seed)
        chosen = sorted(generator.choice(len(combinations), config.trials, replace=False).tolist())
        combinations = [combinations[k] for k in chosen]
    found = []
    for number, options in enumerate(combinations, start=1):
        for fold in range(len(folds)):
            parts = [f"trial-{number:03d}"] if axes else []
            parts += [f"fold-{fold + 1:03d}"] if len(folds) > 1 else []
            found.append(Trial("-".join(parts) or "trial", options, fold))
    return found


def options_text(options: dict[str, Any]) -> str:
    """Write options as they are given on the command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())


def best_options(trials: Sequence[Trial], results: dict[str, TrialResult]) -> dict[str, Any]:
    """Return the options whose trials were best on validation records, on average over folds.

    Raises
    ------
    ConfigError
        If nothing was measured.
    """
    scores: dict[str, list[float]] = {}
    options: dict[str, dict[str, Any]] = {}
    broken: set[str] = set()  # one of whose folds diverged
    for trial in trials:
        key = json.dumps(trial.options, sort_keys=True)
        options[key] = trial.options
        best, failed = results[trial.name].best, results[trial.name].failed
        if failed is not None:
            scores[key] = []
            broken.add(key)
        if best is not None and key not in broken:
            scores.setdefault(key, []).append(best)
    scores = {key: values for key, values in scores.items() if values}
    if not scores:
        raise ConfigError("no trial could be measured: a search needs validation records")
    chosen = max(scores, key=lambda key: float(np.mean(scores[key])))
    return options[chosen]


def mean_and_spread(metrics: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation of each measurement over folds that have it."""
    names = dict.fromkeys(name for found in metrics for name in found)
    table = {}
    for name in names:
        values = [found[name] for found in metrics if name in found]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        table[name] = {"mean": float(np.mean(values)), "sd": spread, "folds": float(len(values))}
    return table
