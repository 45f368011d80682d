"""A run's directory: what lies where, whose it is, and whether the run is over."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from riboray import __version__
from riboray.console import say
from riboray.errors import ConfigError, OutputError
from riboray.manifest import exclusive, warn_if_temporary, write_json
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.options import RunOptions

__all__ = [
    "RunDirectory",
    "adopt_streams",
    "check_ownership",
    "check_room",
    "finished_summary",
    "owned",
    "rehearsal",
    "undone_on_failure",
]

Record = dict[str, Any]


@dataclass(frozen=True)
class RunDirectory:
    """A run's place on disk."""

    path: Path

    @property
    def config(self) -> Path:
        """The options of the run, every default filled in."""
        return self.path / "resolved_config.yaml"

    @property
    def marker(self) -> Path:
        """What identifies the run."""
        return self.path / "run.json"

    @property
    def summary(self) -> Path:
        """The outcome of a finished run."""
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        """Records of training and validation, one a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What a run that is not over goes on from."""
        return self.path / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """The trained model."""
        return self.path / "checkpoint"

    def mark(self, **values: Any) -> None:
        """Write down what identifies the run, beside what is known already."""
        known = json.loads(self.marker.read_text("utf-8")) if self.marker.is_file() else {}
        write_json(self.marker, {**known, **values})

    def hold(self, name: str, value: str, changed: str) -> None:
        """Have the run stay with what it began with.

        Raises
        ------
        OutputError
            If it began with another value; ``changed`` says so in words.
        """
        known = json.loads(self.marker.read_text("utf-8"))
        if known.get(name, value) != value:
            raise OutputError(self.path, f"{changed} since it began; use a new --run-name")
        self.mark(**{name: value})

    def hand_over(self, fill: Callable[[Path], None]) -> None:
        """Put a trained model in its place, instead of the one before if there is any.

        Parameters
        ----------
        fill : callable
            Fills the directory it is given, an empty one.
        """
        staged = self.path / f".checkpoint-{time.time_ns()}"
        staged.mkdir()
        fill(staged)
        aside = staged.with_name(f"{staged.name}-old")
        if self.checkpoint.exists():
            self.checkpoint.rename(aside)
        staged.rename(self.checkpoint)
        shutil.rmtree(aside, ignore_errors=True)


def adopt_streams(config: PretrainConfig, run: RunDirectory) -> PretrainConfig:
    """Fix the batches of a step: as the run began with, else one for each worker."""
    if config.batches_per_step is None:
        streams = config.worker_range[1]
        if run.config.is_file():
            stored = yaml.safe_load(run.config.read_text("utf-8"))
            streams = int(stored.get("batches_per_step") or streams)
        config = replace(config, batches_per_step=streams)
    assert config.batches_per_step is not None
    most = config.worker_range[1]
    if config.batches_per_step < most:
        raise ConfigError(
            f"batches_per_step={config.batches_per_step} leaves some of "
            f"{most} workers without work; lower num_workers"
        )
    return config


def check_ownership(config: RunOptions, run: RunDirectory) -> None:
    """Refuse a directory that is not this run's.

    Raises
    ------
    OutputError
        If it holds other files, or a run with other options.
    """
    if not run.path.exists():
        return
    if not run.path.is_dir():
        raise OutputError(run.path, "is a file, not a run directory")
    if not run.marker.is_file():
        if any(not entry.name.startswith(".") for entry in run.path.iterdir()):
            raise OutputError(run.path, "holds other files; choose another --run-name")
        return
    marker = json.loads(run.marker.read_text("utf-8"))
    if marker.get("fingerprint") != config.fingerprint():
        raise OutputError(
            run.path,
            f"belongs to a run with other options ({run.config.name} there shows them); "
            "choose another --run-name",
        )


def check_room(storage: str, needed: float) -> None:
    """Refuse to begin where there are not so many bytes.

    Raises
    ------
    OutputError
        Saying how much there is.
    """
    path = Path(storage).resolve()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OutputError(
            storage, f"{free >> 20} MiB free, but the run needs about {int(needed) >> 20} MiB"
        )


@contextmanager
def owned(config: RunOptions, run: RunDirectory, verb: str) -> Iterator[bool]:
    """Make or enter a run's directory, and keep other processes out of it.

    Yields
    ------
    bool
        Whether there was nothing in it.
    """
    say(f"riboray {__version__}  {verb}  {run.path}")
    warn_if_temporary(run.path)
    is_new = not run.path.exists() or not any(run.path.iterdir())
    run.path.mkdir(parents=True, exist_ok=True)
    with exclusive(run.path, "another process is training in it"):
        check_ownership(config, run)
        yield is_new


@contextmanager
def undone_on_failure(run: RunDirectory, is_new: bool) -> Iterator[None]:
    """Take a new run's directory away if preparing it fails."""
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(run.path, ignore_errors=True)
            with suppress(OSError):
                run.path.parent.rmdir()  # if it was made for this run, it is empty now
        raise


@contextmanager
def rehearsal(config: RunOptions, run: RunDirectory) -> Iterator[RunDirectory]:
    """Give a run that is only prepared a directory of its own, which goes away.

    Raises
    ------
    OutputError
        If the run could not use its real one.
    """
    check_ownership(config, run)
    say(f"riboray {__version__}  dry run of {run.path}")
    with tempfile.TemporaryDirectory(prefix="riboray-dry-run-") as folder:
        made = RunDirectory(Path(folder) / run.path.name)
        made.path.mkdir()
        yield made
    if finished_summary(config, run) is not None:
        say("  dry run     the run is complete already")
    elif any(run.checkpoints.glob("*")):
        say("  dry run     it would go on from the newest checkpoint; nothing was made")
    else:
        say("  dry run     nothing was made")


def finished_summary(config: RunOptions, run: RunDirectory) -> Record | None:
    """Return the summary of a run that reached the limits asked for."""
    if not run.summary.is_file():
        return None
    summary: Record = json.loads(run.summary.read_text("utf-8"))
    return summary if summary.get("limits") == config.limits() else None
