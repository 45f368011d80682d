"""The way back through `riboray.model.attention_kernels`: gradients of softmax attention.

The same layout, panels and tiles, but lanes are keys here and the rows of a tile are queries.
Probabilities are computed again from what the way forward kept, two numbers a token and head: that
is faster than writing and reading them, and takes hardly any memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from riboray.model.attention_kernels import (
    LOG2_E,
    five_sums,
    give,
    longest_of,
    mix,
    products,
    take,
)
from riboray.model.attention_vectors import (
    LANES,
    exp2,
    fill,
    fma,
    get,
    load,
    multiply,
    put,
    spread,
    store,
)

__all__ = ["attend_backward"]

_ZERO = np.float32(0)
_ONE = np.float32(1)


@njit(nogil=True, cache=True, error_model="numpy")
def _probabilities(length: int, tile: Any, inverse: Any, at: int) -> None:
    """Make probabilities of shifted scores; ``inverse``, from ``at`` on, has a number a query."""
    shift = fill(_ZERO)
    for i in range(length):
        power = exp2(load(tile, i * LANES), shift)
        store(tile, i * LANES, multiply(power, spread(inverse, at + i)))


@njit(nogil=True, cache=True, error_model="numpy")
def _negative_dots(length: int, size: int, a: Any, b: Any, at: int, row: int, dots: Any) -> None:
    """Compute ``dots[t] = -a[t] . b[t]`` for the features of one head."""
    for token in range(length):
        dots[token] = _ZERO
    for feature in range(size):
        place = at + feature * row
        for token in range(length):
            dots[token] -= get(a, place + token) * get(b, place + token)


@njit(nogil=True, cache=True, error_model="numpy")
def _rows(length: int, size: int, source: Any, at: int, row: int, rows: Any) -> None:
    """Copy a head's tokens to rows of `LANES` features; of a larger head one part after another."""
    for feature in range(size):
        to = feature // LANES * length * LANES + feature % LANES
        for token in range(length):
            put(rows, to + token * LANES, get(source, at + feature * row + token))


@njit(nogil=True, cache=True, error_model="numpy")
def _from_rows(
    length: int, size: int, rows: Any, factor: Any, target: Any, at: int, row: int
) -> None:
    """Undo `_rows`, times a factor."""
    for feature in range(size):
        place = feature // LANES * length * LANES + feature % LANES
        for token in range(length):
            put(target, at + feature * row + token, get(rows, place + token * LANES) * factor)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_keys(length: int, tokens: int, tile: Any, keys: Any, at: int, rows: Any, to: int) -> None:
    """Add the weighted keys of a panel to every query: ``rows[i] += sum tile[i, j] keys[j]``.

    Features are the lanes here, `LANES` of them.
    """
    in_fives = length - length % 5
    for i in range(0, in_fives, 5):
        place = to + i * LANES
        s0, s1 = load(rows, place), load(rows, place + LANES)
        s2, s3 = load(rows, place + 2 * LANES), load(rows, place + 3 * LANES)
        s4 = load(rows, place + 4 * LANES)
        if tokens == LANES:
            s0, s1, s2, s3, s4 = five_sums(
                LANES, tile, i * LANES, LANES, 1, keys, at, s0, s1, s2, s3, s4
            )
        else:
            s0, s1, s2, s3, s4 = five_sums(
                tokens, tile, i * LANES, LANES, 1, keys, at, s0, s1, s2, s3, s4
            )
        store(rows, place, s0)
        store(rows, place + LANES, s1)
        store(rows, place + 2 * LANES, s2)
        store(rows, place + 3 * LANES, s3)
        store(rows, place + 4 * LANES, s4)
    for i in range(in_fives, length):
        s0 = load(rows, to + i * LANES)
        for lane in range(tokens):
            s0 = fma(spread(tile, i * LANES + lane), load(keys, at + lane * LANES), s0)
        store(rows, to + i * LANES, s0)


@njit(nogil=True, cache=True, error_model="numpy")
def _head_gradients(
    length: int,
    size: int,
    source: Any,
    query: int,
    distance: int,
    row: int,
    gradient: Any,
    kept: Any,
    shift_at: int,
    inverse_at: int,
    dots: Any,
    keys: Any,
    rows: Any,
    result: Any,
    tiles: Any,
    panels: Any,
) -> None:
    """Gradients of keys and values of one head, in place; those of queries, not scaled, in rows.

    Queries begin at ``query``, keys ``distance`` further, values twice that; so in ``result``.
    """
    probability, change = tiles[0], tiles[1]
    key_panel, value_panel = panels[0], panels[1]
    scale = np.float32(1 / np.sqrt(size))
    score_scale = np.float32(LOG2_E / np.sqrt(size))
    for first in range(0, length, LANES):
        tokens = min(LANES, length - first)
        key = query + distance + first
        value = key + distance
        take(source, key, row, size, tokens, score_scale, key_panel)
        take(source, value, row, size, tokens, _ONE, value_panel)
        products(length, size, source, query, 1, row, key_panel, kept, shift_at, None, probability)
        _probabilities(length, probability, kept, inverse_at)
        products(length, size, gradient, query, 1, row, value_panel, dots, 0, probability, change)
        mix(length, size, gradient, query, row, probability, fill(_ONE), value_panel)
        give(value_panel, 0, size, tokens, result, value, row)
        mix(length, size, source, query, row, change, fill(scale), key_panel)
        give(key_panel, 0, size, tokens, result, key, row)
        for part in range(0, (size + LANES - 1) // LANES):
            begin = part * length * LANES
            _add_keys(length, tokens, change, keys, begin + first * LANES, rows, begin)


@njit(nogil=True, cache=True, error_model="numpy")
def attend_backward(
    projected: Any,
    offsets: Any,
    heads: int,
    context: Any,
    statistics: Any,
    gradient: Any,
    result: Any,
) -> None:
    """Gradient of `riboray.model.attention_kernels.attend`.

    Parameters
    ----------
    projected, offsets, heads, context, statistics
        As `attend` took and left them.
    gradient : ndarray, shape=(A·D, T), dtype=float32, C-contiguous
        Gradient with respect to ``context``.
    result : ndarray, shape=(3·A·D, T), dtype=float32
        Receives the gradient with respect to ``projected``.
    """
    hidden, total = context.shape
    size = hidden // heads
    width = (size + LANES - 1) // LANES * LANES
    longest = longest_of(offsets)
    source, kept, target = projected.reshape(-1), statistics.reshape(-1), result.reshape(-1)
    outward, inward = context.reshape(-1), gradient.reshape(-1)
    tiles = np.empty((2, longest * LANES), np.float32)
    panels = np.empty((2, size * LANES), np.float32)
    dots = np.empty(longest, np.float32)
    keys, rows = np.zeros((2, longest * width), np.float32)
    scale = np.float32(1 / np.sqrt(size))
    for number in range(len(offsets) - 1):
        start = offsets[number]
        length = offsets[number + 1] - start
        for head in range(heads):
            query = head * size * total + start
            _negative_dots(length, size, outward, inward, query, total, dots)
            _rows(length, size, source, query + hidden * total, total, keys)
            rows[:] = _ZERO
            _head_gradients(
                length,
                size,
                source,
                query,
                hidden * total,
                total,
                inward,
                kept,
                head * total + start,
                (heads + head) * total + start,
                dots,
                keys,
                rows,
                target,
                tiles,
                panels,
            )
            _from_rows(length, size, rows, scale, target, query, total)
