"""Aligning a batch of pairs of RNAs from their base similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.columns import GapPenalties, Margins, Mode, check_mode
from riboray.alignment.interleaved import align_interleaved
from riboray.alignment.kernels import align_singly

__all__ = ["BatchAlignment", "align_batch"]

#: Length of b from which vectorised rows are worth their beginnings and ends.
_WIDE = 48


@dataclass(frozen=True)
class BatchAlignment:
    """The best alignment of each pair of a batch.

    Attributes
    ----------
    scores : ndarray, shape=(n,), dtype=float32
        Score of each alignment, margins included where they were given.
    partners : ndarray, shape=(n, width_a), dtype=int32
        Partner in b of each position of a, -1 for none (padding too).
    """

    scores: NDArray[np.float32]
    partners: NDArray[np.int32]


def align_batch(
    match: NDArray[np.float32],
    lengths_a: NDArray[np.integer],
    lengths_b: NDArray[np.integer],
    gaps: GapPenalties | None = None,
    *,
    reference: NDArray[np.integer] | None = None,
    margins: Margins | None = None,
    mode: Mode = "global",
) -> BatchAlignment:
    """Align a padded batch of pairs.

    Parameters
    ----------
    match : ndarray, shape=(n, width_a, width_b), dtype=float32
        Match scores; entries beyond a pair's lengths have no influence, whatever they are.
    lengths_a, lengths_b : ndarray, shape=(n,), dtype=integer
        Lengths of the sequences, at least 1.
    gaps : GapPenalties, optional
        RNABERT's 1.0 + 0.1·k by default.
    reference : ndarray, shape=(n, width_a), dtype=integer, optional
        Partners of a reference alignment. With it the maximum is loss-augmented: it is taken over
        ``score + margin``, as structural alignment learning needs.
    margins : Margins, optional
        Margins used with ``reference``.
    mode : Mode
        Global, semi-global or local.

    Returns
    -------
    BatchAlignment
        Exact in float32 arithmetic: a score differs from its alignment's exact score by at most
        about ``(n + m) * 6e-8 * max|partial score|``. Ties are broken as `kernels` says.

    Raises
    ------
    ValueError
        If shapes disagree, a length is 0 or a match score that is read is not finite.

    Notes
    -----
    The missed-pair margin is a constant, ``missed`` for every reference pair, minus ``missed``
    on each reference cell, so one dynamic programme finds the augmented maximum exactly.
    """
    check_mode(mode)
    gaps, margins = gaps or GapPenalties(), margins or Margins()
    match = np.ascontiguousarray(match, dtype=np.float32)
    count, width_a, width_b = match.shape
    sizes_a = np.ascontiguousarray(lengths_a, dtype=np.int32)
    sizes_b = np.ascontiguousarray(lengths_b, dtype=np.int32)
    for name, lengths, width in (("a", sizes_a, width_a), ("b", sizes_b, width_b)):
        if lengths.shape != (count,):
            raise ValueError(f"lengths_{name} has shape {lengths.shape}, expected ({count},)")
        if count and (lengths.min() < 1 or lengths.max() > width):
            raise ValueError(f"lengths_{name} must lie between 1 and {width}")
    wanted, false, missed = None, np.float32(0), np.float32(0)
    if reference is not None:
        wanted = np.ascontiguousarray(reference, dtype=np.int32)
        if wanted.shape != (count, width_a):
            raise ValueError(f"reference has shape {wanted.shape}, not {(count, width_a)}")
        if count and (wanted.max(axis=1) >= sizes_b).any():
            raise ValueError("reference names a position beyond the end of b")
        false, missed = np.float32(margins.false), np.float32(margins.missed)
    scores = np.empty(count, dtype=np.float32)
    partners = np.empty((count, width_a), dtype=np.int32)
    for kernel, chosen in _share_out(sizes_b):
        bad = kernel(
            match,
            sizes_a,
            sizes_b,
            chosen,
            np.float32(gaps.open),
            np.float32(gaps.extend),
            mode != "global",
            0 if mode == "local" else None,
            wanted,
            false,
            missed,
            scores,
            partners,
        )
        if bad >= 0:
            raise ValueError(f"pair {bad} has a match score that is NaN or infinite")
    if wanted is not None:
        scores += missed * (wanted >= 0).sum(axis=1, dtype=np.float32)
    return BatchAlignment(scores, partners)


def _share_out(lengths_b: NDArray[np.int32]) -> list[tuple[Any, NDArray[np.int64]]]:
    """Say which kernel takes which pairs, in which order; what they find is the same."""
    if len(lengths_b) > 1:
        order = np.argsort(-lengths_b, kind="stable")
        wide = np.count_nonzero(lengths_b >= _WIDE)
        if wide == len(lengths_b):
            return [(align_interleaved, order)]
        if wide > 1:
            return [(align_interleaved, order[:wide]), (align_singly, order[wide:])]
    return [(align_singly, np.arange(len(lengths_b)))]
