"""The whole encoder for packed sequences, for one thread, without gradients.

A sequence goes through all layers before the next one begins: what stands between two layers stays
in the processor's caches, and nothing is allocated on the way. Tokens are handled in panels of
`LANES`, see `riboray.model.attention_kernels`; a last panel's spare lanes hold numbers without a
meaning that nobody reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from riboray.model.attention_kernels import LOG2_E, attend_head, give, longest_of, products, take
from riboray.model.attention_vectors import (
    LANES,
    add,
    divide,
    exp2,
    fill,
    fma,
    get,
    load,
    maximum,
    multiply,
    put,
    root,
    spread,
    store,
    subtract,
)

__all__ = ["encode_sequences", "parameters_of_layer"]

_ZERO = np.float32(0)
_ONE = np.float32(1)

#: Abramowitz & Stegun 7.1.26: erf(z) = 1 - t (a1 + t (a2 + ...)) exp(-z²), t = 1 / (1 + p z), for
#: z >= 0 with an error below 1.5e-7.
_ERF_P = np.float32(0.3275911)
_ERF = tuple(
    np.float32(a) for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)


@njit(nogil=True, cache=True, error_model="numpy")
def parameters_of_layer(hidden: int, intermediate: int) -> int:
    """Count the parameters of a layer."""
    return 4 * hidden * (hidden + 1) + 2 * hidden * intermediate + intermediate + 5 * hidden


@njit(nogil=True, cache=True, error_model="numpy")
def _normalise(panel: Any, at: int, size: int, weights: Any, scale: int, epsilon: Any) -> None:
    """Apply LayerNorm, in place, with scale and offset from ``scale`` on in the weights."""
    share = fill(np.float32(1 / size))
    total = fill(_ZERO)
    for feature in range(size):
        total = add(total, load(panel, at + feature * LANES))
    mean = multiply(total, share)
    square = fill(_ZERO)
    for feature in range(size):
        centred = subtract(load(panel, at + feature * LANES), mean)
        square = fma(centred, centred, square)
    variance = fma(square, share, fill(epsilon))
    # Divided by an infinite one everything would be 0. It must be seen: inf - inf is NaN.
    variance = add(variance, subtract(variance, variance))
    factor = divide(fill(_ONE), root(variance))
    for feature in range(size):
        place = at + feature * LANES
        centred = multiply(subtract(load(panel, place), mean), factor)
        offset = spread(weights, scale + size + feature)
        store(panel, place, fma(centred, spread(weights, scale + feature), offset))


@njit(nogil=True, cache=True, error_model="numpy")
def _gelu(panel: Any, size: int) -> None:
    """Apply GELU with an erf that is right to 1.5e-7, in place."""
    a1, a2, a3, a4, a5 = _ERF
    half, one, nothing = fill(np.float32(0.5)), fill(_ONE), fill(_ZERO)
    for feature in range(size):
        x = load(panel, feature * LANES)
        magnitude = maximum(x, subtract(nothing, x))
        z = multiply(magnitude, fill(np.float32(0.5**0.5)))
        t = divide(one, fma(z, fill(_ERF_P), one))
        rest = fma(fma(fma(fma(fill(a5), t, fill(a4)), t, fill(a3)), t, fill(a2)), t, fill(a1))
        square = multiply(multiply(z, z), fill(np.float32(-LOG2_E)))
        rest = multiply(multiply(rest, t), exp2(square, nothing))
        negative = multiply(multiply(magnitude, half), rest)
        store(panel, feature * LANES, subtract(maximum(x, nothing), negative))


@njit(nogil=True, cache=True, error_model="numpy")
def _add_panel(panel: Any, other: Any, at: int, size: int) -> None:
    """Add a panel to one that begins at ``at``."""
    for feature in range(size):
        place = at + feature * LANES
        store(other, place, add(load(other, place), load(panel, feature * LANES)))


@njit(nogil=True, cache=True, error_model="numpy")
def _embed(
    ids: Any, start: int, length: int, size: int, weights: Any, tables: Any, epsilon: Any, x: Any
) -> None:
    """Sum the embeddings of a sequence's tokens and normalise them, panel by panel.

    ``tables`` says where in the weights words, positions, token types and the norm begin.
    """
    for token in range((length + LANES - 1) // LANES * LANES):
        here = min(token, length - 1)
        word = tables[0] + ids[start + here] * size
        place = token // LANES * size * LANES + token % LANES
        for feature in range(size):
            number = get(weights, word + feature) + get(weights, tables[1] + here * size + feature)
            put(x, place + feature * LANES, number + get(weights, tables[2] + feature))
    for number in range((length + LANES - 1) // LANES):
        _normalise(x, number * size * LANES, size, weights, tables[3], epsilon)


@njit(nogil=True, cache=True, error_model="numpy")
def _layer(
    length: int,
    size: int,
    heads: int,
    intermediate: int,
    weights: Any,
    at: int,
    epsilon: Any,
    x: Any,
    projected: Any,
    context: Any,
    tile: Any,
    panels: Any,
) -> None:
    """Take one sequence, panels in ``x``, through the layer whose parameters begin at ``at``."""
    row = (length + LANES - 1) // LANES * LANES
    panel, wide = panels[0], panels[1]
    for first in range(0, row, LANES):
        take(x, first * size, LANES, size, LANES, _ONE, panel)
        for part in range(3):  # query, key, value
            begin = at + part * size * (size + 1)
            bias = begin + size * size
            products(size, size, weights, begin, size, 1, panel, weights, bias, None, wide)
            give(wide, 0, size, LANES, projected, part * size * row + first, row)
    head_size = size // heads
    for head in range(heads):
        query = head * head_size * row
        key, value = query + size * row, query + 2 * size * row
        attend_head(
            length,
            head_size,
            projected,
            query,
            key,
            value,
            row,
            context,
            query,
            row,
            None,
            0,
            0,
            tile,
            panel,
        )
    output = at + 3 * size * (size + 1)
    norm = output + size * (size + 1)
    widen = norm + 2 * size
    narrow = widen + intermediate * (size + 1)
    last_norm = narrow + size * (intermediate + 1)
    for first in range(0, row, LANES):
        here = first * size
        take(context, first, row, size, min(LANES, length - first), _ONE, panel)
        bias = output + size * size
        products(size, size, weights, output, size, 1, panel, weights, bias, None, wide)
        _add_panel(wide, x, here, size)
        _normalise(x, here, size, weights, norm, epsilon)
        take(x, here, LANES, size, LANES, _ONE, panel)
        bias = widen + intermediate * size
        products(intermediate, size, weights, widen, size, 1, panel, weights, bias, None, wide)
        _gelu(wide, intermediate)
        bias = narrow + size * intermediate
        products(
            size, intermediate, weights, narrow, intermediate, 1, wide, weights, bias, None, panel
        )
        _add_panel(panel, x, here, size)
        _normalise(x, here, size, weights, last_norm, epsilon)


@njit(nogil=True, cache=True, error_model="numpy")
def _write(x: Any, length: int, size: int, state: Any, start: int) -> None:
    """Write a sequence's panels to rows, a token each."""
    for token in range(length):
        place = token // LANES * size * LANES + token % LANES
        for feature in range(size):
            put(state, (start + token) * size + feature, get(x, place + feature * LANES))


@njit(nogil=True, cache=True, error_model="numpy")
def encode_sequences(
    ids: Any,
    offsets: Any,
    weights: Any,
    tables: Any,
    layers: int,
    heads: int,
    intermediate: int,
    epsilon: Any,
    states: Any,
) -> None:
    """Encode sequences.

    Parameters
    ----------
    ids : ndarray, shape=(T,), dtype=int32
        Token ids, which must be those of the word embeddings.
    offsets : ndarray, shape=(N + 1,), dtype=int64
        Where sequences begin, and where the last one ends: any stretch of a batch.
    weights : ndarray, dtype=float32, flat
        All parameters, as `riboray.model.packed.encode_packed` takes them.
    tables : ndarray, shape=(5,), dtype=int64
        Where in them word, position and token-type embeddings, their norm and the layers begin.
    layers, heads, intermediate, epsilon : int, int, int, float32
        As in the model's configuration.
    states : ndarray, shape=(1 or layers + 1, T, H), dtype=float32
        Receives the last layer's output; or that of the embeddings and every layer.
    """
    size = states.shape[2]
    longest = (longest_of(offsets) + LANES - 1) // LANES * LANES
    x = np.empty(size * longest, np.float32)
    projected = np.empty(3 * size * longest, np.float32)
    context = np.empty(size * longest, np.float32)
    tile = np.empty(longest * LANES, np.float32)
    panels = np.empty((2, max(size, intermediate, 2) * LANES), np.float32)
    per_layer = parameters_of_layer(size, intermediate)
    for number in range(len(offsets) - 1):
        start = offsets[number]
        length = offsets[number + 1] - start
        _embed(ids, start, length, size, weights, tables, epsilon, x)
        for layer in range(layers + 1):
            if layer > 0:
                at = tables[4] + (layer - 1) * per_layer
                _layer(
                    length,
                    size,
                    heads,
                    intermediate,
                    weights,
                    at,
                    epsilon,
                    x,
                    projected,
                    context,
                    tile,
                    panels,
                )
            if layer == layers or len(states) > 1:
                _write(x, length, size, states[min(layer, len(states) - 1)].reshape(-1), start)
