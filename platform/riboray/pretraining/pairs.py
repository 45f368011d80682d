"""Reference alignments as a corpus holds them, and fragments of them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from riboray.alignment import aligned_columns, gapped_strings
from riboray.alignment.columns import GAPS

__all__ = ["AlignedPair", "aligned_pairs", "crop", "crop_some"]

#: Least share of a sequence that a fragment keeps.
_LEAST_KEPT = 0.5


class AlignedPair(NamedTuple):
    """A reference alignment: two gapped strings, and the family they are of."""

    a: str
    b: str
    family: str

    @property
    def length(self) -> int:
        """Nucleotides of the longer sequence."""
        return max(len(text) - sum(map(text.count, GAPS)) for text in (self.a, self.b))


def aligned_pairs(table: pa.Table) -> list[AlignedPair]:
    """Return the pairs of a table of a corpus, in order."""
    columns = (table[name].to_pylist() for name in ("aligned_a", "aligned_b", "family"))
    return list(itertools.starmap(AlignedPair, zip(*columns, strict=True)))


def crop(pair: AlignedPair, generator: np.random.Generator) -> AlignedPair:
    """Cut one of the sequences, by chance, to a stretch of half of it or more.

    The other one keeps its nucleotides; what of it was aligned to those lost is aligned to gaps.
    """
    columns = aligned_columns(pair.a, pair.b)
    a, b, partners = columns.sequence_a, columns.sequence_b, columns.partners
    cuts_a = bool(generator.integers(2))
    size = len(a if cuts_a else b)
    kept = int(generator.integers(max(int(_LEAST_KEPT * size), 1), size + 1))
    start = int(generator.integers(size - kept + 1))
    stretch = slice(start, start + kept)
    if cuts_a:
        a, partners = a[stretch], partners[stretch]
    else:
        b, inside = b[stretch], (partners >= start) & (partners < start + kept)
        partners = np.where(inside, partners - start, -1).astype(np.int32)
    return AlignedPair(*gapped_strings(a, b, partners), pair.family)


def crop_some(
    pairs: list[AlignedPair], share: float, generator: np.random.Generator
) -> list[AlignedPair]:
    """Make fragments of a share of the pairs, drawn by chance."""
    drawn = generator.random(len(pairs)) < share
    return [crop(p, generator) if d else p for p, d in zip(pairs, drawn, strict=True)]
