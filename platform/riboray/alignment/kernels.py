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
the traceback of long pairs small (see `longpairs`).
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
    "align_batch_kernel",
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


@njit(nogil=True, cache=True)
def start_row(
    h: NDArray[np.float32],
    x: NDArray[np.float32],
    gap_open: np.float32,
    gap_extend: np.float32,
    free: bool,
) -> None:
    """Set row 0: ``h`` and ``x``, shape (m + 1,), before the first block of rows."""
    for j in range(len(h)):
        edge = np.float32(0)
        if j > 0 and not free:
            edge = -gap_open - gap_extend * np.float32(j)
        h[j] = edge
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
    scratch: NDArray[np.float32],
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
    scratch : ndarray, shape=(2, m + 1), dtype=float32
        Working memory.
    best, end : ndarray, shapes=(1,) and (2,)
        Best score and end (prefix lengths) so far: in the last column (semi-global) or anywhere
        (local).

    Notes
    -----
    The first inner loop has no dependency along the row and is vectorised; only Y's recurrence,
    in the second, is sequential.
    """
    m = len(h) - 1
    without_y, origin = scratch[0], scratch[1]
    for row in range(match.shape[0]):
        for j in range(1, m + 1):
            origin[j] = h[j - 1] + match[row, j - 1] + false_margin
        if reference is not None:
            wanted = reference[row]
            if wanted >= 0:
                origin[wanted + 1] += -false_margin - missed_margin
        for j in range(1, m + 1):
            opened = h[j] - gap_open
            extended = x[j]
            flag = np.uint8(0)
            if extended > opened:
                opened = extended
                flag = EXTEND_X
            opened -= gap_extend
            x[j] = opened
            matched = origin[j]
            if opened > matched:
                matched = opened
                flag |= FROM_X
            without_y[j] = matched
            if trace is not None:
                trace[row, j - 1] = flag
        left = np.float32(0)
        if not free:
            left = -gap_open - gap_extend * np.float32(first + row + 1)
        h[0] = left
        y = LOWEST
        for j in range(1, m + 1):
            opened = left - gap_open
            flag = np.uint8(0)
            if y > opened:
                opened = y
                flag = EXTEND_Y
            y = opened - gap_extend
            left = without_y[j]
            from_y = y > left
            if from_y:
                left = y
            if local is not None:
                if left <= np.float32(0):
                    left = np.float32(0)
                    flag |= STOP
                elif left > best[0] or (left == best[0] and j < end[1]):
                    best[0], end[0], end[1] = left, first + row + 1, j
            h[j] = left
            if trace is not None:
                above = trace[row, j - 1]
                if flag & STOP:
                    above &= ~FROM_X
                elif from_y:
                    above = (above & ~FROM_X) | FROM_Y
                trace[row, j - 1] = above | flag
        if free and local is None and h[m] > best[0]:
            best[0], end[0], end[1] = h[m], first + row + 1, m


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
def align_batch_kernel(
    match: NDArray[np.float32],
    lengths_a: NDArray[np.int32],
    lengths_b: NDArray[np.int32],
    gap_open: np.float32,
    gap_extend: np.float32,
    free: bool,
    local: Any,
    reference: Any,
    false_margin: np.float32,
    missed_margin: np.float32,
    scores: NDArray[np.float32],
    partners: NDArray[np.int32],
) -> None:
    """Align every pair of a padded batch; see `riboray.alignment.align_batch`."""
    width_a, width_b = match.shape[1], match.shape[2]
    trace = np.empty((width_a, width_b), dtype=np.uint8)
    rows = np.empty((4, width_b + 1), dtype=np.float32)
    best = np.zeros(1, dtype=np.float32)
    end = np.zeros(2, dtype=np.int64)
    partners[:] = -1
    for pair in range(match.shape[0]):
        n, m = lengths_a[pair], lengths_b[pair]
        h, x, scratch = rows[0, : m + 1], rows[1, : m + 1], rows[2:]
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
            scratch,
            best,
            end,
        )
        finish(h, n, free, local, best, end)
        scores[pair] = best[0]
        walk(trace, 0, end[0], end[1], _IN_H, partners[pair])
