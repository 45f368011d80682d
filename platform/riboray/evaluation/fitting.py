"""Gap penalties fitted to reference alignments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from riboray.alignment.columns import GapPenalties
from riboray.evaluation.accuracy import measure, tally
from riboray.evaluation.scores import PairBatches, align_by_scores

__all__ = ["Fitted", "fit_gaps"]

#: The grid that the search begins with, in units of the scores' contrast.
_OPENS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_EXTENDS = (0.0, 0.05, 0.1, 0.2, 0.4)
#: Factors by which it then moves, finer and finer.
_FACTORS = (1.5, 1.2, 1.08)


@dataclass(frozen=True)
class Fitted:
    """Penalties with the highest F1 that was found.

    Attributes
    ----------
    gaps : GapPenalties
        To three significant digits.
    f1 : float
        Micro-averaged, on the pairs they were fitted to.
    before : float
        That of the penalties the search was given.
    pairs : int
        Pairs they were fitted to.
    """

    gaps: GapPenalties
    f1: float
    before: float
    pairs: int


def fit_gaps(batches: PairBatches, initial: GapPenalties) -> Fitted:
    """Find the gap penalties that align pairs best.

    Parameters
    ----------
    batches : PairBatches
        Development pairs, disjoint from any that will be measured.
    initial : GapPenalties
        Penalties to compare with; they stay if nothing is better.

    Returns
    -------
    Fitted

    Notes
    -----
    F1 is a step function of the penalties, with no gradient: a grid, then moves by ever smaller
    factors. The grid is in units of the contrast between match scores of aligned bases and of all
    others, so that scores of any scale find their penalties.

    No more than two numbers are worth fitting. A common factor of match scores and penalties
    changes no alignment; nor does a constant added to every match score, once the cost of a gap
    symbol takes half of it: two sequences of n and m bases have n + m = 2 matches + gap symbols.
    """
    seen: dict[tuple[float, float], float] = {}

    def f1_of(opened: float, extended: float) -> float:
        key = (_rounded(opened), _rounded(extended))
        if key not in seen:
            seen[key] = _f1(batches, GapPenalties(*key))
        return seen[key]

    unit = _contrast(batches)
    before = _f1(batches, initial)
    grid = [(unit * a, unit * b) for a in _OPENS for b in _EXTENDS]
    best = max(grid, key=lambda point: f1_of(*point))
    for factor in _FACTORS:
        best = _climb(f1_of, best, factor, floor=0.01 * unit)
    if f1_of(*best) <= before:
        return Fitted(initial, before, before, len(batches.pairs))
    gaps = GapPenalties(*map(_rounded, best))
    return Fitted(gaps, f1_of(*best), before, len(batches.pairs))


def _climb(
    f1_of: Callable[[float, float], float],
    point: tuple[float, float],
    factor: float,
    floor: float,
) -> tuple[float, float]:
    """Move to better neighbours until there is none; zero has a small number for a neighbour."""
    while True:
        opened, extended = point
        neighbours = [(max(opened, floor) * step, extended) for step in (factor, 1 / factor)] + [
            (opened, max(extended, floor) * step) for step in (factor, 1 / factor)
        ]
        best = max(neighbours, key=lambda other: f1_of(*other))
        if f1_of(*best) <= f1_of(*point):
            return point
        point = best


def _f1(batches: PairBatches, gaps: GapPenalties) -> float:
    found = align_by_scores(batches, gaps).partners
    return measure(tally(found, [pair.columns.partners for pair in batches.pairs]))["f1"]


def _contrast(batches: PairBatches) -> float:
    """Mean match score of aligned bases minus that of all pairs of bases."""
    aligned = every = aligned_sum = every_sum = 0.0
    for batch in batches:
        for place, row in enumerate(batch.pairs):
            partners = batches.pairs[row].columns.partners
            match = batch.match[place, : batch.lengths_a[place], : batch.lengths_b[place]]
            rows = np.flatnonzero(partners >= 0)
            aligned_sum += float(match[rows, partners[rows]].sum())
            every_sum += float(match.sum())
            aligned += len(rows)
            every += match.size
    contrast = aligned_sum / max(aligned, 1) - every_sum / max(every, 1)
    return contrast if contrast > 0 else 1.0


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
