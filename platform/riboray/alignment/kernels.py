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

from riboray.alignment.rows import (
    EXTEND_X,
    EXTEND_Y,
    FROM_X,
    FROM_Y,
    LOWEST,
    STOP,
    border,
    close_row,
    correct_reference,
    note_best,
    open_row,
    scan_row,
    start_row,
)

__all__ = [
    "EXTEND_X",
    "EXTEND_Y",
    "FROM_X",
    "FROM_Y",
    "LOWEST",
    "STOP",
    "fill_rows",
    "finish",
    "start_row",
    "walk",
]

# States of the walk.
_IN_H, _IN_X, _IN_Y, DONE = 0, 1, 2, 3


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
    """
    m = len(h) - 1
    scores = match.reshape((1, match.shape[0], match.shape[1]))
    states, gaps, ends = h.reshape((1, m + 1)), x.reshape((1, m + 1)), end.reshape((1, 2))
    without_y, y = scratch[:1], scratch[1:2]
    traces = None if trace is None else trace.reshape((1, trace.shape[0], trace.shape[1]))
    for row in range(match.shape[0]):
        open_row(
            scores,
            0,
            row,
            m,
            border(first + row + 1, gap_open, gap_extend, free),
            gap_open,
            gap_extend,
            false_margin,
            local,
            0,
            states,
            gaps,
            without_y,
            y,
            traces,
        )
        if reference is not None:
            wanted = reference[row]
            if wanted >= 0:
                correct_reference(
                    scores,
                    0,
                    row,
                    wanted,
                    gap_open,
                    false_margin,
                    missed_margin,
                    local,
                    0,
                    states,
                    gaps,
                    without_y,
                    y,
                    traces,
                )
        scan_row(y, 0, m, gap_extend)
        close_row(row, m, gap_open, local, 0, states, without_y, y, traces)
        note_best(states, 0, m, first + row + 1, free, local, best, ends)


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
