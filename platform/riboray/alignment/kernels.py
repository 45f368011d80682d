"""Alignment of one pair with affine gaps, compiled; rules that every other kernel follows.

Recurrence (Gotoh 1982, doi:10.1016/0022-2836(82)90398-9), for prefixes of length i and j::

    X[i,j] = max(H[i-1,j] - open, X[i-1,j]) - extend      a_i against a gap
    Y[i,j] = max(H[i,j-1] - open, Y[i,j-1]) - extend      b_j against a gap
    H[i,j] = max(H[i-1,j-1] + match[i,j], X[i,j], Y[i,j])

Global: gaps at the ends cost the same as inside. Semi-global: gaps at the ends of either sequence
cost nothing. Local (Smith & Waterman 1981, doi:10.1016/0022-2836(81)90087-5): H is at least 0, and
the alignment is what lies between a cell that is 0 and the highest one.

Ties: a match before a gap in b before a gap in a; walking back through a gap, the gap is left as
soon as leaving costs nothing. Of several best ends, semi-global takes one at the end of a, with
the shortest prefix of b, before one at the end of b, with the shortest prefix of a; local takes
the shortest prefix of b, then of a.

Rows can be filled in blocks: `fill_rows` goes on from the state it is handed. That is what keeps
the traceback of long pairs small (see `longpairs`). In its one loop the only value that a column
has to wait for is Y of the column before: a gap is opened from H without Y, since opening one from
a gap is never better than extending it (in float32 too: rounding keeps the order).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "EXTEND_X",
    "EXTEND_Y",
    "FROM_X",
    "FROM_Y",
    "LOWEST",
    "STOP",
    "align_singly",
    "all_finite",
    "border",
    "fill_rows",
    "finish",
    "start_row",
    "walk",
]

#: Minus infinity, for float32.
LOWEST = np.float32(-1e30)

# Traceback bits of one cell.
FROM_X = np.uint8(1)  # H came from X
FROM_Y = np.uint8(2)  # H came from Y
EXTEND_X = np.uint8(4)  # X extends an open gap
EXTEND_Y = np.uint8(8)  # Y extends an open gap
STOP = np.uint8(16)  # H is 0: a local alignment begins after this cell

# States of the walk.
_IN_H, _IN_X, _IN_Y, DONE = 0, 1, 2, 3

_LARGEST = np.float32(np.finfo(np.float32).max)


@njit(nogil=True, cache=True, forceinline=True)
def border(done: int, gap_open: np.float32, gap_extend: np.float32, free: bool) -> Any:
    """Return H before the first symbol of the other sequence, after ``done`` of this one."""
    if free or done == 0:
        return np.float32(0)
    return -gap_open - gap_extend * np.float32(done)


@njit(nogil=True, cache=True, forceinline=True)
def start_row(
    h: NDArray[np.float32],
    x: NDArray[np.float32],
    gap_open: np.float32,
    gap_extend: np.float32,
    free: bool,
) -> None:
    """Set row 0: ``h`` and ``x``, shape (m + 1,), before the first block of rows."""
    for j in range(len(h)):
        h[j] = border(j, gap_open, gap_extend, free)
        x[j] = LOWEST


@njit(nogil=True, cache=True)
def fill_rows(
    match: NDArray[np.float32],
    first: int,
    gap_open: np.float32,
    gap_extend: np.float32,
    free: bool,
    local: Any,
    reference: Any,
    false_margin: np.float32,
    missed_margin: np.float32,
    trace: Any,
    h: NDArray[np.float32],
    x: NDArray[np.float32],
    best: NDArray[np.float32],
    end: NDArray[np.int64],
) -> None:
    """Fill the rows of ``match``, which follow row ``first`` of the whole table.

    Parameters
    ----------
    match : ndarray, shape=(rows, at least m), dtype=float32
        Match scores of these rows.
    first : int
        Rows filled before.
    gap_open, gap_extend : float32
        Penalties.
    free : bool
        End gaps cost nothing (semi-global and local).
    local : object or None
        Not None: local alignment. Resolved when compiled.
    reference : ndarray, shape=(rows,), dtype=int32, or None
        Reference partners of these rows, for loss augmentation with the two margins.
    trace : ndarray, shape=(rows, m), dtype=uint8, or None
        Receives the traceback.
    h, x : ndarray, shape=(m + 1,), dtype=float32
        H and X of the row before; updated.
    best, end : ndarray, shapes=(1,) and (2,)
        Best score and end (prefix lengths) so far: in the last column (semi-global) or anywhere
        (local).
    """
    zero, correction = np.float32(0), -false_margin - missed_margin
    for row in range(match.shape[0]):
        diagonal, left = h[0], border(first + row + 1, gap_open, gap_extend, free)
        h[0], y, opened_y, wanted = left, LOWEST, left - gap_open, np.int64(0)
        if reference is not None:
            wanted = np.int64(reference[row]) + 1
        for j in range(1, len(h)):
            matched = diagonal + match[row, j - 1] + false_margin
            if reference is not None:
                matched = matched + correction if j == wanted else matched
            diagonal = h[j]
            opened_x = diagonal - gap_open
            extend_x = x[j] > opened_x
            gap = (x[j] if extend_x else opened_x) - gap_extend
            x[j] = gap
            from_x = gap > matched
            without_y = gap if from_x else matched
            extend_y = y > left - gap_open
            y = (y if y > opened_y else opened_y) - gap_extend
            from_y = y > without_y
            left = y if from_y else without_y
            if local is not None:
                without_y = without_y if without_y > zero else zero
                left = left if left > zero else zero
                if left > zero and (left > best[0] or (left == best[0] and j < end[1])):
                    best[0], end[0], end[1] = left, first + row + 1, j
            opened_y = without_y - gap_open
            h[j] = left
            if trace is not None:
                origin = FROM_Y if from_y else np.uint8(from_x)
                if local is not None:
                    origin = origin if left > zero else STOP
                trace[row, j - 1] = np.uint8(
                    origin | np.uint8(extend_x) << np.uint8(2) | np.uint8(extend_y) << np.uint8(3)
                )
        if free and local is None and left > best[0]:
            best[0], end[0], end[1] = left, first + row + 1, len(h) - 1


@njit(nogil=True, cache=True)
def finish(
    h: NDArray[np.float32],
    n: int,
    free: bool,
    local: Any,
    best: NDArray[np.float32],
    end: NDArray[np.int64],
) -> None:
    """Set score and end once the last row, ``h``, is filled."""
    m = len(h) - 1
    if local is not None:
        return
    if not free:
        best[0], end[0], end[1] = h[m], n, m
        return
    at = 0
    for j in range(1, m + 1):
        if h[j] > h[at]:
            at = j
    if h[at] >= best[0]:
        best[0], end[0], end[1] = h[at], n, at


@njit(nogil=True, cache=True)
def walk(
    trace: NDArray[np.uint8],
    first: int,
    i: int,
    j: int,
    state: int,
    partner: NDArray[np.int32],
) -> tuple[int, int, int]:
    """Follow the traceback from prefix lengths (i, j) down to row ``first``.

    Parameters
    ----------
    trace : ndarray, shape=(rows, m), dtype=uint8
        Traceback of the rows after ``first``.
    first, i, j : int
        Where the block begins and where to start.
    state : int
        0 at an alignment's end, else what the block before returned.
    partner : ndarray, shape=(n,), dtype=int32
        Receives the 0-based partner of each aligned position of a; otherwise left as it is.

    Returns
    -------
    tuple of int
        i, j and state to go on with in the block above; the state is `DONE` (3) at the beginning.
    """
    while i > first and j > 0:
        flag = trace[i - 1 - first, j - 1]
        if state == _IN_H:
            if flag & STOP:
                return i, j, DONE
            if flag & FROM_X:
                state = _IN_X
            elif flag & FROM_Y:
                state = _IN_Y
            else:
                partner[i - 1] = j - 1
                i -= 1
                j -= 1
        elif state == _IN_X:
            state = _IN_X if flag & EXTEND_X else _IN_H
            i -= 1
        else:
            state = _IN_Y if flag & EXTEND_Y else _IN_H
            j -= 1
    return i, j, DONE if i == 0 or j == 0 else state


@njit(nogil=True, cache=True)
def all_finite(match: NDArray[np.float32], pair: int, n: int, m: int) -> bool:
    """Whether all match scores of a pair of a padded batch, lengths n and m, are finite."""
    bad = 0
    for i in range(n):
        for j in range(m):
            bad |= not np.abs(match[pair, i, j]) <= _LARGEST
    return bad == 0


@njit(nogil=True, cache=True)
def align_singly(
    match: NDArray[np.float32],
    lengths_a: NDArray[np.int32],
    lengths_b: NDArray[np.int32],
    order: NDArray[np.int64],
    gap_open: np.float32,
    gap_extend: np.float32,
    free: bool,
    local: Any,
    reference: Any,
    false_margin: np.float32,
    missed_margin: np.float32,
    scores: NDArray[np.float32],
    partners: NDArray[np.int32],
) -> Any:
    """Align the pairs in ``order`` of a padded batch; see `riboray.alignment.align_batch`.

    Returns -1, or a pair with a match score that is not finite, at which the work ends.
    """
    width_a, width_b = match.shape[1], match.shape[2]
    trace = np.empty((width_a, width_b), dtype=np.uint8)
    rows = np.empty((2, width_b + 1), dtype=np.float32)
    best = np.zeros(1, dtype=np.float32)
    end = np.zeros(2, dtype=np.int64)
    for pair in order:
        n, m = lengths_a[pair], lengths_b[pair]
        if not all_finite(match, pair, n, m):
            return pair
        h, x = rows[0, : m + 1], rows[1, : m + 1]
        best[0], end[0], end[1] = 0, 0, m
        start_row(h, x, gap_open, gap_extend, free)
        fill_rows(
            match[pair, :n],
            0,
            gap_open,
            gap_extend,
            free,
            local,
            None if reference is None else reference[pair, :n],
            false_margin,
            missed_margin,
            trace,
            h,
            x,
            best,
            end,
        )
        finish(h, n, free, local, best, end)
        scores[pair] = best[0]
        partners[pair] = -1
        walk(trace, 0, end[0], end[1], _IN_H, partners[pair])
    return -1
