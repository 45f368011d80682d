"""One row of the dynamic programme, in three passes; what it computes is defined in `kernels`.

`open_row` computes all but Y, `scan_row` Y, `close_row` H. In the first and the last no column
waits for the one to its left, so they are vectorised; the scan is sequential, and takes longer than
both (`interleaved` scans several pairs at once).

Arrays have a row, or *slot*, for each pair that is being filled, and are addressed by slot: a slice
would cost two atomic reference counts. The passes are inlined by force: a call would hand over some
forty numbers, which takes as long as thirty columns.
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
    "border",
    "close_row",
    "correct_reference",
    "note_best",
    "open_row",
    "scan_row",
    "start_row",
]

#: Minus infinity, for float32.
LOWEST = np.float32(-1e30)

# Traceback bits of one cell.
FROM_X = np.uint8(1)  # H came from X
FROM_Y = np.uint8(2)  # H came from Y
EXTEND_X = np.uint8(4)  # X extends an open gap
EXTEND_Y = np.uint8(8)  # Y extends an open gap
STOP = np.uint8(16)  # H is 0: a local alignment begins after this cell
_NO_FLAG = np.uint8(0)


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
def scan_row(y: NDArray[np.float32], slot: int, width: int, gap_extend: np.float32) -> None:
    """Turn what opening a gap leaves, in each column, into Y.

    That is of H without Y: opening a gap from a gap is never better than extending it, in float32
    too, since rounding keeps the order. So a column waits for a comparison and a subtraction.
    """
    gap, opened = LOWEST, y[slot, 0]
    y[slot, 0] = LOWEST
    for j in range(1, width + 1):
        gap = (gap if gap > opened else opened) - gap_extend
        opened = y[slot, j]
        y[slot, j] = gap


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

    ``without_y`` and ``y`` are as `open_row` and `scan_row` left them.
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
