"""An alignment of two RNAs, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.formats import clustal_view, stockholm
from riboray.serving.work import Aligned

__all__ = ["Alignment"]


@dataclass(frozen=True, repr=False)
class Alignment:
    """A structural alignment; ``print`` shows it.

    Attributes
    ----------
    score : float
        Match scores less gap penalties.
    rows : tuple of str
        Gapped rows of query and target, of equal length.
    pairs : ndarray, shape=(k, 2), dtype=int32
        Aligned positions of query and target, from 0 on.
    cigar : str
        The same as a CIGAR string.
    identity : float
        Share of the pairs that are of equal nucleotides; NaN if there are none.
    similarity : ndarray, shape=(n, m), dtype=float32
        Match scores of all bases of the query with all of the target.
    """

    score: float
    rows: tuple[str, str]
    pairs: NDArray[np.int32]
    cigar: str
    identity: float
    similarity: NDArray[np.float32]
    _aligned: Aligned

    @classmethod
    def of(cls, aligned: Aligned) -> Alignment:
        """Make it from what a worker found."""
        assert aligned.similarity is not None
        query = np.flatnonzero(aligned.partners >= 0)
        pairs = np.column_stack([query, aligned.partners[query]]).astype(np.int32)
        rows = aligned.view.rows
        same = sum(a == b != "-" for a, b in zip(*rows, strict=True))
        identity = same / len(pairs) if len(pairs) else float("nan")
        return cls(aligned.score, rows, pairs, aligned.cigar, identity, aligned.similarity, aligned)

    def __str__(self) -> str:
        head = f"score {self.score:.2f}, {len(self.pairs)} pairs, identity {self.identity:.1%}"
        return f"{head}\n\n{clustal_view(self._aligned.view)}"

    def __repr__(self) -> str:
        return f"<Alignment score={self.score:.2f} cigar={self.cigar}>"

    def stockholm(self) -> str:
        """Return it as a Stockholm file."""
        return stockholm(self._aligned.view, self.score)
