"""What a tile is made of and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.alignment.blocks import Arithmetic
from riboray.alignment.columns import GapPenalties, Mode
from riboray.alignment.similarity import SequenceSet, mean_rows
from riboray.alignment.statistics import NullModel

__all__ = ["Rule", "Side", "TileHits"]


@dataclass(frozen=True)
class Side:
    """Sequences on one side of a tile.

    Attributes
    ----------
    sequences : SequenceSet
        Base embeddings, longest sequence first.
    nucleotides : ndarray, shape=(total length,), dtype=uint8
        The sequences as ASCII, one after the other.
    first : int
        Index of the first of them among all sequences.
    """

    sequences: SequenceSet
    nucleotides: NDArray[np.uint8]
    first: int = 0

    def __post_init__(self) -> None:
        view = self.nucleotides.view()
        view.flags.writeable = False  # see SequenceSet
        object.__setattr__(self, "nucleotides", view)

    @cached_property
    def means(self) -> NDArray[np.float32]:
        """Mean embedding of each sequence, shape (n, d)."""
        return mean_rows(self.sequences.embeddings, self.sequences.starts)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Length of each sequence."""
        return self.sequences.lengths


@dataclass(frozen=True)
class Rule:
    """How pairs are aligned and which are reported.

    Attributes
    ----------
    gaps, mode, arithmetic
        See `riboray.alignment.blocks.BlockAligner`.
    min_score : float, optional
        Lowest score reported.
    min_z : float, optional
        Lowest standardised score reported; needs ``null``.
    top_k : int, optional
        Pairs kept for each sequence.
    null : NullModel, optional
        Chance scores.
    """

    gaps: GapPenalties = field(default_factory=GapPenalties)
    mode: Mode = "global"
    arithmetic: Arithmetic = "float32"
    min_score: float | None = None
    min_z: float | None = None
    top_k: int | None = None
    null: NullModel | None = None

    @property
    def filters(self) -> bool:
        """Whether a pair's score decides if it is reported."""
        return (self.min_score, self.min_z, self.top_k) != (None, None, None)

    def passes(
        self,
        scores: NDArray[np.float32],
        lengths_a: NDArray[np.int32],
        lengths_b: NDArray[np.int32],
        affinity: NDArray[np.float32],
    ) -> NDArray[np.bool_]:
        """Tell which scores reach `min_score` and `min_z`."""
        kept = np.ones(len(scores), bool)
        if self.min_score is not None:
            kept &= scores >= np.float32(self.min_score)
        if self.min_z is not None and self.null is not None:
            kept &= self.null.z_scores(scores, lengths_a, lengths_b, affinity) >= self.min_z
        return kept


@dataclass(frozen=True)
class TileHits:
    """Pairs of a tile, by global index, with alignments unless only scores were asked for.

    Attributes
    ----------
    query, target : ndarray, shape=(k,), dtype=int64
        Indices of the sequences.
    score : ndarray, shape=(k,), dtype=float32
        Scores.
    affinity : ndarray, shape=(k,), dtype=float32
        Mean similarity of all bases of both; see `riboray.alignment.statistics`.
    values : dict of str to ndarray, or None
        See `riboray.alignment.described.Description`.
    cigar : pyarrow.StringArray or None
        The same.
    scored : int
        Pairs compared, reported or not.
    """

    query: NDArray[np.int64]
    target: NDArray[np.int64]
    score: NDArray[np.float32]
    affinity: NDArray[np.float32]
    values: dict[str, NDArray[np.int32]] | None
    cigar: pa.StringArray | None
    scored: int
