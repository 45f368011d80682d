"""Pairs with match scores of their own, several at a time.

`rows.SLOTS` pairs are filled in turns, row by row. No pair waits for a longer one, since a slot
whose pair is finished takes the next. Three pairs or more of 150 columns take 0.6 of the time that
`kernels.align_singly` takes; below 48 columns a pass is too short to be worth its beginning.

Recurrence, ties and end gaps are those of `kernels`; the result of a pair is the same bits whatever
the others are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.kernels import all_finite, border, finish, start_row, walk
from riboray.alignment.rows import (
    SLOTS,
    close_row,
    correct_reference,
    note_best,
    open_row,
    scan_rows,
)

__all__ = ["align_interleaved"]

#: Floats of a vector register (AVX2): rows are filled up to a multiple of it, as far as there are
#: match scores, which is faster than a remainder. Nothing to the right of a cell enters it.
_VECTOR = 8


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
    state = h, x, without_y, y, trace
    best, end = np.empty(SLOTS, np.float32), np.empty((SLOTS, 2), np.int64)
    pairs, done = np.full(SLOTS, -1), np.zeros(SLOTS, np.int64)
    widths = np.zeros(SLOTS, np.int64)
    taken = finished = 0
    while finished < len(order):
        for slot in range(SLOTS):
            if pairs[slot] < 0:
                if taken == len(order):
                    continue
                pair = order[taken]
                m = lengths_b[pair]
                # Here, not over the whole batch at once: it fetches the pair into the cache.
                if not all_finite(match, pair, lengths_a[pair], m):
                    return pair
                pairs[slot], done[slot] = pair, 0
                taken += 1
                widths[slot] = min((m + _VECTOR - 1) // _VECTOR * _VECTOR, width_b)
                best[slot], end[slot, 0], end[slot, 1] = 0, 0, m
                start_row(h[slot], x[slot], gap_open, gap_extend, free)
            pair, row = pairs[slot], done[slot]
            edge = border(row + 1, gap_open, gap_extend, free)
            costs = gap_open, gap_extend, false_margin
            open_row(match, pair, row, widths[slot], edge, *costs, local, slot, *state)
            if reference is not None:
                wanted = reference[pair, row]
                if wanted >= 0:
                    margins = false_margin, missed_margin
                    where = match, pair, row, wanted
                    correct_reference(*where, gap_open, *margins, local, slot, *state)
        scan_rows(y, widths.max(), gap_extend)
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
            partners[pair] = -1
            walk(trace[slot], 0, end[slot, 0], end[slot, 1], 0, partners[pair])
            pairs[slot], widths[slot] = -1, 0
            finished += 1
    return -1
