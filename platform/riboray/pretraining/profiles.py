"""Profiles of RNA families: what a member could look like, column by column.

A seed alignment has few members, and a model learns a hundred sequences by heart before it learns
what they have in common. A profile draws new members: the gaps of real ones, nucleotides from the
columns, and the two of a base pair together, so that they go on pairing. It is a covariance model
(Eddy & Durbin 1994, doi:10.1093/nar/22.11.2079) without insertions or deletions of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riboray.corpus.structure import base_pairs

__all__ = ["GAP", "FamilyProfile", "make_profile", "partners_of"]

GAP = 4
"""Code of a gap; A, C, G, U are 0 to 3."""

_CODES = np.full(256, -1, dtype=np.int8)
_CODES[np.frombuffer(b"ACGU-", np.uint8)] = np.arange(5)

#: Members of a family that counts come from, at most: more would outweigh the priors.
_EFFECTIVE = 50.0

#: Members that the priors count for: of a base pair and of a single nucleotide.
_PAIR_WEIGHT, _SINGLE_WEIGHT = 4.0, 2.0

#: Base pairs where nothing is known of a column: canonical but for one in 25.
_PAIR_PRIOR = np.full((4, 4), 0.004)
for _first, _second, _share in ((1, 2, 0.25), (0, 3, 0.17), (2, 3, 0.06)):
    _PAIR_PRIOR[_first, _second] = _PAIR_PRIOR[_second, _first] = _share
_PAIR_PRIOR /= _PAIR_PRIOR.sum()

#: Share of members drawn that are real ones, unchanged, and of the others that have the gaps of
#: two members.
_REAL, _CROSSED = 0.2, 0.5

Rows = NDArray[np.int8]


@dataclass(frozen=True)
class FamilyProfile:
    """A family's alignment, and the frequencies of its columns.

    Attributes
    ----------
    rows : ndarray, shape=(members, columns), dtype=int8
        The alignment: A, C, G, U as 0 to 3, and `GAP`.
    weights : ndarray, shape=(members,)
        How often each is drawn: less, the more members are like it; adds up to 1.
    singles : ndarray, shape=(columns, 4)
        Nucleotides of each column, cumulative shares.
    left, right : ndarray, shape=(pairs,)
        Columns of the consensus structure's base pairs.
    pairs : ndarray, shape=(pairs, 16)
        Both nucleotides of each (4 times the left one's code plus the right one's), cumulative
        shares.
    """

    rows: Rows
    weights: NDArray[np.float64]
    singles: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    pairs: NDArray[np.float64]

    def draw(self, count: int, generator: np.random.Generator, resample: float = 1.0) -> Rows:
        """Draw members, real and new ones.

        Parameters
        ----------
        count : int
            How many.
        generator : numpy.random.Generator
            Where chance comes from.
        resample : float
            Largest share of columns whose nucleotides are drawn anew; every new member has
            another, from 0 on. 0: real members alone.

        Returns
        -------
        ndarray, shape=(count, columns), dtype=int8
            Rows of the alignment.
        """
        shape = (count, self.rows.shape[1])
        one = self.rows[generator.choice(len(self.rows), count, p=self.weights)]
        if not resample or not count:
            return one
        other = self.rows[generator.choice(len(self.rows), count, p=self.weights)]
        # The other's gaps from some column on, so that loops of all lengths come together.
        cut = np.where(
            generator.random(count) < _CROSSED, generator.integers(shape[1], size=count), shape[1]
        )[:, None]
        rows = np.where(np.arange(shape[1]) < cut, one, other)
        share = generator.uniform(0, resample, count)[:, None]
        fresh = (generator.random((*shape, 1)) > self.singles).sum(2).clip(max=3)
        new = np.where((generator.random(shape) < share) & (rows < GAP), fresh, rows)
        left, right = rows[:, self.left], rows[:, self.right]
        both = (left < GAP) & (right < GAP)
        drawn = (generator.random((*both.shape, 1)) > self.pairs).sum(2).clip(max=15)
        # A pair whose halves come from two members need not be one.
        parted = (self.left < cut) & (self.right >= cut)
        anew = parted | (generator.random(both.shape) < share)
        for columns, old, value in ((self.left, left, drawn // 4), (self.right, right, drawn % 4)):
            new[:, columns] = np.where(both, np.where(anew, value, old), new[:, columns])
        real = generator.random((count, 1)) < _REAL
        drawn_rows: Rows = np.where(real, one, new).astype(np.int8)
        return drawn_rows


def make_profile(
    aligned: Sequence[str], dot_brackets: Sequence[str | None], max_length: int
) -> FamilyProfile | None:
    """Make the profile of a family.

    Parameters
    ----------
    aligned : sequence of str
        Rows of its alignment, gaps as dashes. Those with ambiguity codes are left out.
    dot_brackets : sequence of str or None
        Structure of each row's sequence, as the alignment has it.
    max_length : int
        Longest member that is taken, in nucleotides.

    Returns
    -------
    FamilyProfile or None
        None if there are not two members that can be taken.
    """
    codes = np.stack([_CODES[np.frombuffer(row.encode("ascii"), np.uint8)] for row in aligned])
    lengths = (codes != GAP).sum(1)
    taken = np.flatnonzero((codes >= 0).all(1) & (lengths <= max_length) & (lengths > 0))
    if len(taken) < 2:
        return None
    rows = codes[taken]
    paired = {pair for k in taken.tolist() for pair in _column_pairs(codes[k], dot_brackets[k])}
    left, right = np.array(sorted(paired), dtype=np.int64).reshape(-1, 2).T
    weights = _row_weights(rows)
    counted = weights * min(len(rows), _EFFECTIVE)
    singles = np.stack([counted @ (rows == code) for code in range(4)], axis=1)
    background = (singles.sum(0) + 1) / (singles.sum() + 4)
    singles = singles + _SINGLE_WEIGHT * background
    joint = [
        counted @ ((rows[:, left] == a) & (rows[:, right] == b)) + _PAIR_WEIGHT * _PAIR_PRIOR[a, b]
        for a in range(4)
        for b in range(4)
    ]
    return FamilyProfile(rows, weights, _cumulative(singles), left, right, _cumulative(joint, 0))


def _cumulative(values: object, axis: int = 1) -> NDArray[np.float64]:
    counts = np.moveaxis(np.asarray(values, dtype=np.float64), axis, 1)
    return np.cumsum(counts / counts.sum(1, keepdims=True), axis=1)


def _column_pairs(row: Rows, dot_bracket: str | None) -> list[tuple[int, int]]:
    """Columns of a sequence's base pairs."""
    if dot_bracket is None:
        return []
    partner, column = base_pairs(dot_bracket), np.flatnonzero(row != GAP)
    first = np.flatnonzero(partner > np.arange(len(partner)))
    return list(zip(column[first].tolist(), column[partner[first]].tolist(), strict=True))


def _row_weights(rows: Rows) -> NDArray[np.float64]:
    """Weights of members by how rare their symbols are (Henikoff & Henikoff 1994)."""
    weights = np.zeros(len(rows))
    present = np.stack([(rows == code).sum(0) for code in range(5)])
    kinds = (present > 0).sum(0)
    for code in range(5):
        with np.errstate(divide="ignore"):
            value = 1.0 / (kinds * present[code])
        weights += np.where(rows == code, value, 0.0).sum(1)
    total: NDArray[np.float64] = weights / weights.sum()
    return total


def partners_of(row_a: Rows, row_b: Rows) -> NDArray[np.int32]:
    """Nucleotide of b in the column of every nucleotide of a, or -1.

    Returns
    -------
    ndarray, shape=(nucleotides of a,), dtype=int32
    """
    there = row_b != GAP
    number = np.cumsum(there, dtype=np.int32) - 1
    partner: NDArray[np.int32] = np.where(there, number, np.int32(-1))[row_a != GAP]
    return partner
