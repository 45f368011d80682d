"""Figures of agreement against hand-computed cases and a plain bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from riboray.alignment.columns import aligned_columns
from riboray.evaluation.accuracy import (
    METRICS,
    bootstrap,
    compare,
    interval,
    measure,
    pair_f1,
    tally,
)


def test_a_case_by_hand():
    reference = aligned_columns("ACG-U", "A-GCU").partners  # A-A, G-G, U-U
    predicted = aligned_columns("ACGU-", "AGC-U").partners  # A-A, C-G, G-C
    counts = tally([predicted, reference], [reference, reference])
    assert counts.tolist() == [[1, 3, 3], [3, 3, 3]]
    found = measure(counts)
    assert found["sensitivity"] == pytest.approx(4 / 6)
    assert found["ppv"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx(4 / 6)
    assert found["mean_f1"] == found["sps"] == pytest.approx((1 / 3 + 1) / 2)


def test_micro_and_mean_differ_where_sizes_do():
    counts = np.array([[100, 100, 100], [0, 10, 10]])
    found = measure(counts)
    assert found["f1"] == pytest.approx(200 / 220)
    assert found["mean_f1"] == pytest.approx(0.5)


def test_nothing_to_find_is_not_missed():
    assert measure(np.array([[0, 0, 0]])) == dict.fromkeys(METRICS, 1.0)
    assert measure(np.array([[0, 4, 0]]))["ppv"] == 0
    assert pair_f1(np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1]])).tolist() == [1, 0, 1]
    assert tally([], []).shape == (0, 3)


@st.composite
def some_counts(draw):
    wanted = draw(arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 50)))
    predicted = draw(arrays(np.int64, len(wanted), elements=st.integers(0, 50)))
    share = draw(arrays(np.float64, len(wanted), elements=st.floats(0, 1)))
    common = (np.minimum(wanted, predicted) * share).astype(np.int64)
    return np.column_stack([common, predicted, wanted])


@given(some_counts())
def test_every_metric_lies_between_0_and_1(counts):
    found = measure(counts)
    assert all(0 <= value <= 1 for value in found.values())
    both = sorted((found["sensitivity"], found["ppv"]))
    if counts[:, 1].sum() and counts[:, 2].sum():
        assert both[0] - 1e-12 <= found["f1"] <= both[1] + 1e-12


@given(some_counts(), st.integers(0, 3))
def test_the_bootstrap_is_that_of_units_drawn_one_by_one(counts, seed):
    """The same draws, put together unit by unit; sums of integers and halves differ by rounding."""
    units = np.arange(len(counts)) % 3
    size = len(np.unique(units))
    found = bootstrap([counts], units, 120, seed)[0]
    generator = np.random.default_rng(seed)
    times = generator.multinomial(size, np.full(size, 1 / size), 120)
    for round_, row in enumerate(times[:5]):
        drawn = np.concatenate([np.tile(counts[units == u], (t, 1)) for u, t in enumerate(row)])
        expected = list(measure(drawn).values())
        np.testing.assert_allclose(found[round_], expected, rtol=1e-12, atol=1e-12)


def test_intervals_cover_what_they_promise():
    """Of many samples of a known process, about 95 % of intervals hold its F1."""
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        common = rng.binomial(80, rng.beta(8, 2, size=60))
        counts = np.column_stack([common, np.full(60, 80), np.full(60, 80)])
        drawn = bootstrap([counts], np.arange(60), 300, trial)[0]
        found = interval(drawn[:, METRICS.index("f1")])
        held += found.low <= 0.8 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_units_of_many_pairs_widen_the_interval():
    rng = np.random.default_rng(5)
    families = np.repeat(np.arange(10), 50)
    common = rng.binomial(80, np.repeat(rng.beta(4, 2, size=10), 50))
    counts = np.column_stack([common, np.full(500, 80), np.full(500, 80)])
    column = METRICS.index("f1")
    by_family, by_pair = (
        interval(bootstrap([counts], units, 500, 1)[0][:, column])
        for units in (families, np.arange(500))
    )
    assert by_family.high - by_family.low > 3 * (by_pair.high - by_pair.low)


def test_a_comparison():
    rng = np.random.default_rng(2)
    wanted = np.full(200, 100)
    common = rng.binomial(100, 0.7, 200)
    better = np.column_stack([np.minimum(common + 5, 100), wanted, wanted])
    worse = np.column_stack([common, wanted, wanted])
    units = np.arange(200)
    drawn = bootstrap([better, worse], units, 400, 0)
    found = compare(better, worse, *drawn)
    assert found.difference == pytest.approx(0.05)
    assert found.interval.low == pytest.approx(0.05)  # the same on every draw
    assert (found.better, found.worse, found.equal) == (200, 0, 0)
    assert found.p_bootstrap == pytest.approx(1 / 400)
    assert found.p_wilcoxon < 1e-6
    same = compare(worse, worse, drawn[1], drawn[1])
    assert (same.difference, same.equal, same.p_bootstrap, same.p_wilcoxon) == (0, 200, 1, 1)
