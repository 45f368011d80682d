"""One row of the dynamic programme, in three passes; what it computes is defined in `kernels`.

`open_row` computes all but Y, `scan_rows` Y, `close_row` H. In the first and the last no column
waits for the one to its left, so they are vectorised. The scan is sequential: a column waits for
the comparison and the subtraction of the one before. So it is done for `SLOTS` pairs in one loop,
four chains of dependent operations in the time of one.

Arrays have a row, or *slot*, for each pair that is being filled, and are addressed by slot: a slice
would cost two atomic reference counts. The passes are inlined by force: a call would hand over some
forty numbers, which takes as long as thirty columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.kernels import EXTEND_X, EXTEND_Y, FROM_X, FROM_Y, LOWEST, STOP

__all__ = ["SLOTS", "close_row", "correct_reference", "note_best", "open_row", "scan_rows"]

#: Pairs filled in turns: what it takes to keep a core busy; more would crowd its L1 cache.
SLOTS = 4

_NO_FLAG = np.uint8(0)


@njit(nogil=True, cache=True, forceinline=True)
def open_row(
    match: NDArray[np.float32],
    pair: int,
    row: int,
    width: int,
    edge: np.float32,
    gap_open: np.float32,
    gap_extend: np.float32,
    false_margin: np.float32,
    local: Any,
    slot: int,
    h: NDArray[np.float32],
    x: NDArray[np.float32],
    without_y: NDArray[np.float32],
    y: NDArray[np.float32],
    trace: Any,
) -> None:
    """Do what comes before Y: X, the better of match and X, and what opening a gap leaves.

    Parameters
    ----------
    match : ndarray, shape=(pairs, rows, at least width), dtype=float32
        Match scores, of which ``match[pair, row]`` is read.
    width : int
        Columns to fill.
    edge : float32
        H in column 0, from `border`.
    false_margin : float32
        Added to every match score.
    slot : int
        Which row of the arrays that follow is this pair's.
    h, x : ndarray, shape=(slots, more than width), dtype=float32
        H and X of the row before; X is updated.
    without_y, y : ndarray, shape=(slots, more than width), dtype=float32
        Receive the better of match and X, and that minus ``gap_open``.
    trace : ndarray, shape=(slots, rows, at least width), dtype=uint8, or None
        Receives the bits of X.
    """
    for j in range(1, width + 1):
        opened = h[slot, j] - gap_open
        extended = x[slot, j]
        gap = (extended if extended > opened else opened) - gap_extend
        x[slot, j] = gap
        matched = h[slot, j - 1] + match[pair, row, j - 1] + false_margin
        best = gap if gap > matched else matched
        without_y[slot, j] = best
        if local is not None:
            best = best if best > np.float32(0) else np.float32(0)
        y[slot, j] = best - gap_open
        if trace is not None:
            extend = EXTEND_X if extended > opened else _NO_FLAG
            origin = FROM_X if gap > matched else _NO_FLAG
            trace[slot, row, j - 1] = np.uint8(extend | origin)
    without_y[slot, 0], y[slot, 0] = edge, edge - gap_open


@njit(nogil=True, cache=True)
def correct_reference(
    match: NDArray[np.float32],
    pair: int,
    row: int,
    wanted: int,
    gap_open: np.float32,
    false_margin: np.float32,
    missed_margin: np.float32,
    local: Any,
    slot: int,
    h: NDArray[np.float32],
    x: NDArray[np.float32],
    without_y: NDArray[np.float32],
    y: NDArray[np.float32],
    trace: Any,
) -> None:
    """Redo the cell of the reference partner after `open_row`: neither false nor missed.

    A call of its own: inlined, it makes the compiler spoil the loop of `open_row`.
    """
    j = wanted + 1
    matched = h[slot, j - 1] + match[pair, row, j - 1] + false_margin
    matched += -false_margin - missed_margin
    gap = x[slot, j]
    best = gap if gap > matched else matched
    without_y[slot, j] = best
    if local is not None:
        best = best if best > np.float32(0) else np.float32(0)
    y[slot, j] = best - gap_open
    if trace is not None:
        origin = FROM_X if gap > matched else _NO_FLAG
        trace[slot, row, j - 1] = np.uint8((trace[slot, row, j - 1] & EXTEND_X) | origin)


@njit(nogil=True, cache=True, forceinline=True)
def scan_rows(y: NDArray[np.float32], width: int, gap_extend: np.float32) -> None:
    """Turn what opening a gap leaves, in each column, into Y; in all slots.

    Opening is from H without Y: from a gap it is never better than extending that gap, in float32
    too, since rounding keeps the order. Slots not in use hold numbers that stay finite.
    """
    gap_0 = gap_1 = gap_2 = gap_3 = LOWEST
    opened_0, opened_1, opened_2, opened_3 = y[0, 0], y[1, 0], y[2, 0], y[3, 0]
    for slot in range(SLOTS):
        y[slot, 0] = LOWEST
    for j in range(1, width + 1):
        gap_0 = (gap_0 if gap_0 > opened_0 else opened_0) - gap_extend
        gap_1 = (gap_1 if gap_1 > opened_1 else opened_1) - gap_extend
        gap_2 = (gap_2 if gap_2 > opened_2 else opened_2) - gap_extend
        gap_3 = (gap_3 if gap_3 > opened_3 else opened_3) - gap_extend
        opened_0, opened_1, opened_2, opened_3 = y[0, j], y[1, j], y[2, j], y[3, j]
        y[0, j], y[1, j], y[2, j], y[3, j] = gap_0, gap_1, gap_2, gap_3


@njit(nogil=True, cache=True, forceinline=True)
def close_row(
    row: int,
    width: int,
    gap_open: np.float32,
    local: Any,
    slot: int,
    h: NDArray[np.float32],
    without_y: NDArray[np.float32],
    y: NDArray[np.float32],
    trace: Any,
) -> None:
    """Do what comes after Y: H, and the traceback bits of Y.

    ``without_y`` and ``y`` are as `open_row` and `scan_rows` left them.
    """
    h[slot, 0] = without_y[slot, 0]
    for j in range(1, width + 1):
        before, gap_before = without_y[slot, j - 1], y[slot, j - 1]
        left = gap_before if gap_before > before else before
        best, gap = without_y[slot, j], y[slot, j]
        from_y = gap > best
        best = gap if from_y else best
        if local is not None:
            left = left if left > np.float32(0) else np.float32(0)
            best = best if best > np.float32(0) else np.float32(0)
        h[slot, j] = best
        if trace is not None:
            extend = EXTEND_Y if gap_before > left - gap_open else _NO_FLAG
            flags = trace[slot, row, j - 1]
            flags = np.uint8((flags & EXTEND_X) | FROM_Y) if from_y else flags
            if local is not None:
                flags = flags if best > np.float32(0) else np.uint8((flags & EXTEND_X) | STOP)
            trace[slot, row, j - 1] = np.uint8(flags | extend)


# The flags let the maximum be vectorised; scores are finite and 0 is as good as -0.
@njit(nogil=True, cache=True, fastmath={"nnan", "nsz", "reassoc"})
def note_best(
    h: NDArray[np.float32],
    slot: int,
    m: int,
    done: int,
    free: bool,
    local: Any,
    best: NDArray[np.float32],
    end: NDArray[np.int64],
) -> None:
    """Keep the best end so far, after ``done`` rows: of the last column, or anywhere if local."""
    if local is None:
        if free and h[slot, m] > best[slot]:
            best[slot], end[slot, 0], end[slot, 1] = h[slot, m], done, m
        return
    highest = np.float32(0)
    for j in range(1, m + 1):
        score = h[slot, j]
        highest = score if score > highest else highest
    if highest == np.float32(0) or highest < best[slot]:
        return
    j = 1
    while h[slot, j] < highest:
        j += 1
    if highest > best[slot] or j < end[slot, 1]:
        best[slot], end[slot, 0], end[slot, 1] = highest, done, j
