"""Chance scores: the shuffle, the fit, and whether P values are what they say."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from riboray.alignment.columns import GapPenalties
from riboray.alignment.estimate import embed_side, fit_null
from riboray.alignment.sides import Rule
from riboray.alignment.similarity import FAMILY_GAPS, RowMaker
from riboray.alignment.statistics import dinucleotide_shuffle, fit_null_model
from riboray.alignment.tiles import score_tile
from riboray.embedding.embedder import Embedder
from riboray.model import RnaBertForPreTraining
from tests.conftest import random_sequences, tiny_config


@given(st.text("ACGU", max_size=60), st.integers(0, 1000))
def test_shuffle_keeps_dinucleotides_and_ends(sequence, seed):
    shuffled = dinucleotide_shuffle(sequence, np.random.default_rng(seed))
    assert Counter(pairwise(shuffled)) == Counter(pairwise(sequence))
    assert shuffled[:1] == sequence[:1]
    assert shuffled[-1:] == sequence[-1:]


def test_shuffles_are_uniform():
    """Every arrangement with the same dinucleotides comes equally often (chi-squared)."""
    sequence = "ACAGACGAA"
    rng = np.random.default_rng(3)
    found = Counter(dinucleotide_shuffle(sequence, rng) for _ in range(6000))
    possible = {
        "".join(p)
        for p in _arrangements(sequence)
        if Counter(pairwise(p)) == Counter(pairwise(sequence))
    }
    assert set(found) == possible
    assert len(possible) > 10
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


def _arrangements(sequence):
    from itertools import permutations

    return {p for p in permutations(sequence) if p[0] == sequence[0] and p[-1] == sequence[-1]}


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_fit_finds_a_distribution_it_can_express(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(40, 400, 8000), rng.integers(40, 400, 8000)
    affinity = rng.uniform(0.2, 0.8, 8000)
    short = np.minimum(n, m)
    spread = 0.3 * short**0.6
    scores = 2 + short * (0.1 + 0.7 * affinity) - 0.1 * np.abs(n - m)
    scores = scores + spread * stats.pearson3.rvs(0.5, size=8000, random_state=rng)
    null = fit_null_model(scores[:4000], n[:4000], m[:4000], affinity[:4000])
    z = null.z_scores(scores[4000:], n[4000:], m[4000:], affinity[4000:])
    p = null.p_values(z)
    # 4,000 values: a level of 0.05 is met to within 0.014 (four standard errors).
    for level in (0.5, 0.1, 0.05):
        allowed = 4 * np.sqrt(level * (1 - level) / 4000) + 0.004
        assert abs((p <= level).mean() - level) < allowed
    assert null.z_at_evalue(5.0, 100) == pytest.approx(
        float(np.interp(0.05, np.sort(p), np.sort(z)[::-1])), abs=0.3
    )


def test_scores_with_a_tail_to_the_left_get_no_p_value_of_zero():
    """The unbounded side is the one that matters: P must not end where the sample ended."""
    rng = np.random.default_rng(4)
    n = rng.integers(50, 100, 4000)
    scores = 10 - stats.gamma.rvs(2.0, size=4000, random_state=rng)
    null = fit_null_model(scores, n, n, np.full(4000, 0.5))
    assert null.skew == 0.0
    p = null.p_values(np.array([3.0, 6.0, 9.0]))
    assert (p > 0).all()
    assert (np.diff(p) < 0).all()


def test_too_few_pairs():
    with pytest.raises(ValueError, match="100 are needed"):
        fit_null_model(np.ones(9), np.ones(9), np.ones(9), np.ones(9))


@pytest.mark.parametrize(
    ("mode", "maker", "gaps"),
    [
        ("global", RowMaker(), GapPenalties()),
        ("semiglobal", RowMaker(), GapPenalties()),
        ("local", RowMaker(), GapPenalties()),
        ("global", RowMaker(centred=True), FAMILY_GAPS),
    ],
)
def test_p_values_of_unrelated_sequences_are_uniform(mode, maker, gaps):
    """Independent random RNAs of various compositions and lengths, an untrained encoder."""
    torch.manual_seed(1)
    config = tiny_config()
    embedder = Embedder(RnaBertForPreTraining(config).eval())
    rng = np.random.default_rng(2)
    letters = np.array(list("ACGU"))
    pool = [
        "".join(rng.choice(letters, rng.integers(40, 200), p=rng.dirichlet([8] * 4)))
        for _ in range(320)
    ]
    rule = Rule(gaps, mode)
    null = fit_null(embedder, pool[:160], rule, maker=maker)
    side_a, side_b = (
        embed_side(embedder, sorted(part, key=len, reverse=True), maker=maker)
        for part in (pool[160:240], pool[240:])
    )
    found = score_tile(side_a, side_b, rule, same=False)
    p = null.p_values(
        null.z_scores(
            found.score, side_a.lengths[found.query], side_b.lengths[found.target], found.affinity
        )
    )
    # 6,400 pairs of 160 sequences are not independent: levels are met to within a factor of two
    # where they are small, and the whole distribution to within 0.1 (Kolmogorov–Smirnov).
    assert stats.kstest(p, "uniform").statistic < 0.1
    assert 0.02 < (p <= 0.05).mean() < 0.1
    assert (p <= 0.01).mean() < 0.03


def test_composition_alone_is_not_significant():
    """Two GC-rich RNAs score high, and affinity says that this is what was to be expected."""
    torch.manual_seed(1)
    config = tiny_config()
    embedder = Embedder(RnaBertForPreTraining(config).eval())
    rng = np.random.default_rng(5)
    letters = np.array(list("ACGU"))
    rich = ["".join(rng.choice(letters, 90, p=[0.05, 0.45, 0.45, 0.05])) for _ in range(20)]
    null = fit_null(embedder, [*random_sequences(rng, 60, 60, 120), *rich], Rule())
    side = embed_side(embedder, rich)
    found = score_tile(side, side, Rule(), same=True)
    z = null.z_scores(
        found.score, side.lengths[found.query], side.lengths[found.target], found.affinity
    )
    assert abs(np.median(z)) < 1.0


def test_sequences_too_long_to_shuffle_have_no_statistics():
    class NeverAsked:
        pass

    assert fit_null(NeverAsked(), ["A" * 50_000], Rule(), targets=["C" * 50_000]) is None
