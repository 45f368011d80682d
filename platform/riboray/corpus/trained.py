"""Which sequences a model was trained on: hashes that lie beside its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from riboray.corpus.sha256 import sha256_64
from riboray.corpus.strings import Strings
from riboray.errors import CheckpointError
from riboray.model.metadata import TRAINED_NAME

__all__ = ["Overlap", "TrainedSequences"]

#: Hashes kept of a set of sequences: 8 MB at most. Of a larger one, the lowest.
_MOST = 1_000_000

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """How many of some sequences a model was trained on.

    Attributes
    ----------
    sequences : int
        Sequences looked up.
    masked, aligned : int
        Those it learnt to fill in, and those of families whose alignments it learnt.
    exact : bool
        False if the numbers are estimates: of a large corpus, hashes are kept of a sample.
    """

    sequences: int
    masked: int
    aligned: int
    exact: bool


@dataclass(frozen=True)
class TrainedSequences:
    """Hashes (see `sha256_64`) of training sequences, sorted, without repetition.

    Attributes
    ----------
    masked, aligned : ndarray, dtype=uint64
        The lowest hashes: of masked language modelling, and of families with alignments or
        structures.
    masked_total, aligned_total : int
        How many there were. Where more than are kept, the lowest are a random sample.
    """

    masked: Hashes
    aligned: Hashes
    masked_total: int
    aligned_total: int

    @classmethod
    def of(cls, masked: Hashes, aligned: Hashes) -> TrainedSequences:
        """Keep the hashes of training sequences, or the lowest of very many."""
        sets = [np.unique(values) for values in (masked, aligned)]
        return cls(sets[0][:_MOST], sets[1][:_MOST], len(sets[0]), len(sets[1]))

    def and_those_of(self, other: TrainedSequences) -> TrainedSequences:
        """Put what two trainings saw together, one after the other."""
        sets = []
        for name in ("masked", "aligned"):
            mine, theirs = ((getattr(x, name), getattr(x, f"{name}_total")) for x in (self, other))
            # Where not all are kept, those above the highest kept are not known.
            ends = [kept[-1] for kept, total in (mine, theirs) if len(kept) < total]
            both = np.union1d(mine[0], theirs[0])
            kept = both[both <= min(ends)] if ends else both
            # Hashes are spread evenly: the share of their range that is seen tells the number.
            share = float(min(ends)) / 2.0**64 if ends else 1.0
            sets.append((kept[:_MOST], max(round(len(kept) / share), mine[1], theirs[1])))
        (masked, masked_total), (aligned, aligned_total) = sets
        return TrainedSequences(masked, aligned, masked_total, aligned_total)

    def write(self, directory: Path) -> None:
        """Write `TRAINED_NAME` into a directory."""
        totals = {"masked_total": self.masked_total, "aligned_total": self.aligned_total}
        safetensors.numpy.save_file(
            {"masked": self.masked, "aligned": self.aligned},
            directory / TRAINED_NAME,
            metadata={"riboray": json.dumps(totals)},
        )

    @classmethod
    def read(cls, directory: Path) -> TrainedSequences | None:
        """Read what `write` wrote; None if there is nothing.

        Raises
        ------
        CheckpointError
            If the file is damaged.
        """
        path = directory / TRAINED_NAME
        if not path.is_file():
            return None
        try:
            with safetensors.safe_open(path, framework="numpy") as handle:
                totals = json.loads(handle.metadata()["riboray"])
                sets = [handle.get_tensor(name) for name in ("masked", "aligned")]
            return cls(sets[0], sets[1], totals["masked_total"], totals["aligned_total"])
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(path, f"cannot be read ({error})") from error

    def overlap(self, sequences: list[str]) -> Overlap:
        """Count those of some sequences (upper case, U for T) that were trained on."""
        hashes = sha256_64(Strings.of(sequences))
        masked, whole_masked = _count(hashes, self.masked, self.masked_total)
        aligned, whole_aligned = _count(hashes, self.aligned, self.aligned_total)
        return Overlap(len(hashes), masked, aligned, whole_masked and whole_aligned)


def _count(hashes: Hashes, kept: Hashes, total: int) -> tuple[int, bool]:
    """Count hashes that are in a set of which all, or the lowest, are kept."""
    if len(kept) == total:
        return int(np.isin(hashes, kept).sum()), True
    within = hashes[hashes <= kept[-1]]
    if not len(within):
        return 0, False
    return round(float(np.isin(within, kept).mean()) * len(hashes)), False
