"""Softmax attention within sequences, for one thread.

Numbers stand feature by feature, shape (features, tokens): a feature of `LANES` neighbouring tokens
is one vector, and nothing needs transposing.

A *panel* is a copy of the features of up to `LANES` tokens, shape (features, LANES). A *tile* holds
one vector for every token of a sequence: its products with the tokens of a panel. A tile of 440
tokens is 28 KB: it stays in the cache nearest to the processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from riboray.model.attention_vectors import (
    LANES,
    add,
    divide,
    exp2,
    fill,
    fma,
    get,
    load,
    load_some,
    maximum,
    multiply,
    put,
    round_whole,
    spread,
    store,
    subtract,
)

__all__ = [
    "LOG2_E",
    "attend",
    "attend_head",
    "five_sums",
    "give",
    "longest_of",
    "mix",
    "products",
    "take",
]

LOG2_E = 1.4426950408889634

#: `exp2` cannot take off a maximum of a larger magnitude.
_LARGE = np.float32(2.0**20)

#: Tokens whose sum is taken for itself: sums of sums round less than one long sum.
STRETCH = 64

_ZERO = np.float32(0)
_ONE = np.float32(1)


@njit(nogil=True, cache=True, error_model="numpy")
def longest_of(offsets: Any) -> int:
    """Return the largest number of tokens of a sequence."""
    longest = 0
    for number in range(len(offsets) - 1):
        longest = max(longest, offsets[number + 1] - offsets[number])
    return longest


@njit(nogil=True, cache=True, error_model="numpy")
def take(source: Any, at: int, row: int, size: int, tokens: int, factor: Any, panel: Any) -> None:
    """Copy up to `LANES` tokens to a panel, times a factor; lanes to spare are zero.

    Parameters
    ----------
    source : ndarray, dtype=float32, flat
        Has the first feature of the first token at ``at``, its next feature ``row`` further.
    """
    for feature in range(size):
        place = at + feature * row
        numbers = load(source, place) if tokens >= LANES else load_some(source, place, tokens)
        store(panel, feature * LANES, multiply(numbers, fill(factor)))


@njit(nogil=True, cache=True, error_model="numpy")
def give(panel: Any, at: int, size: int, tokens: int, target: Any, to: int, row: int) -> None:
    """Copy a panel back; lanes to spare are left out, for there the next sequence may begin."""
    for feature in range(size):
        if tokens >= LANES:
            store(target, to + feature * row, load(panel, at + feature * LANES))
        else:
            for lane in range(tokens):
                put(target, to + feature * row + lane, get(panel, at + feature * LANES + lane))


@njit(nogil=True, cache=True, error_model="numpy")
def five_sums(
    size: int,
    source: Any,
    at: int,
    step: int,
    row: int,
    panel: Any,
    panel_at: int,
    s0: Any,
    s1: Any,
    s2: Any,
    s3: Any,
    s4: Any,
) -> Any:
    """Add the products of five tokens with those of a panel to five vectors, and return them.

    Five sums fill ten AVX2 registers, which hide how long a multiplication takes.
    """
    p1, p2, p3, p4 = at + step, at + 2 * step, at + 3 * step, at + 4 * step
    for feature in range(size):
        numbers = load(panel, panel_at + feature * LANES)
        place = feature * row
        s0 = fma(spread(source, at + place), numbers, s0)
        s1 = fma(spread(source, p1 + place), numbers, s1)
        s2 = fma(spread(source, p2 + place), numbers, s2)
        s3 = fma(spread(source, p3 + place), numbers, s3)
        s4 = fma(spread(source, p4 + place), numbers, s4)
    return s0, s1, s2, s3, s4


@njit(nogil=True, cache=True, error_model="numpy")
def products(
    length: int,
    size: int,
    source: Any,
    at: int,
    step: int,
    row: int,
    panel: Any,
    start: Any,
    start_at: int,
    factors: Any,
    tile: Any,
) -> Any:
    """Multiply tokens with all tokens of a panel: ``tile[t] = start[t] + source[t] . panel``.

    Parameters
    ----------
    length, size : int
        Tokens (or outputs of a dense layer) and features.
    source : ndarray, dtype=float32, flat
        Begins at ``at``; the next token is ``step`` further, the next feature ``row``.
    start : ndarray, dtype=float32, flat, or None
        A number a token, from ``start_at`` on; None stands for zeros.
    factors : ndarray, dtype=float32, flat, or None
        A tile that multiplies the result. Whether these two are None is known when compiling.

    Returns
    -------
    vector
        The largest products of each lane.
    """
    best = fill(np.float32(-np.inf))
    in_fives = length - length % 5
    for j in range(0, in_fives, 5):
        if start is None:
            s0 = s1 = s2 = s3 = s4 = fill(_ZERO)
        else:
            s0, s1 = spread(start, start_at + j), spread(start, start_at + j + 1)
            s2, s3 = spread(start, start_at + j + 2), spread(start, start_at + j + 3)
            s4 = spread(start, start_at + j + 4)
        place = at + j * step
        if size == 10:  # RNABERT's heads: with the size known, the loop is unrolled
            s0, s1, s2, s3, s4 = five_sums(
                10, source, place, step, row, panel, 0, s0, s1, s2, s3, s4
            )
        else:
            s0, s1, s2, s3, s4 = five_sums(
                size, source, place, step, row, panel, 0, s0, s1, s2, s3, s4
            )
        to = j * LANES
        if factors is not None:
            s0, s1 = multiply(s0, load(factors, to)), multiply(s1, load(factors, to + LANES))
            s2 = multiply(s2, load(factors, to + 2 * LANES))
            s3 = multiply(s3, load(factors, to + 3 * LANES))
            s4 = multiply(s4, load(factors, to + 4 * LANES))
        store(tile, to, s0)
        store(tile, to + LANES, s1)
        store(tile, to + 2 * LANES, s2)
        store(tile, to + 3 * LANES, s3)
        store(tile, to + 4 * LANES, s4)
        best = maximum(best, maximum(maximum(s0, s1), maximum(maximum(s2, s3), s4)))
    for j in range(in_fives, length):
        s0 = fill(_ZERO) if start is None else spread(start, start_at + j)
        for feature in range(size):
            place = at + j * step + feature * row
            s0 = fma(spread(source, place), load(panel, feature * LANES), s0)
        if factors is not None:
            s0 = multiply(s0, load(factors, j * LANES))
        store(tile, j * LANES, s0)
        best = maximum(best, s0)
    return best


@njit(nogil=True, cache=True, error_model="numpy")
def mix(
    length: int, size: int, source: Any, at: int, row: int, tile: Any, factor: Any, panel: Any
) -> None:
    """Sum tokens with the weights of a tile: ``panel = factor * sum over t of source[t] tile[t]``.

    ``factor`` is a vector. Five features at a time; a last group may repeat a feature.
    """
    for feature in range(0, size, 5):
        f1, f2 = min(feature + 1, size - 1), min(feature + 2, size - 1)
        f3, f4 = min(feature + 3, size - 1), min(feature + 4, size - 1)
        p0, p1, p2 = at + feature * row, at + f1 * row, at + f2 * row
        p3, p4 = at + f3 * row, at + f4 * row
        t0 = t1 = t2 = t3 = t4 = fill(_ZERO)
        for begin in range(0, length, STRETCH):
            s0 = s1 = s2 = s3 = s4 = fill(_ZERO)
            for j in range(begin, min(begin + STRETCH, length)):
                weight = load(tile, j * LANES)
                s0 = fma(spread(source, p0 + j), weight, s0)
                s1 = fma(spread(source, p1 + j), weight, s1)
                s2 = fma(spread(source, p2 + j), weight, s2)
                s3 = fma(spread(source, p3 + j), weight, s3)
                s4 = fma(spread(source, p4 + j), weight, s4)
            t0, t1, t2, t3, t4 = add(t0, s0), add(t1, s1), add(t2, s2), add(t3, s3), add(t4, s4)
        store(panel, feature * LANES, multiply(t0, factor))
        store(panel, f1 * LANES, multiply(t1, factor))
        store(panel, f2 * LANES, multiply(t2, factor))
        store(panel, f3 * LANES, multiply(t3, factor))
        store(panel, f4 * LANES, multiply(t4, factor))


@njit(nogil=True, cache=True, error_model="numpy")
def _exponentials(length: int, tile: Any, best: Any, tokens: int, panel: Any) -> Any:
    """Replace a tile by ``2 ** (tile - shift)``, with a shift near its maximum.

    Returns the shift and the sums of each lane. The shift is whole, which saves a subtraction,
    unless scores of a size that nobody should see forbid it: the same whatever the other lanes.
    """
    store(panel, 0, best)
    largest = _ZERO
    for lane in range(tokens):
        largest = max(largest, abs(get(panel, lane)))
    total = fill(_ZERO)
    if largest > _LARGE:
        for j in range(length):
            power = exp2(subtract(load(tile, j * LANES), best), fill(_ZERO))
            store(tile, j * LANES, power)
            total = add(total, power)
        return best, total
    shift = round_whole(best)
    for begin in range(0, length, STRETCH):
        part = fill(_ZERO)
        for j in range(begin, min(begin + STRETCH, length)):
            power = exp2(load(tile, j * LANES), shift)
            store(tile, j * LANES, power)
            part = add(part, power)
        total = add(total, part)
    return shift, total


@njit(nogil=True, cache=True, error_model="numpy")
def attend_head(
    length: int,
    size: int,
    source: Any,
    query: int,
    key: int,
    value: int,
    row: int,
    target: Any,
    to: int,
    target_row: int,
    statistics: Any,
    shift_at: int,
    inverse_at: int,
    tile: Any,
    panel: Any,
) -> None:
    """Attention of one head of one sequence.

    Parameters
    ----------
    length, size : int
        Tokens and features of the head.
    source : ndarray, dtype=float32, flat
        Holds queries, keys and values of the sequence, beginning at ``query``, ``key`` and
        ``value``; the next feature is ``row`` further.
    target : ndarray, dtype=float32, flat
        Receives the result from ``to`` on, features ``target_row`` apart.
    statistics : ndarray, dtype=float32, flat, or None
        Receives what the way back needs: of every token the shift of its scores, negative (from
        ``shift_at``), and one over the sum of its exponentials (from ``inverse_at``).
    tile, panel : ndarray, dtype=float32, flat
        Working memory: ``length * LANES`` and ``max(size, 2) * LANES`` numbers.
    """
    scale = np.float32(LOG2_E / np.sqrt(size))
    for first in range(0, length, LANES):
        tokens = min(LANES, length - first)
        take(source, query + first, row, size, tokens, scale, panel)
        best = products(length, size, source, key, 1, row, panel, None, 0, None, tile)
        shift, total = _exponentials(length, tile, best, tokens, panel)
        inverse = divide(fill(_ONE), total)
        if statistics is not None:
            store(panel, 0, subtract(fill(_ZERO), shift))
            store(panel, LANES, inverse)
            give(panel, 0, 1, tokens, statistics, shift_at + first, 0)
            give(panel, LANES, 1, tokens, statistics, inverse_at + first, 0)
        mix(length, size, source, value, row, tile, inverse, panel)
        give(panel, 0, size, tokens, target, to + first, target_row)


@njit(nogil=True, cache=True, error_model="numpy")
def attend(projected: Any, offsets: Any, heads: int, context: Any, statistics: Any) -> None:
    """Attention within every sequence of a batch.

    Parameters
    ----------
    projected : ndarray, shape=(3·A·D, T), dtype=float32, C-contiguous
        Queries, keys and values, each head by head.
    offsets : ndarray, shape=(N + 1,), dtype=int64
        Where sequences begin, and where the last one ends: any stretch of a batch.
    heads : int
        A.
    context : ndarray, shape=(A·D, T), dtype=float32
        Receives the result.
    statistics : ndarray, shape=(2, A, T), dtype=float32
        Receives what `riboray.model.attention_backward.attend_backward` needs of the softmax.
    """
    hidden, total = context.shape
    size = hidden // heads
    source, target, kept = projected.reshape(-1), context.reshape(-1), statistics.reshape(-1)
    tile = np.empty(longest_of(offsets) * LANES, np.float32)
    panel = np.empty(max(size, 2) * LANES, np.float32)
    for number in range(len(offsets) - 1):
        start = offsets[number]
        for head in range(heads):
            query = head * size * total + start
            attend_head(
                offsets[number + 1] - start,
                size,
                source,
                query,
                query + hidden * total,
                query + 2 * hidden * total,
                total,
                target,
                query,
                total,
                kept,
                head * total + start,
                (heads + head) * total + start,
                tile,
                panel,
            )
