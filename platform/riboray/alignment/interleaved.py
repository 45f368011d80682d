"""Pairs with match scores of their own, `SLOTS` at a time.

Of a row of the dynamic programme only Y has to be computed one column after the other, and each
column then waits for the subtraction and the comparison of the one before. So `SLOTS` pairs are
filled in turns, row by row, and their Ys are scanned in one loop: four chains of dependent
operations in the time of one. The rest of a row is vectorised along the row, whatever the number of
pairs; no pair waits for a longer one, since a slot whose pair is finished takes the next.

Recurrence, ties and end gaps are those of `kernels`; the result of a pair is the same bits whatever
the others are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.kernels import finish, walk
from riboray.alignment.rows import (
    LOWEST,
    border,
    close_row,
    correct_reference,
    note_best,
    open_row,
    start_row,
)

__all__ = ["SLOTS", "align_interleaved"]

#: Pairs filled in turns. The scan of four keeps the ports busy; more would crowd the L1 cache.
SLOTS = 4

#: Floats of a vector register (AVX2): rows are filled up to a multiple of it, as far as there are
#: match scores, which is faster than a remainder. Nothing to the right of a cell enters it.
_VECTOR = 8

_LARGEST = np.float32(np.finfo(np.float32).max)


@njit(nogil=True, cache=True)
def _all_finite(match: NDArray[np.float32], pair: int, n: int, m: int) -> bool:
    bad = 0
    for i in range(n):
        for j in range(m):
            bad |= not np.abs(match[pair, i, j]) <= _LARGEST
    return bad == 0


@njit(nogil=True, cache=True, forceinline=True)
def _scan_rows(y: NDArray[np.float32], width: int, gap_extend: np.float32) -> None:
    """Do what `rows.scan_row` does, in all slots; those not in use hold finite numbers."""
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


@njit(nogil=True, cache=True)
def align_interleaved(
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
    """Align the pairs of a padded batch; see `riboray.alignment.align_batch`.

    ``order``, shape (n,), is the order in which slots take up pairs: neighbours of like length
    waste least. Memory beside the arguments: traceback of `SLOTS` pairs, a byte a cell. Returns -1
    or a pair with a match score that is NaN or infinite, at which the work ends.
    """
    width_a, width_b = match.shape[1], match.shape[2]
    room = (width_b + _VECTOR - 1) // _VECTOR * _VECTOR
    trace = np.empty((min(SLOTS, len(order)), width_a, room), np.uint8)
    h = np.empty((SLOTS, room + 1), np.float32)
    x, without_y, y = np.empty_like(h), np.empty_like(h), np.zeros_like(h)
    best, end = np.empty(SLOTS, np.float32), np.empty((SLOTS, 2), np.int64)
    pairs, done = np.full(SLOTS, -1), np.zeros(SLOTS, np.int64)
    widths = np.zeros(SLOTS, np.int64)
    partners[:] = -1
    taken = finished = 0
    while finished < len(order):
        for slot in range(SLOTS):
            if pairs[slot] < 0:
                if taken == len(order):
                    continue
                pair = order[taken]
                m = lengths_b[pair]
                # Here, not over the whole batch at once: it fetches the pair into the cache.
                if not _all_finite(match, pair, lengths_a[pair], m):
                    return pair
                pairs[slot], done[slot] = pair, 0
                taken += 1
                widths[slot] = min((m + _VECTOR - 1) // _VECTOR * _VECTOR, width_b)
                best[slot], end[slot, 0], end[slot, 1] = 0, 0, m
                start_row(h[slot], x[slot], gap_open, gap_extend, free)
            pair, row = pairs[slot], done[slot]
            open_row(
                match,
                pair,
                row,
                widths[slot],
                border(row + 1, gap_open, gap_extend, free),
                gap_open,
                gap_extend,
                false_margin,
                local,
                slot,
                h,
                x,
                without_y,
                y,
                trace,
            )
            if reference is not None:
                wanted = reference[pair, row]
                if wanted >= 0:
                    correct_reference(
                        match,
                        pair,
                        row,
                        wanted,
                        gap_open,
                        false_margin,
                        missed_margin,
                        local,
                        slot,
                        h,
                        x,
                        without_y,
                        y,
                        trace,
                    )
        _scan_rows(y, widths.max(), gap_extend)
        for slot in range(SLOTS):
            pair = pairs[slot]
            if pair < 0:
                continue
            close_row(done[slot], widths[slot], gap_open, local, slot, h, without_y, y, trace)
            done[slot] += 1
            n, m = lengths_a[pair], lengths_b[pair]
            note_best(h, slot, m, done[slot], free, local, best, end)
            if done[slot] < n:
                continue
            finish(h[slot, : m + 1], n, free, local, best[slot : slot + 1], end[slot])
            scores[pair] = best[slot]
            walk(trace[slot], 0, end[slot, 0], end[slot, 1], 0, partners[pair])
            pairs[slot], widths[slot] = -1, 0
            finished += 1
    return -1
