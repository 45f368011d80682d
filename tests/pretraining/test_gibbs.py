"""The soft maximum against all alignments there are, and against plain sums in logarithms.

Probabilities below 1e-4 are left out of the signs, so slopes are compared to 1.5e-4, and values to
1e-4 a nucleotide of the rounding of float32.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, Margins
from riboray.pretraining import violations as module
from riboray.pretraining.losses import sal_loss
from riboray.pretraining.violations import find_violations
from tests.alignment import reference as ref
from tests.pretraining.test_violations import MARGINS, losses, random_case

TEMPERATURES = st.sampled_from([0.1, 0.3, 1.0, 5.0])


def by_enumeration(match, reference, m, margins, temperature, gaps):
    """The soft maximum less the reference's score, and its slopes, alignment by alignment."""
    n = len(reference)
    candidates = list(ref.all_alignments(n, m))
    scores = np.array(
        [
            ref.score(match, p, m, gaps.open, gaps.extend)
            + ref.margin(p, reference, margins.false, margins.missed)
            for p in candidates
        ]
    )
    weights = np.exp((scores - scores.max()) / temperature)
    slopes = np.zeros((n, m))
    shares = [*weights / weights.sum(), -1.0]
    for partners, weight in zip([*candidates, reference], shares, strict=True):
        taken = np.flatnonzero(partners >= 0)
        slopes[taken, partners[taken]] += weight
    soft = scores.max() + temperature * np.log(weights.sum())
    return soft - ref.score(match, reference, m, gaps.open, gaps.extend), slopes


def slopes_of(found, k, shape):
    slopes = np.zeros(shape)
    mine = found.pair == k
    np.add.at(slopes, (found.first[mine], found.second[mine]), found.sign[mine])
    return slopes


@given(st.integers(0, 100_000), MARGINS, TEMPERATURES)
@settings(deadline=None, max_examples=60)
def test_value_and_slopes_are_those_of_all_alignments(seed, margins, temperature):
    match, lengths_a, lengths_b, reference = random_case(seed)
    gaps = GapPenalties(0.7, 0.2)
    given_ = match, lengths_a, lengths_b, reference, gaps, margins
    found = find_violations(*given_, temperature)
    assert list(found.pair) == sorted(found.pair)
    totals = losses(match, found)
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        rule = margins, temperature, gaps
        wanted, slopes = by_enumeration(match[k].astype(float), reference[k, :n], m, *rule)
        assert totals[k] == pytest.approx(wanted, abs=1e-3)
        np.testing.assert_allclose(slopes_of(found, k, (n, m)), slopes, atol=1.5e-4)


def soft_maximum(scores, gaps, temperature):
    """The soft maximum by the same three states, in logarithms, float64, with gradient."""
    n, m = scores.shape
    scores = scores / temperature
    opening, extending = (gaps.open + gaps.extend) / temperature, gaps.extend / temperature
    nothing = torch.tensor(-torch.inf, dtype=torch.float64)
    aligned, gap_b, gap_a = ({} for _ in range(3))

    def total(*terms):
        return torch.logsumexp(torch.stack(terms), 0)

    for i in range(n + 1):
        for j in range(m + 1):
            here, left, above = (i, j), (i, j - 1), (i - 1, j)
            aligned[here] = torch.zeros((), dtype=torch.float64) if i == j == 0 else nothing
            gap_a[here] = gap_b[here] = nothing
            if i and j:
                before = (i - 1, j - 1)
                every = total(aligned[before], gap_a[before], gap_b[before])
                aligned[here] = scores[i - 1, j - 1] + every
            if i:
                gap_b[here] = total(aligned[above] - opening, gap_b[above] - extending)
            if j:
                began = total(aligned[left], gap_b[left]) - opening
                gap_a[here] = total(began, gap_a[left] - extending)
    return temperature * total(aligned[n, m], gap_a[n, m], gap_b[n, m])


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_longer_pairs_by_sums_of_logarithms(temperature):
    match, lengths_a, lengths_b, reference = random_case(8, 2, 45)
    gaps = GapPenalties()
    found = find_violations(match, lengths_a, lengths_b, reference, temperature=temperature)
    totals = losses(match, found)
    for k, (n, m) in enumerate(zip(lengths_a, lengths_b, strict=True)):
        own, taken = reference[k, :n], np.flatnonzero(reference[k, :n] >= 0)
        scores = torch.tensor(match[k, :n, :m].astype(float) + 0.1, requires_grad=True)
        lowered = torch.zeros_like(scores)
        lowered[taken, own[taken]] = 0.15
        soft = soft_maximum(scores - lowered, gaps, temperature)
        (slopes,) = torch.autograd.grad(soft, scores)
        slopes[taken, own[taken]] -= 1
        wanted = soft.item() + 0.05 * len(taken) - ref.score(match[k], own, m)
        assert totals[k] == pytest.approx(wanted, abs=5e-3)
        np.testing.assert_allclose(slopes_of(found, k, (n, m)), slopes, atol=1.5e-4)


def test_a_low_temperature_is_the_maximum():
    case = random_case(21, 6, 30)
    hard, soft = find_violations(*case), find_violations(*case, temperature=0.005)
    np.testing.assert_allclose(losses(case[0], soft), losses(case[0], hard), atol=0.05)


def test_sums_beyond_float64_give_way_to_the_maximum(monkeypatch):
    """Half of one sequence belongs to the other's other half: cells of no row are both likely."""
    rng = np.random.default_rng(3)
    match, lengths_a, lengths_b, reference = random_case(4, 3, 30)
    n = 400
    wide = np.full((3, n, n), -1, np.float32)
    wide[[0, 2], : match.shape[1], : match.shape[2]] = match[[0, 2]]
    wide[1] = rng.uniform(-1, 1, (n, n))
    partners = np.full((3, n), -1, np.int32)
    partners[:, : reference.shape[1]] = reference
    partners[1] = np.arange(n)
    sizes_a, sizes_b = (
        np.array([lengths_a[0], n, lengths_a[2]]),
        np.array([lengths_b[0], n, lengths_b[2]]),
    )
    given_ = wide, sizes_a, sizes_b, partners
    cold = find_violations(*given_, temperature=1e-3)
    hard = find_violations(*given_)
    lost = np.array([cold.offset[k] == hard.offset[k] for k in range(3)])
    assert lost[1]
    for k in np.flatnonzero(lost):
        for name in ("first", "second", "sign"):
            ours, theirs = (getattr(v, name)[v.pair == k] for v in (cold, hard))
            assert np.array_equal(ours, theirs)
    assert np.isfinite(cold.offset).all()
    assert list(cold.pair) == sorted(cold.pair)
    monkeypatch.setattr(module, "soft_differences", None)  # the maximum needs none
    find_violations(*given_, GapPenalties(), Margins(), 0.0)


def test_gradient_reaches_the_embeddings():
    torch.manual_seed(5)
    lengths = np.array([5, 4])
    a, b = (torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    reference = np.tile(np.arange(5), (2, 1))
    reference[1, 4] = -1

    def loss(a, b):
        return sal_loss(a, b, lengths, lengths, reference, temperature=0.5).sum()

    slopes = torch.autograd.grad(loss(a, b), (a, b))
    step = 1e-3  # match scores are float32: smaller steps drown in their rounding
    for tensor, slope in zip((a, b), slopes, strict=True):
        for index in [(0, 0, 0), (0, 4, 7), (1, 2, 3)]:
            moved = [tensor.detach().clone() for _ in range(2)]
            moved[0][index] += step
            moved[1][index] -= step
            up, down = (float(loss(x, b) if tensor is a else loss(a, x)) for x in moved)
            assert (up - down) / (2 * step) == pytest.approx(float(slope[index]), abs=3e-3)
    assert float(slopes[0].abs().sum()) > 0
