"""The batch kernel against plain references.

Tolerance: float32 sums of at most n + m terms, each at most about 1.2, have an error below
(n + m) * 1.2 * 6e-8 * (n + m) / 2; 1e-4 covers lengths up to 40 ten times over, 2e-3 covers 440.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from riboray.alignment import GapPenalties, Margins, align_batch, gap_costs
from riboray.errors import ConfigError
from tests.alignment import reference as ref

TOLERANCE = 1e-4


@st.composite
def batches(draw, ties=False):
    count, width_a, width_b = (draw(st.integers(1, k)) for k in (4, 12, 12))
    elements = st.integers(-4, 4) if ties else st.floats(-1, 1, width=32)
    match = draw(hnp.arrays(np.float32, (count, width_a, width_b), elements=elements))
    lengths_a = draw(hnp.arrays(np.int32, count, elements=st.integers(1, width_a)))
    lengths_b = draw(hnp.arrays(np.int32, count, elements=st.integers(1, width_b)))
    return (match / 4 if ties else match), lengths_a, lengths_b


GAPS = st.builds(GapPenalties, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.1, 0.4]))


MODES = st.sampled_from(["global", "semiglobal", "local"])


def check(match, lengths_a, lengths_b, gaps, mode):
    result = align_batch(match, lengths_a, lengths_b, gaps, mode=mode)
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        partners = result.partners[k]
        aligned = partners[partners >= 0]
        assert (np.diff(aligned) > 0).all(), "columns must run forward"
        assert (partners[n:] == -1).all()
        assert aligned.size == 0 or aligned[-1] < m
        best = ref.gotoh(match[k, :n, :m], gaps.open, gaps.extend, mode)
        assert result.scores[k] == pytest.approx(best, abs=TOLERANCE)
        rescored = ref.score(match[k], partners[:n], m, gaps.open, gaps.extend, mode)
        assert rescored == pytest.approx(result.scores[k], abs=TOLERANCE)
        cost = gap_costs(partners[None], [n], [m], gaps, mode)[0]
        cells = sum(float(match[k, i, j]) for i, j in enumerate(partners[:n]) if j >= 0)
        assert cells - cost == pytest.approx(rescored, abs=1e-6)


@given(batches(), GAPS, MODES)
@settings(deadline=None)
def test_equals_plain_gotoh(batch, gaps, mode):
    check(*batch, gaps, mode)


@given(batches(ties=True), GAPS, MODES)
@settings(deadline=None)
def test_equals_plain_gotoh_with_ties(batch, gaps, mode):
    check(*batch, gaps, mode)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000), MODES)
@settings(deadline=None, max_examples=60)
def test_no_alignment_at_all_is_better(n, m, seed, mode):
    match = np.random.default_rng(seed).uniform(-1, 1, (1, n, m)).astype(np.float32)
    best = max(ref.score(match[0], p, m, mode=mode) for p in ref.all_alignments(n, m))
    found = align_batch(match, [n], [m], mode=mode).scores[0]
    assert found == pytest.approx(best, abs=TOLERANCE)


def test_unknown_mode():
    with pytest.raises(ConfigError, match="known are global, semiglobal, local"):
        align_batch(np.zeros((1, 2, 2)), [2], [2], mode="glocal")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_loss_augmented_maximum_is_exact(n, m, seed):
    rng = np.random.default_rng(seed)
    match = rng.uniform(-1, 1, (1, n, m)).astype(np.float32)
    candidates = list(ref.all_alignments(n, m))
    reference = candidates[rng.integers(len(candidates))]
    margins = Margins(false=0.3, missed=0.2)
    result = align_batch(match, [n], [m], reference=reference[None], margins=margins)
    best = max(ref.score(match[0], p, m) + ref.margin(p, reference, 0.3, 0.2) for p in candidates)
    assert result.scores[0] == pytest.approx(best, abs=TOLERANCE)
    partners = result.partners[0]
    own = ref.score(match[0], partners, m) + ref.margin(partners, reference, 0.3, 0.2)
    assert own == pytest.approx(best, abs=TOLERANCE)


def test_long_pairs_up_to_the_models_limit(rng):
    match = rng.uniform(-1, 1, (3, 440, 440)).astype(np.float32)
    lengths_a, lengths_b = np.array([440, 440, 7]), np.array([440, 91, 440])
    result = align_batch(match, lengths_a, lengths_b)
    for k in range(3):
        n, m = lengths_a[k], lengths_b[k]
        assert result.scores[k] == pytest.approx(ref.gotoh(match[k, :n, :m]), abs=2e-3)
        rescored = ref.score(match[k], result.partners[k, :n], m)
        assert rescored == pytest.approx(result.scores[k], abs=2e-3)


def test_gap_cost_convention():
    """A gap of k costs 1.0 + 0.1 k, ends included."""
    never = np.full((1, 3, 5), -9, dtype=np.float32)
    result = align_batch(never, [3], [5])
    assert result.scores[0] == pytest.approx(-(1 + 0.3) - (1 + 0.5))
    assert (result.partners == -1).all()
    identity = np.eye(3, 5, dtype=np.float32)[None] * 2 - 1
    assert align_batch(identity, [3], [5]).scores[0] == pytest.approx(3 - 1.2)


def test_ties_prefer_a_match_then_a_gap_in_b():
    # Free gaps and worthless cells: everything ties, so everything is matched from the end.
    zero = np.zeros((1, 2, 3), dtype=np.float32)
    assert align_batch(zero, [2], [3], GapPenalties(0, 0)).partners.tolist() == [[1, 2]]
    # One cell worth as much as the gaps it saves (exact in binary): the match wins.
    cell = np.full((1, 1, 1), -2.5, dtype=np.float32)
    assert align_batch(cell, [1], [1], GapPenalties(1, 0.25)).partners.tolist() == [[0]]


def test_batch_equals_single(rng):
    match = rng.uniform(-1, 1, (8, 30, 25)).astype(np.float32)
    lengths_a, lengths_b = rng.integers(1, 31, 8), rng.integers(1, 26, 8)
    together = align_batch(match, lengths_a, lengths_b)
    for k in range(8):
        n, m = lengths_a[k], lengths_b[k]
        alone = align_batch(match[k : k + 1, :n, :m], [n], [m])
        assert alone.scores[0] == together.scores[k]
        assert (alone.partners[0] == together.partners[k, :n]).all()


def test_read_only_input(rng):
    match = rng.uniform(-1, 1, (2, 5, 5)).astype(np.float32)
    match.flags.writeable = False
    align_batch(match, [5, 5], [5, 5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    match = np.zeros((2, 3, 3), dtype=np.float32)
    match[1, 2, 2] = bad
    with pytest.raises(ValueError, match="pair 1"):
        align_batch(match, [3, 3], [3, 3])
    align_batch(match, [3, 2], [3, 3])  # what lies in the padding is not read


@pytest.mark.parametrize(
    ("lengths_a", "lengths_b", "match"),
    [([0], [2], "between 1"), ([2], [3], "between 1"), ([2, 2], [2], "shape")],
)
def test_bad_lengths(lengths_a, lengths_b, match):
    with pytest.raises(ValueError, match=match):
        align_batch(np.zeros((1, 2, 2), dtype=np.float32), lengths_a, lengths_b)


def test_bad_reference():
    match = np.zeros((1, 2, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="beyond the end"):
        align_batch(match, [2], [1], reference=np.array([[0, 1]]))
    with pytest.raises(ValueError, match="reference has shape"):
        align_batch(match, [2], [2], reference=np.array([[0]]))


@pytest.mark.parametrize("values", [(-1, 0.1), (1, float("nan")), (float("inf"), 0)])
def test_bad_penalties(values):
    with pytest.raises(ConfigError):
        GapPenalties(*values)
    with pytest.raises(ConfigError):
        Margins(*values)


#: Frozen results of the kernel's first version; seed 5, 40 x 35, lengths 40/35 and 17/30.
GOLDEN_SCORES = [8.875050, 2.889803]


def test_golden_results():
    rng = np.random.default_rng(5)
    match = rng.uniform(-1, 1, (2, 40, 35)).astype(np.float32)
    result = align_batch(match, [40, 17], [35, 30])
    assert result.scores.tolist() == pytest.approx(GOLDEN_SCORES, abs=1e-4)
