"""Many pairs at once: one sequence against up to `LANES` others in lockstep, as vector code.

The innermost, contiguous axis of every array is the lane, one target sequence each, so the loop
over lanes has no dependency and LLVM turns it into vector instructions (a test looks at them).
The outer loop runs along the targets. For each of their positions one small matrix product gives
the match scores of all query positions with all lanes, a tile that never leaves the cache; then
one row of the dynamic programme uses it up. So the similarity of a pair is never stored.

Recurrence, ties and end gaps are those of `kernels`; a property test holds both to the same bits.

What keeps the inner loop vectorised (measured with numba 0.68): state that is read and written
lies in arrays of its own; elements are addressed directly, since a slice inside the loop costs two
atomic reference counts; comparisons are written ``t if t > m else m``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.kernels import EXTEND_X, EXTEND_Y, FROM_X, FROM_Y, STOP, walk

__all__ = ["LANES", "STEP", "align_lanes", "align_lanes_by_match", "interleave", "walk_lanes"]

#: Targets in lockstep, at most: they fill the vector units of AVX-512 twice. Half as many take 1.1
#: times as long a target, a quarter 1.4 times; fewer than 32 leave int16 scalar.
LANES = 64

#: Lanes are a multiple of this: a vector of float32 or two.
STEP = 16

#: Multiply-adds of one matrix product at most: OpenBLAS multiplies matrices up to a million
#: without packing them first, half as fast again for these shapes (AVX-512).
_PRODUCT = 1_000_000

_ZERO = np.uint8(0)


@njit(nogil=True, cache=True)
def interleave(
    embeddings: NDArray[np.floating],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    targets: NDArray[np.float32],
) -> None:
    """Lay out targets as ``targets[position, dimension, lane]``, zeros beyond ends.

    Parameters
    ----------
    embeddings : ndarray, shape=(nucleotides, d), dtype=float32 or float16 stored as float32
        Base embeddings of many sequences, one after the other.
    starts, lengths : ndarray, shape=(k,), k <= lanes
        Where each target begins and how long it is.
    targets : ndarray, shape=(at least max(lengths), d, lanes), dtype=float32
        Written to.
    """
    targets[:] = np.float32(0)
    for lane in range(len(starts)):
        start = starts[lane]
        for position in range(lengths[lane]):
            for k in range(embeddings.shape[1]):
                targets[position, k, lane] = embeddings[start + position, k]


@njit(nogil=True, cache=True)
def _multiply(query: Any, target: Any, product: Any) -> None:
    """Compute ``product = query @ target`` in bands of rows small enough for `_PRODUCT`."""
    band = max(16, _PRODUCT // (query.shape[1] * target.shape[1]))
    for start in range(0, query.shape[0], band):
        stop = min(start + band, query.shape[0])
        np.dot(query[start:stop], target, product[start:stop])


@njit(nogil=True, cache=True)
def _quantise(product: Any, match: Any) -> None:
    """Round match scores, scaled already, to whole numbers; halves go up."""
    for i in range(product.shape[0]):
        for lane in range(product.shape[1]):
            match[i, lane] = np.int16(np.floor(product[i, lane] + np.float32(0.5)))


@njit(nogil=True, cache=True)
def _advance(
    match: Any,
    row: int,
    h: Any,
    y: Any,
    left: Any,
    x: Any,
    diagonal: Any,
    gap_open: Any,
    gap_extend: Any,
    border: Any,
    lowest: Any,
    trace: Any,
    row_best: Any,
    row_at: Any,
) -> None:
    """One position of the targets: update ``h`` and ``y`` along the whole query, in place.

    ``trace`` is None for scores only; ``row_best`` is None unless the alignment is local. Both are
    resolved when the function is compiled.
    """
    cast = h.dtype.type
    lanes = h.shape[1]
    for lane in range(lanes):
        diagonal[lane] = h[0, lane]
        h[0, lane] = border
        left[lane] = border
        x[lane] = lowest
        if row_best is not None:
            row_best[lane] = cast(0)
    for i in range(match.shape[0]):
        for lane in range(lanes):
            above = h[i + 1, lane]
            opened_y = cast(above - gap_open)
            open_y = y[i, lane]
            best_y = cast((open_y if open_y > opened_y else opened_y) - gap_extend)
            y[i, lane] = best_y
            opened_x = cast(left[lane] - gap_open)
            open_x = x[lane]
            best_x = cast((open_x if open_x > opened_x else opened_x) - gap_extend)
            x[lane] = best_x
            matched = cast(diagonal[lane] + match[i, lane])
            diagonal[lane] = above
            without_y = best_x if best_x > matched else matched
            best = best_y if best_y > without_y else without_y
            if row_best is not None:
                best = best if best > cast(0) else cast(0)
                row_at[lane] = i if best > row_best[lane] else row_at[lane]
                row_best[lane] = best if best > row_best[lane] else row_best[lane]
            left[lane] = best
            h[i + 1, lane] = best
            if trace is not None:
                extend_x = EXTEND_X if open_x > opened_x else _ZERO
                extend_y = EXTEND_Y if open_y > opened_y else _ZERO
                origin = FROM_X if best_x > matched else _ZERO
                origin = FROM_Y if best_y > without_y else origin
                if row_best is not None:
                    origin = origin if best > cast(0) else STOP
                trace[row, i, lane] = np.uint8(np.uint8(extend_x | extend_y) | origin)


@njit(nogil=True, cache=True)
def _start(
    n: int, gap_open: Any, gap_extend: Any, lowest: Any, free: bool, scores: Any, ends: Any
) -> Any:
    """Make the state before the first position of the targets: h, y, left, x, diagonal."""
    cast = scores.dtype.type
    h = np.empty((n + 1, len(scores)), scores.dtype)
    for i in range(n + 1):
        h[i] = cast(0) if free or i == 0 else cast(-gap_open - gap_extend * cast(i))
    y = np.full((n, len(scores)), lowest, scores.dtype)
    lanes = np.empty((3, len(scores)), scores.dtype)
    scores[:] = cast(0)
    ends[0] = n
    ends[1] = 0
    return h, y, lanes[0], lanes[1], lanes[2]


@njit(nogil=True, cache=True)
def align_lanes(
    query: Any,
    targets: Any,
    lengths: Any,
    gap_open: Any,
    gap_extend: Any,
    lowest: Any,
    free: bool,
    local: Any,
    product: Any,
    match: Any,
    trace: Any,
    scores: Any,
    ends: Any,
) -> None:
    """Align one query with the targets of all lanes, by their embeddings.

    Parameters
    ----------
    query : ndarray, shape=(n, d), dtype=float32
        Base embeddings; for int16 multiplied by `riboray.alignment.columns.SCALE`.
    targets : ndarray, shape=(m, d, lanes), dtype=float32
        From `interleave`.
    lengths : ndarray, shape=(lanes,), dtype=int32
        Target lengths, 0 for a lane that is not used.
    gap_open, gap_extend : float32 or int16
        Penalties; their type is that of the arithmetic.
    lowest : float32 or int16
        Stands for minus infinity.
    free : bool
        Whether end gaps cost nothing (semi-global and local).
    local : object or None
        Not None: local alignment.
    product : ndarray, shape=(n, lanes), dtype=float32
        Working memory for match scores.
    match : ndarray, shape=(n, lanes)
        The same in the type of the arithmetic; for float32 ``product`` itself.
    trace : ndarray, shape=(m, n, lanes), dtype=uint8, or None
        Receives the traceback; None for scores only.
    scores : ndarray, shape=(lanes,)
        Receives the scores, in the type of the arithmetic.
    ends : ndarray, shape=(2, lanes), dtype=int32
        Receives the lengths of the prefixes of query and target at which the alignment ends.
    """
    cast = scores.dtype.type
    state = _start(len(query), gap_open, gap_extend, lowest, free, scores, ends)
    h, y, left, x, diagonal = state
    row_at = np.zeros(len(scores), np.int32)
    row_best = None if local is None else np.zeros(len(scores), scores.dtype)
    for row in range(lengths.max()):
        _multiply(query, targets[row], product)
        if match.itemsize == 2:
            _quantise(product, match)
        border = cast(0) if free else cast(-gap_open - gap_extend * cast(row + 1))
        _advance(
            match,
            row,
            h,
            y,
            left,
            x,
            diagonal,
            gap_open,
            gap_extend,
            border,
            lowest,
            trace,
            row_best,
            row_at,
        )
        _note_ends(row, h, lengths, free, row_best, row_at, scores, ends)


@njit(nogil=True, cache=True)
def align_lanes_by_match(
    match: Any,
    lengths: Any,
    gap_open: Any,
    gap_extend: Any,
    lowest: Any,
    free: bool,
    local: Any,
    trace: Any,
    scores: Any,
    ends: Any,
) -> None:
    """Do what `align_lanes` does from match scores, shape (m, n, lanes): the programme alone."""
    cast = scores.dtype.type
    state = _start(match.shape[1], gap_open, gap_extend, lowest, free, scores, ends)
    h, y, left, x, diagonal = state
    row_at = np.zeros(len(scores), np.int32)
    row_best = None if local is None else np.zeros(len(scores), scores.dtype)
    for row in range(lengths.max()):
        border = cast(0) if free else cast(-gap_open - gap_extend * cast(row + 1))
        _advance(
            match[row],
            row,
            h,
            y,
            left,
            x,
            diagonal,
            gap_open,
            gap_extend,
            border,
            lowest,
            trace,
            row_best,
            row_at,
        )
        _note_ends(row, h, lengths, free, row_best, row_at, scores, ends)


@njit(nogil=True, cache=True)
def _note_ends(
    row: int,
    h: Any,
    lengths: Any,
    free: bool,
    row_best: Any,
    row_at: Any,
    scores: Any,
    ends: Any,
) -> None:
    """Keep the best end seen so far of each lane that still has this row."""
    n = h.shape[0] - 1
    for lane in range(h.shape[1]):
        if row >= lengths[lane]:
            continue
        if row_best is not None:
            if row_best[lane] > scores[lane]:
                scores[lane] = row_best[lane]
                ends[0, lane], ends[1, lane] = row_at[lane] + 1, row + 1
        elif not free:
            if row + 1 == lengths[lane]:
                scores[lane] = h[n, lane]
                ends[1, lane] = row + 1
        else:
            if h[n, lane] > scores[lane]:
                scores[lane] = h[n, lane]
                ends[1, lane] = row + 1
            if row + 1 == lengths[lane]:
                for i in range(n):
                    if h[i, lane] > scores[lane]:
                        scores[lane] = h[i, lane]
                        ends[0, lane], ends[1, lane] = i, row + 1


@njit(nogil=True, cache=True)
def walk_lanes(trace: Any, lengths: Any, ends: Any, partners: Any) -> None:
    """Follow the traceback of every lane that is used.

    Parameters
    ----------
    trace : ndarray, shape=(m, n, lanes), dtype=uint8
        From `align_lanes`.
    lengths : ndarray, shape=(lanes,), dtype=int32
        Target lengths, 0 for a lane that is not used.
    ends : ndarray, shape=(2, lanes), dtype=int32
        From `align_lanes`.
    partners : ndarray, shape=(lanes, n), dtype=int32
        Receives each lane's partners of the query's positions, -1 for none.
    """
    partners[:] = -1
    for lane in range(len(lengths)):
        if lengths[lane] > 0:
            walk(trace[:, :, lane].T, 0, ends[0, lane], ends[1, lane], 0, partners[lane])
