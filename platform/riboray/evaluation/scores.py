"""Match scores that evaluation compares: of a model, of identity, of RIBOSUM85-60.

Each is a product of two rows, one of either sequence, so that one aligner does for all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.columns import GapPenalties
from riboray.alignment.longpairs import align_embeddings
from riboray.alignment.pairwise import align_batch
from riboray.alignment.similarity import unit_rows
from riboray.alphabet import IUPAC_NUCLEOTIDES
from riboray.batching import plan_batches
from riboray.embedding.embedder import Embedder
from riboray.evaluation.references import ReferencePair

__all__ = [
    "IDENTITY",
    "RIBOSUM85_60",
    "Aligned",
    "MatchScores",
    "MatrixScores",
    "ModelScores",
    "PairBatches",
    "align_by_scores",
]

Rows = NDArray[np.float32]

#: Cells of match scores held at a time.
_CELLS = 8 << 20
#: Cells of match scores kept between passes over the same pairs.
_KEPT_CELLS = 256 << 20

#: What an ambiguity code may stand for.
_MEANINGS = {
    **{base: base for base in "ACGU"},
    **{"R": "AG", "Y": "CU", "S": "CG", "W": "AU", "K": "GU", "M": "AC"},
    **{"B": "CGU", "D": "AGU", "H": "ACU", "V": "ACG"},
}

IDENTITY = np.eye(4, dtype=np.float32)
"""Match 1, mismatch 0. Order A, C, G, U."""

RIBOSUM85_60 = np.array(
    [
        [2.22, -1.86, -1.46, -1.39],
        [-1.86, 1.16, -2.48, -1.05],
        [-1.46, -2.48, 1.03, -1.74],
        [-1.39, -1.05, -1.74, 1.65],
    ],
    dtype=np.float32,
)
"""Substitutions of single nucleotides, bits, order A, C, G, U: Klein & Eddy 2003,
doi:10.1186/1471-2105-4-44."""


class MatchScores(Protocol):
    """Match scores of two sequences: ``left(a) @ right(b).T``."""

    def prepare(self, texts: Sequence[str]) -> None:
        """Get ready for these sequences."""
        ...

    def left(self, text: str) -> Rows:
        """Return a row for each base of a first sequence."""
        ...

    def right(self, text: str) -> Rows:
        """Return a row for each base of a second sequence."""
        ...

    def seconds(self, text: str) -> float:
        """CPU seconds that the rows of a sequence take."""
        ...


class MatrixScores:
    """Scores of a substitution matrix.

    Parameters
    ----------
    matrix : ndarray, shape=(4, 4), dtype=float32
        Order A, C, G, U. A code for several bases scores the mean of theirs; N and X of all four.
    """

    def __init__(self, matrix: NDArray[np.float32]) -> None:
        weights = np.full((256, 4), 0.25, dtype=np.float32)
        for code in IUPAC_NUCLEOTIDES:
            bases = _MEANINGS.get(code, "ACGU")
            weights[ord(code)] = [(base in bases) / len(bases) for base in "ACGU"]
        self._right, self._left = weights, weights @ matrix

    def prepare(self, texts: Sequence[str]) -> None:
        """Do nothing: rows are looked up."""

    def left(self, text: str) -> Rows:
        """Return rows of the matrix, shape (n, 4)."""
        return self._left[np.frombuffer(text.encode(), np.uint8)]

    def right(self, text: str) -> Rows:
        """Return shares of A, C, G and U, shape (n, 4)."""
        return self._right[np.frombuffer(text.encode(), np.uint8)]

    def seconds(self, text: str) -> float:
        """Nothing to speak of."""
        return 0.0


class ModelScores:
    """Cosines of base embeddings.

    Parameters
    ----------
    embedder : Embedder
        A model.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._rows: dict[str, Rows] = {}
        self._pace = 0.0

    def prepare(self, texts: Sequence[str]) -> None:
        """Embed sequences, and see how long it takes."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if not missing:
            return
        self._embedder.per_base(missing[:1])  # compiles, or loads, the kernels
        start = time.process_time()
        found = [unit_rows(rows) for rows in self._embedder.per_base(missing)]
        self._pace = (time.process_time() - start) / sum(map(len, missing))
        self._rows.update(zip(missing, found, strict=True))

    def left(self, text: str) -> Rows:
        """Return base embeddings of unit length, shape (n, hidden size)."""
        return self._rows[text]

    def right(self, text: str) -> Rows:
        """Return base embeddings of unit length, shape (n, hidden size)."""
        return self._rows[text]

    def seconds(self, text: str) -> float:
        """CPU seconds to embed a sequence, as a share of all that were embedded with it."""
        return self._pace * len(text)


@dataclass
class _Batch:
    """Pairs of about one size, with their match scores, padded."""

    pairs: list[int]
    match: NDArray[np.float32]
    lengths_a: NDArray[np.int32]
    lengths_b: NDArray[np.int32]


@dataclass
class PairBatches:
    """Match scores of many pairs, batch by batch; kept, if they are not too many.

    Attributes
    ----------
    scores : MatchScores
        Ready for the sequences of the pairs.
    pairs : sequence of ReferencePair
        The pairs.
    long : list of int
        Those that are not in batches: too long for a table of match scores.
    """

    scores: MatchScores
    pairs: Sequence[ReferencePair]
    _kept: list[_Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        sides = [[len(text) for text in pair.sequences] for pair in self.pairs]
        self._sides = np.array(sides, dtype=np.int32).reshape(-1, 2)
        self._cells = self._sides.max(axis=1).astype(np.int64) ** 2
        self.long = np.flatnonzero(self._cells > _CELLS).tolist()

    def __iter__(self) -> Iterator[_Batch]:
        if self._kept:
            yield from self._kept
            return
        short = np.flatnonzero(self._cells <= _CELLS)
        keep = int(self._cells[short].sum()) <= _KEPT_CELLS
        made: list[_Batch] = []
        for chosen in plan_batches(self._cells[short], _CELLS):
            batch = self._make(short[chosen].tolist(), self._sides[short[chosen]])
            if keep:
                made.append(batch)
            yield batch
        self._kept = made

    def _make(self, rows: list[int], sides: NDArray[np.int32]) -> _Batch:
        width_a, width_b = sides.max(axis=0)
        match = np.empty((len(rows), width_a, width_b), dtype=np.float32)
        for place, row in enumerate(rows):
            a, b = self.pairs[row].sequences
            np.matmul(
                self.scores.left(a),
                self.scores.right(b).T,
                out=match[place, : len(a), : len(b)],
            )
        return _Batch(rows, match, sides[:, 0], sides[:, 1])


@dataclass(frozen=True)
class Aligned:
    """Alignments of pairs, in their order.

    Attributes
    ----------
    partners : list of ndarray, shape=(length of a,), dtype=int32
        Partner in b of each position of a, -1 for none.
    seconds : ndarray, shape=(n,), dtype=float64
        CPU seconds, of each pair as if it came alone: both its sequences embedded for it.
    """

    partners: list[NDArray[np.int32]]
    seconds: NDArray[np.float64]


def align_by_scores(batches: PairBatches, gaps: GapPenalties) -> Aligned:
    """Align pairs globally by match scores, exactly (see `align_batch`)."""
    partners: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(batches.pairs)
    seconds = np.zeros(len(batches.pairs))
    start = time.process_time()
    for batch in batches:
        found = align_batch(batch.match, batch.lengths_a, batch.lengths_b, gaps).partners
        for row, places in zip(batch.pairs, found, strict=True):
            partners[row] = places[: len(batches.pairs[row].columns.sequence_a)].copy()
        cells = batch.lengths_a.astype(float) * batch.lengths_b
        now = time.process_time()
        seconds[batch.pairs] = (now - start) * cells / cells.sum()
        start = time.process_time()
    for row in batches.long:
        a, b = batches.pairs[row].sequences
        _, places = align_embeddings(batches.scores.left(a), batches.scores.right(b), gaps)
        assert places is not None
        partners[row] = places
        now = time.process_time()
        seconds[row], start = now - start, now
    for row, pair in enumerate(batches.pairs):
        seconds[row] += sum(map(batches.scores.seconds, pair.sequences))
    return Aligned(partners, seconds)
