"""What can be measured: models, substitution scores, files of alignments, programs."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from riboray.alignment.columns import GapPenalties
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError
from riboray.evaluation.config import MODEL_SETTINGS, EvaluateAlignmentConfig, named_paths
from riboray.evaluation.fitting import Fitted, fit_gaps
from riboray.evaluation.models import load_models, untrained_model
from riboray.evaluation.predictions import read_predictions
from riboray.evaluation.programs import PROGRAMS, align_by_program, installed, version_of
from riboray.evaluation.references import ReferencePair
from riboray.evaluation.scores import (
    IDENTITY,
    RIBOSUM85_60,
    Aligned,
    MatchScores,
    MatrixScores,
    ModelScores,
    PairBatches,
    align_by_scores,
)
from riboray.manifest import sha256_file
from riboray.model.checkpoint import LoadedCheckpoint

__all__ = ["ByFile", "ByProgram", "ByScores", "Method", "list_methods"]

Advance = Callable[[int], None]
Failures = list[str | None]

#: Fitted by `riboray evaluate alignment --fit-gaps` to two pairs of each of 3,780 Rfam 14.9
#: families, none of them in BRAliBase 2.1 or of a clan that is (docs/evaluation.md).
_FITTED = {
    "identity": (IDENTITY, GapPenalties(2.2, 0.22)),
    "ribosum": (RIBOSUM85_60, GapPenalties(7.63, 1.36)),
}


@dataclass
class Method(ABC):
    """Something that aligns pairs.

    Attributes
    ----------
    name : str
        To show; unique.
    about : dict
        What decides its alignments: JSON.
    """

    name: str
    about: dict[str, Any]

    @abstractmethod
    def align(self, pairs: Sequence[ReferencePair], advance: Advance) -> tuple[Aligned, Failures]:
        """Align pairs; return alignments and, for each pair, why there is none."""


@dataclass
class ByScores(Method):
    """Exact global alignment by match scores.

    Attributes
    ----------
    scores : MatchScores
        The match scores.
    gaps : GapPenalties
        Penalties; `fit` replaces them.
    loaded : LoadedCheckpoint, optional
        The model, if it was read from a file.
    """

    scores: MatchScores
    gaps: GapPenalties
    loaded: LoadedCheckpoint | None = None
    fitted: Fitted | None = field(default=None, init=False)

    def fit(self, pairs: Sequence[ReferencePair]) -> Fitted:
        """Fit the gap penalties to development pairs."""
        self.fitted = fit_gaps(self._batches(pairs), self.gaps)
        self.gaps = self.fitted.gaps
        return self.fitted

    def _batches(self, pairs: Sequence[ReferencePair]) -> PairBatches:
        self.scores.prepare([text for pair in pairs for text in pair.sequences])
        return PairBatches(self.scores, pairs)

    def align(self, pairs: Sequence[ReferencePair], advance: Advance) -> tuple[Aligned, Failures]:
        """Align pairs."""
        align_by_scores(self._batches(pairs[:1]), self.gaps)  # compiles, or loads, the kernels
        found = align_by_scores(self._batches(pairs), self.gaps)
        advance(len(pairs))
        return found, [None] * len(pairs)


@dataclass
class ByFile(Method):
    """Alignments that are there already."""

    path: str

    def align(self, pairs: Sequence[ReferencePair], advance: Advance) -> tuple[Aligned, Failures]:
        """Look alignments up."""
        return read_predictions(self.path, pairs), [None] * len(pairs)


@dataclass
class ByProgram(Method):
    """A program on this machine."""

    workers: int
    timeout: float

    def align(self, pairs: Sequence[ReferencePair], advance: Advance) -> tuple[Aligned, Failures]:
        """Run the program once a pair."""
        program = PROGRAMS[self.name]
        return align_by_program(program, pairs, self.workers, self.timeout, advance)


def list_methods(config: EvaluateAlignmentConfig) -> list[Method]:
    """Return what a configuration measures: models first, then files, programs, baselines.

    Raises
    ------
    RiborayError
        If a checkpoint cannot be read, a file is missing or a program is not installed.
    """
    methods = [*_models(config), *_files(config), *_programs(config), *_baselines(config)]
    names = [method.name for method in methods]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise ConfigError(f"two methods are called {again[0]!r}; give one another name: NAME=PATH")
    if not methods:
        raise ConfigError("nothing to measure: give --checkpoint, --predictions or --aligners")
    return methods


def _models(config: EvaluateAlignmentConfig) -> list[Method]:
    return [
        ByScores(
            named.name,
            {"kind": "model", **named.about},
            ModelScores(Embedder(named.model)),
            config.gaps_of(named.entry),
            named.loaded,
        )
        for named in load_models(config.checkpoint, MODEL_SETTINGS)
    ]


def _files(config: EvaluateAlignmentConfig) -> list[Method]:
    found: list[Method] = []
    for entry in named_paths(config.predictions, "predictions"):
        path = Path(entry.path)
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder of predictions")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        hashes = [sha256_file(file) for file in files]
        about = {"kind": "predictions", "path": entry.path, "sha256": hashes}
        found.append(ByFile(entry.name, about, entry.path))
    return found


def _programs(config: EvaluateAlignmentConfig) -> list[Method]:
    names: list[str] = []
    for name in config.aligners:
        names += installed() if name == "installed" else [name]
    workers = config.num_workers or os.cpu_count() or 1
    found: list[Method] = []
    for name in dict.fromkeys(names):
        program = PROGRAMS.get(name)
        if program is None:
            raise ConfigError(f"unknown aligner {name!r}; known are {', '.join(PROGRAMS)}")
        if shutil.which(program.executable) is None:
            raise ConfigError(f"{program.executable} is not on PATH: install it, or leave it out")
        about = {
            "kind": "program",
            "command": " ".join(program.command),
            "version": version_of(program),
        }
        found.append(ByProgram(name, about, workers, config.timeout))
    return found


def _baselines(config: EvaluateAlignmentConfig) -> list[Method]:
    found: list[Method] = []
    for name in config.baselines:
        if name in _FITTED:
            matrix, gaps = _FITTED[name]
            found.append(ByScores(name, {"kind": "scores"}, MatrixScores(matrix), gaps))
        elif name == "untrained":
            scores = ModelScores(Embedder(untrained_model(config.seed)))
            about = {"kind": "untrained model", "seed": config.seed}
            found.append(ByScores(name, about, scores, config.gaps))
    return found
