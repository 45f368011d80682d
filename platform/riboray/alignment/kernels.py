"""Needleman–Wunsch with affine gaps, compiled: the one dynamic programme behind everything.

All pairs of a padded batch are aligned in one call. Per pair of lengths n and m it costs
n·m steps and n·m bytes of traceback, reused from pair to pair.

Recurrence (Gotoh 1982, doi:10.1016/0022-2836(82)90398-9), for prefixes of length i and j::

    X[i,j] = max(H[i-1,j] - open, X[i-1,j]) - extend      a_i against a gap
    Y[i,j] = max(H[i,j-1] - open, Y[i,j-1]) - extend      b_j against a gap
    H[i,j] = max(H[i-1,j-1] + match[i,j], X[i,j], Y[i,j])

Gaps at the ends cost the same as inside. Ties: a match before a gap in b before a gap in a; and,
walking back through a gap, the gap is left as soon as leaving costs nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["align_batch_kernel"]

_NEGATIVE = np.float32(-1e30)

# Traceback bits of one cell.
_FROM_X = np.uint8(1)  # H came from X
_FROM_Y = np.uint8(2)  # H came from Y
_EXTEND_X = np.uint8(4)  # X extends an open gap
_EXTEND_Y = np.uint8(8)  # Y extends an open gap


@njit(nogil=True, cache=True)
def _fill(
    match: NDArray[np.float32],
    n: int,
    m: int,
    gap_open: np.float32,
    gap_extend: np.float32,
    reference: NDArray[np.int32],
    false_margin: np.float32,
    missed_margin: np.float32,
    trace: NDArray[np.uint8],
    rows: NDArray[np.float32],
) -> np.float32:
    """Fill one pair's table row by row; return the best score.

    `rows` has shape (4, >= m + 1): H of the previous row, X, and two scratch rows. The first
    inner loop has no dependency along the row and is vectorised; only Y's recurrence, in the
    second, is sequential.
    """
    previous, x, best, origin = rows[0], rows[1], rows[2], rows[3]
    previous[0] = np.float32(0)
    for j in range(1, m + 1):
        previous[j] = -gap_open - gap_extend * np.float32(j)
        x[j] = _NEGATIVE
    for i in range(1, n + 1):
        row = match[i - 1]
        wanted = reference[i - 1]
        # `best` holds H without Y; `origin` the diagonal candidate, to know who won.
        for j in range(1, m + 1):
            origin[j] = previous[j - 1] + row[j - 1] + false_margin
        if wanted >= 0:
            origin[wanted + 1] += -false_margin - missed_margin
        bits = trace[i]
        for j in range(1, m + 1):
            opened = previous[j] - gap_open
            extended = x[j]
            flag = np.uint8(0)
            if extended > opened:
                opened = extended
                flag = _EXTEND_X
            opened -= gap_extend
            x[j] = opened
            diagonal = origin[j]
            if opened > diagonal:
                diagonal = opened
                flag |= _FROM_X
            best[j] = diagonal
            bits[j] = flag
        left = -gap_open - gap_extend * np.float32(i)
        previous[0] = left
        y = _NEGATIVE
        for j in range(1, m + 1):
            opened = left - gap_open
            flag = bits[j]
            if y > opened:
                opened = y
                flag |= _EXTEND_Y
            y = opened - gap_extend
            left = best[j]
            if y > left:
                left = y
                flag = (flag & ~_FROM_X) | _FROM_Y
            previous[j] = left
            bits[j] = flag
    score: np.float32 = previous[m]
    return score


@njit(nogil=True, cache=True)
def _walk(trace: NDArray[np.uint8], n: int, m: int, partner: NDArray[np.int32]) -> None:
    """Follow the traceback from (n, m); write the 0-based partner of each position of a, or -1."""
    i, j = n, m
    while i > 0 and j > 0:
        flag = trace[i, j]
        if flag & _FROM_X:
            extending = True
            while extending:
                extending = i > 0 and (trace[i, j] & _EXTEND_X) != 0
                partner[i - 1] = -1
                i -= 1
                if i == 0:
                    extending = False
        elif flag & _FROM_Y:
            extending = True
            while extending:
                extending = (trace[i, j] & _EXTEND_Y) != 0
                j -= 1
                if j == 0:
                    extending = False
        else:
            partner[i - 1] = j - 1
            i -= 1
            j -= 1
    while i > 0:
        partner[i - 1] = -1
        i -= 1


@njit(nogil=True, cache=True)
def align_batch_kernel(
    match: NDArray[np.float32],
    lengths_a: NDArray[np.int32],
    lengths_b: NDArray[np.int32],
    gap_open: np.float32,
    gap_extend: np.float32,
    reference: NDArray[np.int32],
    false_margin: np.float32,
    missed_margin: np.float32,
    scores: NDArray[np.float32],
    partners: NDArray[np.int32],
) -> None:
    """Align every pair of a padded batch; see `riboray.alignment.align_batch`."""
    width_a, width_b = match.shape[1], match.shape[2]
    trace = np.empty((width_a + 1, width_b + 1), dtype=np.uint8)
    rows = np.empty((4, width_b + 1), dtype=np.float32)
    for pair in range(match.shape[0]):
        n, m = lengths_a[pair], lengths_b[pair]
        scores[pair] = _fill(
            match[pair],
            n,
            m,
            gap_open,
            gap_extend,
            reference[pair],
            false_margin,
            missed_margin,
            trace,
            rows,
        )
        partners[pair, n:] = -1
        _walk(trace, n, m, partners[pair])
