"""A run's checkpoints on disk: whole or absent, verified when read, the last few and the best kept.

Rank 0 alone writes and reads; the other workers get what it read (see `state`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from riboray.errors import RiborayError
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_directory,
    read_manifest,
    sha256_file,
    write_manifest,
)

__all__ = ["CHECKPOINT_KIND", "CheckpointStore", "Score", "step_of"]

CHECKPOINT_KIND = "training checkpoint"
_PREFIX = "step-"
_DAMAGED = "damaged-"


def step_of(checkpoint: Path) -> int:
    """Return the step that the name of a checkpoint tells."""
    return int(checkpoint.name.removeprefix(_PREFIX))


@dataclass(frozen=True)
class Score:
    """How good a checkpoint is; of two, the one of the later phase, then of the higher value.

    Attributes
    ----------
    phase : int
        Phase of the curriculum: each has its own measure.
    metric : str
        What was measured.
    value : float
        Higher is better: losses have their sign changed.
    tie : float
        What decides between equal values; higher is better.
    """

    phase: int
    metric: str
    value: float
    tie: float = 0.0

    @property
    def key(self) -> tuple[int, float, float]:
        """What to compare."""
        return self.phase, self.value, self.tie


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints of one run, ``step-000001234/`` each.

    Attributes
    ----------
    directory : Path
        Where they lie; on a cluster, a path that every node sees.
    keep : int
        How many of the newest are kept. The best one is kept beside them.
    """

    directory: Path
    keep: int = 2

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.directory / f"{_PREFIX}{step:09d}"

    def steps(self) -> list[int]:
        """List the steps there are checkpoints of, ascending, without looking into them."""
        if not self.directory.is_dir():
            return []
        named = [path for path in self.directory.iterdir() if path.name.startswith(_PREFIX)]
        return sorted(step_of(p) for p in named if p.name.removeprefix(_PREFIX).isdigit())

    def save(self, step: int, write: Callable[[Path], None], score: Score | None = None) -> Path:
        """Write a checkpoint and remove those that are no longer needed.

        Parameters
        ----------
        step : int
            Steps taken.
        write : callable
            Fills the directory it is given.
        score : Score, optional
            How good it is, if it was measured.

        Returns
        -------
        Path
            The checkpoint: it appears whole, with its manifest, or not at all.
        """
        path = self.path(step)
        staged, old = (path.with_name(f".{path.name}.{what}") for what in ("new", "old"))
        for leftover in (staged, old):
            shutil.rmtree(leftover, ignore_errors=True)
        with atomic_directory(staged) as temporary:
            write(temporary)
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            entries = tuple(
                FileEntry(str(p.relative_to(temporary)), None, p.stat().st_size, sha256_file(p))
                for p in files
            )
            details: dict[str, Any] = {"step": step}
            score = score or self.score(step)  # the same model again, not measured again
            if score is not None:
                details["score"] = asdict(score)
            write_manifest(
                temporary,
                Manifest(
                    kind=CHECKPOINT_KIND,
                    fingerprint=f"{step}",
                    files=entries,
                    details=details,
                ),
            )
        if path.exists():  # the same step again, as when a resumed run is stopped at once
            path.rename(old)
        staged.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        self._prune()
        return path

    def newest(self, warn: Callable[[str], None]) -> Path | None:
        """Return the newest checkpoint that is whole; step over damaged ones.

        Every file's sha256 is compared. A damaged checkpoint is renamed to ``damaged-…``, so
        that it is in nobody's way and can be looked at.

        Parameters
        ----------
        warn : callable
            Told, in one line each, about damaged checkpoints.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            problem = _problem(path)
            if problem is None:
                return path
            aside = path.with_name(f"{_DAMAGED}{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            warn(f"checkpoint of step {step} is damaged ({problem}); set aside as {aside.name}")
        return None

    def best(self) -> Path | None:
        """Return the best checkpoint of those that were measured; of equals, the earliest."""
        scored = [(score.key, -step) for step in self.steps() if (score := self.score(step))]
        return self.path(-max(scored)[1]) if scored else None

    def score(self, step: int) -> Score | None:
        """Return how good the checkpoint of a step is, if it was measured and can be read."""
        try:
            manifest = read_manifest(self.path(step), CHECKPOINT_KIND)
        except (RiborayError, OSError):
            return None
        found = None if manifest is None else manifest.details.get("score")
        return Score(**found) if found else None

    def _prune(self) -> None:
        steps = self.steps()
        best = self.best()
        for step in steps[: -self.keep]:
            if self.path(step) != best:
                shutil.rmtree(self.path(step))


def _problem(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        if read_manifest(path, CHECKPOINT_KIND, verify=True) is None:
            return "it has no manifest"
    except (RiborayError, OSError) as error:
        return f"{error}".removeprefix(f"{path}/")
    return None
