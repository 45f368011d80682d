"""Where sequences lie among RNA families that are known: a map that new ones are put on.

The families are those of the bundled sample. Their pooled embeddings are turned so that families
lie apart (linear discriminant analysis with shrinkage; Ledoit & Wolf 2004,
doi:10.1016/S0047-259X(03)00096-4); what is asked for goes through the same two directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from riboray.alphabet import normalise
from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.corpus.stockholm import read_stockholm

__all__ = ["Landmark", "Landscape", "landmarks"]

#: Members of each family on the map, at most, and the longest of them in nucleotides.
_MEMBERS, _LONGEST = 24, 440


@dataclass(frozen=True)
class Landmark:
    """A sequence of a known family.

    Attributes
    ----------
    family : str
        Name of the family.
    id : str
        Name of the sequence.
    sequence : str
        Upper case, U for T.
    """

    family: str
    id: str
    sequence: str


@cache
def landmarks() -> tuple[Landmark, ...]:
    """Return the sequences of the map: every so manieth member of each family of the sample."""
    found: list[Landmark] = []
    for family in read_stockholm(SAMPLE_ALIGNMENTS):
        members = [
            Landmark(family.name, name, sequence)
            for name, row in zip(family.ids, family.rows, strict=True)
            if (sequence := normalise(row.replace("-", "").replace(".", "")))
            and len(sequence) <= _LONGEST
            and set(sequence) <= set("ACGU")
        ]
        step = -(-len(members) // _MEMBERS)
        found += members[::step]
    return tuple(found)


class Landscape:
    """The map.

    Parameters
    ----------
    embeddings : ndarray, shape=(landmarks, H), dtype=float32
        Pooled embeddings of `landmarks`, in their order.
    """

    def __init__(self, embeddings: NDArray[np.float32]) -> None:
        families = [landmark.family for landmark in landmarks()]
        self._analysis = LinearDiscriminantAnalysis(
            solver="eigen", shrinkage="auto", n_components=2
        )
        self._analysis.fit(embeddings.astype(np.float64), families)
        self.places = self.place(embeddings)
        """Where the landmarks lie, shape (landmarks, 2)."""

    def place(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return where sequences lie, shape (n, 2), given their pooled embeddings, (n, H)."""
        found: NDArray[np.float64] = self._analysis.transform(embeddings.astype(np.float64))
        return found
