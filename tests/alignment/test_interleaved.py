"""Both batch kernels give, bit for bit, what `reference.scalar` computes cell by cell.

No tolerance anywhere: both round every operation alike, and break ties alike.
"""

from __future__ import annotations

import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, Margins, align_batch, pairwise, rows
from riboray.alignment.kernels import LOWEST, fill_rows, finish, start_row
from tests.alignment import reference as ref

MODES = ["global", "semiglobal", "local"]

#: In the last, a gap symbol costs less than float32 resolves beside the scores.
GAPS = [(1.0, 0.1), (0.0, 0.0), (1.0, 0.125), (0.0, 0.1), (0.5, 0.0), (3.0, 1e-9)]


def random_reference(rng, lengths_a, lengths_b, width):
    reference = np.full((len(lengths_a), width), -1, np.int32)
    for row, n, m in zip(reference, lengths_a, lengths_b, strict=True):
        count = rng.integers(0, min(n, m) + 1)
        row[np.sort(rng.choice(n, count, replace=False))] = np.sort(
            rng.choice(m, count, replace=False)
        )
    return reference


def random_batch(rng, count, longest, ties):
    """Pairs of any lengths, more than there are slots, padded with what must not matter."""
    lengths_a, lengths_b = (rng.integers(1, longest + 1, count) for _ in range(2))
    widths = lengths_a.max() + rng.integers(0, 3), lengths_b.max() + rng.integers(0, 10)
    match = rng.uniform(-1, 1, (count, *widths)).astype(np.float32)
    if ties:
        match = np.round(match * ties) / np.float32(ties)
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        match[k, n:], match[k, :, m:] = np.nan, np.inf
    return match, lengths_a, lengths_b


def check(rng, batch, gaps, mode, margins):
    """Align a batch by each kernel, and as it comes, part by one and part by the other."""
    match, lengths_a, lengths_b = batch
    reference = None
    if margins is not None:
        reference = random_reference(rng, lengths_a, lengths_b, match.shape[1])
    found = []
    for wide in (1, int(np.median(lengths_b)), 1000):
        with mock.patch.object(pairwise, "_WIDE", wide):
            found.append(
                align_batch(
                    match,
                    lengths_a,
                    lengths_b,
                    GapPenalties(*gaps),
                    reference=reference,
                    margins=Margins(*margins) if margins else None,
                    mode=mode,
                )
            )
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        own = None if reference is None else reference[k, :n]
        score, partners = ref.scalar(match[k, :n, :m], gaps, mode, own, margins or (0.0, 0.0))
        if own is not None:
            score += np.float32(margins[1]) * np.float32((own >= 0).sum())
        for result in found:
            assert result.scores[k] == score
            np.testing.assert_array_equal(result.partners[k, :n], partners)
            assert (result.partners[k, n:] == -1).all()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 11),
    st.sampled_from([0, 1, 4, 10]),
    st.sampled_from(GAPS),
    st.sampled_from(MODES),
    st.sampled_from([None, (0.1, 0.05), (0.25, 0.5), (0.0, 0.0)]),
)
@settings(deadline=None, max_examples=150)
def test_the_same_bits_as_cell_by_cell(seed, count, ties, gaps, mode, margins):
    rng = np.random.default_rng(seed)
    check(rng, random_batch(rng, count, 12, ties), gaps, mode, margins)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("margins", [None, (0.1, 0.05)])
def test_the_same_bits_over_many_vectors(rng, mode, margins):
    match, lengths_a, lengths_b = random_batch(rng, 5, 70, 0)
    lengths_a[0], lengths_b[0] = match.shape[1], match.shape[2]
    match = np.nan_to_num(match, posinf=0.5)
    # Relatives: paths along a diagonal, with gaps.
    for k in range(5):
        at = np.arange(min(match.shape[1:]) - 3)
        match[k, at, at + 3 * (at > 20)] += 0.7
    check(rng, (match, lengths_a, lengths_b), (1.0, 0.1), mode, margins)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", [1, 7, 40])
def test_rows_in_blocks_with_margins(rng, mode, block):
    """`fill_rows`, as long pairs use it, goes on from block to block without a trace of it."""
    match = rng.uniform(-1, 1, (33, 29)).astype(np.float32)
    reference = random_reference(rng, [33], [29], 33)[0]
    h, x = np.empty(30, np.float32), np.empty(30, np.float32)
    free, local = mode != "global", 0 if mode == "local" else None
    costs = np.float32(1), np.float32(0.1)
    start_row(h, x, *costs, free)
    best, end = np.zeros(1, np.float32), np.array([0, 29], np.int64)
    margins = np.float32(0.1), np.float32(0.05)
    for first in range(0, 33, block):
        part = slice(first, first + block)
        state = h, x, best, end
        fill_rows(match[part], first, *costs, free, local, reference[part], *margins, None, *state)
    finish(h, 33, free, local, best, end)
    score, partners = ref.scalar(match, (1.0, 0.1), mode, reference, (0.1, 0.05))
    assert best[0] == score
    aligned = np.flatnonzero(partners >= 0)
    if mode == "local":
        assert end.tolist() == [aligned[-1] + 1, partners[aligned[-1]] + 1]


def test_slots_beyond_the_pairs_stay_finite():
    """Scanned for a long time with a wide pair, idle slots neither overflow nor slow it down."""
    y = np.zeros((rows.SLOTS, 9), np.float32)
    for _ in range(2000):
        rows.scan_rows.py_func(y, 8, np.float32(0.1))
    assert np.isfinite(y).all()
    assert (y[:, 0] == LOWEST).all()


def test_a_scan_is_the_recurrence_of_y(rng):
    """From H - open of every column, of which the scan needs what H is without Y only."""
    gap_open, gap_extend = np.float32(1), np.float32(0.1)
    without_y = rng.uniform(-3, 3, (rows.SLOTS, 40)).astype(np.float32)
    scanned = without_y - gap_open
    rows.scan_rows(scanned, 39, gap_extend)
    for slot in range(rows.SLOTS):
        h, y = without_y[slot, 0], LOWEST
        assert scanned[slot, 0] == LOWEST
        for j in range(1, 40):
            y = max(h - gap_open, y) - gap_extend
            h = max(without_y[slot, j], y)
            assert scanned[slot, j] == y


@pytest.mark.parametrize("wide", [1, 12, 1000])
def test_the_pair_with_a_bad_score_is_named_wherever_it_is_taken_up(rng, monkeypatch, wide):
    monkeypatch.setattr(pairwise, "_WIDE", wide)
    match = rng.uniform(-1, 1, (9, 20, 20)).astype(np.float32)
    lengths = rng.integers(5, 20, 9)
    match[6, lengths[6] - 1, lengths[6] - 1] = np.nan
    with pytest.raises(ValueError, match="pair 6 has a match score"):
        align_batch(match, lengths, lengths)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("name", ["open_row", "close_row"])
def test_passes_without_dependency_are_vector_code(name, trace):
    import llvmlite.binding as llvm
    import numba
    from numba import types

    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("needs a CPU with AVX2")
    single, whole = types.float32, types.int64
    two, three = types.Array(single, 2, "C"), types.Array(single, 3, "C")
    flags = types.Array(types.uint8, 3, "C") if trace else types.none
    signature = {
        "open_row": (three, whole, whole, whole, *[single] * 4, types.none, whole, *[two] * 4),
        "close_row": (whole, whole, single, types.none, whole, *[two] * 3),
    }[name]
    compiled = numba.njit(getattr(rows, name).py_func)  # cached code cannot be inspected
    compiled.compile((*signature, flags))
    (assembly,) = compiled.inspect_asm().values()
    packed = re.findall(r"^\s+(v\w+ps)\s.*%[yz]mm", assembly, re.MULTILINE)  # z with AVX-512
    wanted = {"open_row": "vsubps vaddps vmaxps", "close_row": "vmaxps"}[name].split()
    assert set(wanted) <= set(packed)
