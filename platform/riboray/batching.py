"""Token-budget batches of similar lengths, and windows of long RNAs: the one batcher of all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_batches", "window_starts"]


def plan_batches(
    lengths: NDArray[np.integer],
    token_budget: int,
    *,
    jitter: float = 0.0,
    generator: np.random.Generator | None = None,
) -> list[NDArray[np.intp]]:
    """Group items so that a padded batch holds at most ``token_budget`` tokens.

    Parameters
    ----------
    lengths : ndarray, shape=(n,), dtype=integer
        Length of each item, as padded: for a pair of sequences, twice the longer one.
    token_budget : int
        Rows times longest row of a batch, at most. An item longer than this gets a batch of
        its own.
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
    batches: list[NDArray[np.intp]] = []
    start, widest = 0, 0
    for stop, length in enumerate(lengths[order].tolist()):
        widest = max(widest, length)
        if stop > start and widest * (stop + 1 - start) > token_budget:
            batches.append(order[start:stop])
            start, widest = stop, length
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
