"""Violations against all alignments there are, and against plain dynamic programming.

The alignment is found in float32: where two tie within its rounding, the loss of either is the
maximum up to that rounding, 1e-5 for the short pairs here and 2e-3 for 440 nucleotides.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, Margins, align_batch, gap_costs, interleaved, kernels
from riboray.pretraining import violations as module
from riboray.pretraining.violations import Violations, find_violations, submit_violations
from tests.alignment import reference as ref
from tests.alignment.test_interleaved import random_reference

MARGINS = st.sampled_from([Margins(), Margins(0.3, 0.2), Margins(0, 0)])
FIELDS = ("pair", "first", "second", "sign", "offset")


def losses(match, found):
    """The losses of violations, by the definition of their fields."""
    total = found.offset.astype(float)
    for pair, i, j, sign in zip(found.pair, found.first, found.second, found.sign, strict=True):
        total[pair] += sign * match[pair, i, j]
    return np.maximum(total, 0)


def literal_loss(match, reference, m, margins):
    """Max over all alignments (score + margin) - score(reference), by enumeration."""
    candidates = ref.all_alignments(len(reference), m)
    own = ref.score(match, reference, m)
    return (
        max(
            ref.score(match, p, m) + ref.margin(p, reference, margins.false, margins.missed)
            for p in candidates
        )
        - own
    )


def random_case(seed, count=3, longest=4):
    rng = np.random.default_rng(seed)
    lengths_a, lengths_b = (rng.integers(1, longest + 1, count) for _ in range(2))
    match = rng.uniform(-1, 1, (count, lengths_a.max(), lengths_b.max())).astype(np.float32)
    reference = random_reference(rng, lengths_a, lengths_b, match.shape[1])
    return match, lengths_a, lengths_b, reference


@given(st.integers(0, 100_000), MARGINS)
@settings(deadline=None, max_examples=60)
def test_loss_is_the_literal_maximum(seed, margins):
    match, lengths_a, lengths_b, reference = random_case(seed)
    found = losses(match, find_violations(match, lengths_a, lengths_b, reference, None, margins))
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        wanted = literal_loss(match[k], reference[k, :n], m, margins)
        assert found[k] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("longest", "tolerance"), [(40, 1e-4), (440, 2e-3)])
def test_loss_of_longer_pairs_by_plain_dynamic_programming(longest, tolerance):
    match, lengths_a, lengths_b, reference = random_case(8, 3, longest)
    found = losses(match, find_violations(match, lengths_a, lengths_b, reference))
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        own, augmented = reference[k, :n], match[k, :n, :m].astype(float) + 0.1
        taken = np.flatnonzero(own >= 0)
        augmented[taken, own[taken]] -= 0.15
        best = ref.gotoh(augmented) + 0.05 * len(taken)
        assert found[k] == pytest.approx(best - ref.score(match[k], own, m), abs=tolerance)


@given(st.integers(0, 100_000), MARGINS)
@settings(deadline=None, max_examples=60)
def test_what_is_violated_is_how_best_and_reference_differ(seed, margins):
    match, lengths_a, lengths_b, reference = random_case(seed, count=6, longest=15)
    gaps = GapPenalties(0.7, 0.2)
    found = find_violations(match, lengths_a, lengths_b, reference, gaps, margins)
    best = align_batch(match, lengths_a, lengths_b, gaps, reference=reference, margins=margins)
    aligned, wanted = (
        {(k, i, int(row[i])) for k, row in enumerate(p) for i in np.flatnonzero(row >= 0)}
        for p in (best.partners, reference)
    )
    cells = list(zip(found.pair.tolist(), found.first.tolist(), found.second.tolist(), strict=True))
    signs = dict(zip(cells, found.sign.tolist(), strict=True))
    assert len(signs) == len(cells), "each once"
    assert signs == {**dict.fromkeys(aligned - wanted, 1), **dict.fromkeys(wanted - aligned, -1)}
    assert cells == sorted(cells, key=lambda cell: cell[:2])
    offset = gap_costs(reference, lengths_a, lengths_b, gaps)
    offset -= gap_costs(best.partners, lengths_a, lengths_b, gaps)
    for (k, _, _), sign in signs.items():
        offset[k] += margins.false if sign > 0 else margins.missed
    np.testing.assert_allclose(found.offset, offset, atol=1e-6)
    untouched = np.setdiff1d(np.arange(len(match)), found.pair)
    assert (found.offset[untouched] == 0).all(), "0 exactly where nothing is violated"
    assert found.sign.dtype == found.offset.dtype == np.float32


@given(st.integers(0, 100_000))
@settings(deadline=None, max_examples=25)
def test_signs_are_a_subgradient(seed):
    """Against finite differences of the literal loss, in every match score."""
    match, lengths_a, lengths_b, reference = random_case(seed, count=1)
    n, m = int(lengths_a[0]), int(lengths_b[0])
    found = find_violations(match, lengths_a, lengths_b, reference)
    slopes = np.zeros((n, m))
    np.add.at(slopes, (found.first, found.second), found.sign)
    match, step = match[0].astype(float), 1e-4
    here = literal_loss(match, reference[0], m, Margins())
    for index in np.ndindex(n, m):
        up, down = match.copy(), match.copy()
        up[index] += step
        down[index] -= step
        forward = (literal_loss(up, reference[0], m, Margins()) - here) / step
        backward = (here - literal_loss(down, reference[0], m, Margins())) / step
        # At a kink (two alignments tie within a step) the slopes differ, and any between will do.
        low, high = sorted((forward, backward))
        assert low - 1e-3 <= slopes[index] <= high + 1e-3


def one_cell(score, partner, gaps=None):
    match = np.array([[[score]]], np.float32)
    return losses(match, find_violations(match, [1], [1], np.array([[partner]]), gaps))[0]


def test_zero_exactly_when_the_reference_wins_by_its_margin():
    """One base against one base: the only rival of the match is two gaps, worth -2.2."""
    for cell, wanted in ((-2.0, 0.0), (-2.14, 0.0), (-2.16, 0.01), (-2.3, 0.15)):
        assert one_cell(cell, 0) == pytest.approx(wanted, abs=1e-6)
        assert wanted or one_cell(cell, 0) == 0
    # The reference leaves both unaligned; aligning them must win by more than 0.1 to cost.
    for cell, wanted in ((-2.4, 0.0), (-2.31, 0.0), (-2.2, 0.1), (-2.0, 0.3)):
        assert one_cell(cell, -1) == pytest.approx(wanted, abs=1e-6)
        assert wanted or one_cell(cell, -1) == 0


def test_gap_penalties_are_used():
    assert one_cell(0.5, -1) == pytest.approx(0.5 + 0.1 + 2.2, abs=1e-6)
    assert one_cell(0.5, -1, GapPenalties(0, 0)) == pytest.approx(0.6, abs=1e-6)


def test_a_perfect_model_violates_nothing():
    match = np.full((1, 30, 30), -1, np.float32)
    match[0, np.arange(30), np.arange(30)] = 1
    found = find_violations(match, [30], [30], np.arange(30)[None])
    assert [len(getattr(found, name)) for name in FIELDS] == [0, 0, 0, 0, 1]
    assert found.offset[0] == 0


def assert_equal(one: Violations, other: Violations):
    for name in FIELDS:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@given(st.integers(0, 100_000), st.integers(1, 9), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_threads_find_what_one_finds(seed, count, parts):
    case = random_case(seed, count, 25)
    alone = find_violations(*case)
    with ThreadPoolExecutor(3) as threads:
        assert_equal(submit_violations(threads, parts, *case).result(), alone)
        pending = submit_violations(threads, parts, lambda: case[0], *case[1:])
        assert_equal(pending.result(), alone)


def test_parts_are_of_like_size():
    rng = np.random.default_rng(0)
    cells = rng.integers(100, 200_000, 200)
    starts, stops = module._split(cells, 4)
    assert starts[0] == 0
    assert stops[-1] == len(cells)
    assert starts[1:] == stops[:-1]
    shares = np.array([cells[a:b].sum() for a, b in zip(starts, stops, strict=True)])
    assert np.abs(shares / cells.sum() - 0.25).max() < 0.01
    assert module._split(np.array([5]), 3) == ([0], [1])


def test_the_caller_goes_on_while_scores_are_on_their_way():
    case = random_case(1, 4, 20)
    arrived = threading.Event()

    def scores():
        assert arrived.wait(60)
        return case[0]

    with ThreadPoolExecutor(2) as threads:
        pending = submit_violations(threads, 2, scores, *case[1:])
        arrived.set()  # a call that waited for its threads would never get here
        assert_equal(pending.result(), find_violations(*case))


def test_errors_in_a_thread_say_which_pair():
    match, lengths_a, lengths_b, reference = random_case(2, 8, 20)
    match[6, 0, 0] = np.nan
    with ThreadPoolExecutor(2) as threads:
        pending = submit_violations(threads, 8, match, lengths_a, lengths_b, reference)
        with pytest.raises(ValueError, match="from number 6 on: pair 0 has a match score"):
            pending.result()


def test_kernels_hold_no_lock_of_the_interpreter():
    for kernel in (interleaved.align_interleaved, kernels.align_singly, module._compare_kernel):
        assert kernel.targetoptions["nogil"]
