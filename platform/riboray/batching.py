"""Token-budget batches of similar lengths, and windows of long RNAs: the one batcher of all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_windows", "plan_batches", "window_starts"]


def plan_batches(
    lengths: NDArray[np.integer],
    token_budget: int,
    *,
    costs: NDArray[np.floating] | None = None,
    cost_budget: float = np.inf,
    jitter: float = 0.0,
    generator: np.random.Generator | None = None,
) -> list[NDArray[np.intp]]:
    """Group items so that a padded batch holds at most ``token_budget`` tokens.

    With costs, batches are also about equally dear: workers that take one each and then wait for
    each other wait little.

    Parameters
    ----------
    lengths : ndarray, shape=(n,), dtype=integer
        Length of each item, as padded: for a pair of sequences, twice the longer one.
    token_budget : int
        Rows times longest row of a batch, at most. An item longer than this gets a batch of
        its own.
    costs : ndarray, shape=(n,), dtype=float, optional
        What each item costs, in any unit; grows with the length.
    cost_budget : float
        Sum of the costs of a batch: the nearest that whole items give, above or below.
    jitter : float
        Largest number added to a length for sorting only, drawn uniformly: which items share a
        batch then varies from epoch to epoch while lengths stay similar.
    generator : Generator, optional
        Source of the jitter and of the order of the batches. Without one, batches come longest
        first and the result depends on ``lengths`` alone.

    Returns
    -------
    list of ndarray, dtype=intp
        Indices of each batch; every item is in exactly one.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget}")
    lengths = np.asarray(lengths)
    sort_key = lengths.astype(np.float64)
    if generator is not None and jitter > 0:
        sort_key = sort_key + generator.uniform(0, jitter, size=len(lengths))
    order = np.argsort(-sort_key, kind="stable")
    dear = np.zeros(len(lengths)) if costs is None else np.asarray(costs, np.float64)[order]
    batches: list[NDArray[np.intp]] = []
    start, widest, spent = 0, 0, 0.0
    for stop, (length, cost) in enumerate(zip(lengths[order].tolist(), dear.tolist(), strict=True)):
        widest = max(widest, length)
        full = widest * (stop + 1 - start) > token_budget or spent + cost / 2 > cost_budget
        if full and stop > start:
            batches.append(order[start:stop])
            start, widest, spent = stop, length, 0.0
        spent += cost
    if len(order) > start:
        batches.append(order[start:])
    if generator is not None:
        generator.shuffle(batches)
    return batches


def window_starts(length: int, width: int) -> list[int]:
    """Return where the windows of a sequence begin: one if it fits, else half a window apart."""
    if length <= width:
        return [0]
    step = max(width // 2, 1)
    return [*range(0, length - width, step), length - width]


def count_windows(lengths: NDArray[np.integer], width: int) -> NDArray[np.int64]:
    """Return how many windows `window_starts` gives sequences of these lengths; shape (n,)."""
    beyond = np.maximum(np.asarray(lengths, dtype=np.int64) - width, 0)
    return 1 + -(-beyond // max(width // 2, 1))
