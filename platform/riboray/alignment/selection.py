"""Choosing the best pairs of each sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_of_each"]


def best_of_each(
    sides: Sequence[NDArray[np.int64]],
    scores: NDArray[np.float32],
    k: int,
    slack: NDArray[np.float32] | None = None,
    *,
    exactly: bool = False,
) -> NDArray[np.bool_]:
    """Tell which pairs are among the k best of any of their sequences.

    Parameters
    ----------
    sides : sequence of ndarray, shape=(n,), dtype=int64
        The sequences of each pair; one array for one-sided choice (the queries of a search).
    scores : ndarray, shape=(n,), dtype=float32
        Scores.
    k : int
        Pairs kept per sequence.
    slack : ndarray, shape=(n,), dtype=float32, optional
        By how much a score may be wrong, either way; whatever could be among the k best is kept.
    exactly : bool
        Break ties at the k-th place by the other sequence's index, so that no sequence keeps
        more than k for itself; otherwise ties are all kept.

    Returns
    -------
    ndarray, shape=(n,), dtype=bool
    """
    kept = np.zeros(len(scores), bool)
    if not len(scores):
        return kept
    # A pair counts for both its sequences: it stands in the list of each.
    pair = np.tile(np.arange(len(scores)), len(sides))
    owner = np.concatenate(sides)
    other = np.concatenate(sides[::-1]) if len(sides) > 1 else pair
    below = (scores if slack is None else scores - slack)[pair]
    order = np.lexsort((other, -below, owner))
    owners = owner[order]
    first = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    if exactly:
        kept[pair[order[rank < k]]] = True
        return kept
    group = np.cumsum(rank == 0) - 1
    threshold = np.full(group[-1] + 1, -np.inf)
    at = rank == k - 1
    threshold[group[at]] = below[order[at]]
    above = (scores if slack is None else scores + slack)[pair]
    kept[pair[order[above[order] >= threshold[group]]]] = True
    return kept
