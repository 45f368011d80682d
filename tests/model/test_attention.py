"""Packed attention against plain PyTorch in float64, and what must never matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from riboray.model.attention import over_sequences, packed_attention
from riboray.model.attention_vectors import LANES, exp2, fill, load, store

#: Of the largest number of the result. Scores of normally distributed queries and keys are sums of
#: up to 20 products of order 1, so they, and exponentials, are right to some 1e-6; gradients sum up
#: to 440 such terms, whose errors partly cancel. Measured: 1e-6.
TOLERANCE = 1e-5

#: RNABERT's heads, and sizes that neither the vectors nor the groups of five divide.
SHAPES = [(12, 10), (4, 6), (2, 17), (3, 1), (1, 37)]


def plain(projected, offsets, heads):
    """Attention by its definition, sequence by sequence."""
    parts = []
    for start, stop in pairwise(offsets):
        size = len(projected) // (3 * heads)
        here = projected[:, start:stop].view(3, heads, size, stop - start)
        query, key, value = here.transpose(2, 3)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        parts.append((torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts, 1)


def make(lengths, shape, seed, scale=1.0):
    heads, size = shape
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    generator = torch.Generator().manual_seed(seed)
    projected = torch.randn(3 * heads * size, int(offsets[-1]), generator=generator) * scale
    gradient = torch.randn(heads * size, int(offsets[-1]), generator=generator)
    return projected, gradient, offsets


def both_ways(attention, projected, gradient, offsets, heads):
    projected = projected.clone().requires_grad_()
    context = attention(projected, offsets, heads)
    context.backward(gradient)
    return context.detach(), projected.grad


def relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max()) if wanted.numel() else 0.0


@given(
    st.lists(st.integers(0, 70) | st.sampled_from([15, 16, 17, 440]), min_size=1, max_size=6),
    st.sampled_from(SHAPES),
    st.integers(0, 2**32),
)
@example([1], (12, 10), 0)
@example([440, 1, 439], (12, 10), 1)
@example([0, 3, 0], (12, 10), 2)
@settings(max_examples=40, deadline=None)
def test_equals_the_definition_both_ways(lengths, shape, seed):
    projected, gradient, offsets = make(lengths, shape, seed)
    found = both_ways(packed_attention, projected, gradient, offsets, shape[0])
    wanted = both_ways(plain, projected.double(), gradient.double(), offsets, shape[0])
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) <= TOLERANCE


@pytest.mark.parametrize("scale", [5.0, 50.0])
def test_large_scores(scale):
    """Scores of hundreds and ten thousands: as right as their own rounding lets anyone be."""
    projected, gradient, offsets = make([50, 33], (12, 10), 3, scale)
    found, slope = both_ways(packed_attention, projected, gradient, offsets, 12)
    wanted, wanted_slope = both_ways(plain, projected.double(), gradient.double(), offsets, 12)
    largest = 10**0.5 * (4 * scale) ** 2  # four standard deviations
    rounding = largest * 2**-24 * 10
    assert relative(found, wanted) <= max(TOLERANCE, rounding)
    assert relative(slope, wanted_slope) <= max(TOLERANCE, rounding)


def test_enormous_scores_choose_one_key():
    """Scores far beyond what a float32 can tell apart from its neighbours, yet exact here."""
    size, length = 10, 20
    projected = torch.zeros(3 * size, length)
    projected[0] = 2.0**20
    projected[size] = torch.arange(length) * 2.0**10  # scores up to 6e9
    projected[2 * size :] = torch.randn(size, length, generator=torch.Generator().manual_seed(0))
    gradient = torch.ones(size, length)
    found, slope = both_ways(packed_attention, projected, gradient, np.array([0, length]), 1)
    assert torch.equal(found, projected[2 * size :, -1:].expand(size, length))
    assert torch.equal(slope[2 * size :, -1], torch.full((size,), float(length)))
    assert (slope[2 * size :, :-1] < 1e-30).all()  # the smallest power is no zero
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_finite_stays_in_its_sequence(value, part):
    lengths, heads = [20, 5, 21], 12
    projected, gradient, offsets = make(lengths, (heads, 10), 4)
    clean = both_ways(packed_attention, projected, gradient, offsets, heads)
    projected[part * 120 + 7, offsets[1] + 2] = value
    dirty = both_ways(packed_attention, projected, gradient, offsets, heads)
    inside = torch.zeros(int(offsets[-1]), dtype=torch.bool)
    inside[offsets[1] : offsets[2]] = True
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a[:, ~inside], b[:, ~inside])
        assert not torch.isfinite(b[:, inside]).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_run_gives_the_same_bits(threads):
    projected, gradient, offsets = make([300, 1, 16, 150, 33, 250], (12, 10), 5)
    first = both_ways(packed_attention, projected, gradient, offsets, 12)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = both_ways(packed_attention, projected, gradient, offsets, 12)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)


def test_a_sequence_does_not_depend_on_its_neighbours():
    projected, gradient, offsets = make([30, 17, 64], (12, 10), 6)
    together = both_ways(packed_attention, projected, gradient, offsets, 12)
    for start, stop in pairwise(offsets):
        here = slice(start, stop)
        alone = both_ways(
            packed_attention, projected[:, here], gradient[:, here], np.array([0, stop - start]), 12
        )
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[:, here], b)


def test_numbers_that_do_not_lie_in_a_row():
    projected, gradient, offsets = make([9, 20], (12, 10), 7)
    wanted = both_ways(packed_attention, projected, gradient, offsets, 12)
    scattered = projected.t().contiguous().t()
    found = both_ways(packed_attention, scattered, gradient.t().contiguous().t(), offsets, 12)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("offsets", "change", "message"),
    [
        ([0, 4], lambda x: x, "rise from 0 to 5"),
        ([1, 5], lambda x: x, "rise from 0 to 5"),
        ([0, 6, 5], lambda x: x, "rise from 0 to 5"),
        ([0.0, 5.0], lambda x: x, "int64"),
        ([0, 5], lambda x: x.double(), "360 torch.float64"),
        ([0, 5], lambda x: x[1:], "359 torch.float32"),
    ],
)
def test_what_would_reach_beyond_the_arrays_is_refused(offsets, change, message):
    projected, _, _ = make([5], (12, 10), 9)
    with pytest.raises(ValueError, match=message):
        packed_attention(change(projected), np.array(offsets), 12)


def test_second_derivatives_are_refused():
    projected, gradient, offsets = make([5], (12, 10), 8)
    projected.requires_grad_()
    gradient.requires_grad_()
    context = packed_attention(projected, offsets, 12)
    (slope,) = torch.autograd.grad(context, projected, gradient, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@given(st.lists(st.integers(0, 440), max_size=30), st.integers(1, 9), st.sampled_from([0, 200]))
@settings(max_examples=60, deadline=None)
def test_threads_share_all_sequences(lengths, threads, cost):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    parts = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        over_sequences(parts.append, offsets, cost)
    finally:
        torch.set_num_threads(before)
    parts.sort(key=lambda part: (part[0], part[-1]))
    assert len(parts) <= threads
    assert parts[0][0] == 0
    assert parts[-1][-1] == offsets[-1]
    assert sum(len(part) - 1 for part in parts) == len(lengths)
    assert np.concatenate([part[:-1] for part in parts]).tolist() == offsets[:-1].tolist()


@njit
def _exp2(x, shift, result):
    for i in range(0, len(x), LANES):
        store(result, i, exp2(load(x, i), fill(shift)))


@pytest.mark.parametrize("shift", [0.0, 7.0, -1000.0, 2.0**20])
def test_powers_of_two_are_right_to_2e_7(shift):
    x = (np.linspace(-126, 126, LANES * 100_000) + shift).astype(np.float32)
    found = np.empty_like(x)
    _exp2(x, np.float32(shift), found)
    assert np.abs(found / np.exp2(x.astype(np.float64) - shift) - 1).max() <= 2e-7


def test_powers_of_two_at_the_edges():
    x = np.array([-1e30, -np.inf, -127, np.nan, np.inf, *[0] * 11], np.float32)
    found = np.empty_like(x)
    _exp2(x, np.float32(0), found)
    assert (found[:3] == 2.0**-126).all()
    assert np.isnan(found[3:5]).all()
    assert (found[5:] == 1).all()
