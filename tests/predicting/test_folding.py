"""Structures from probabilities, against trying all structures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.corpus.structure import base_pairs
from riboray.predicting.folding import CANONICAL, allowed_pairs, dot_bracket, fold


def structures(n):
    """All structures without crossing pairs whose hairpins have three nucleotides."""

    def stretch(i, j):
        if j - i < 5:
            yield ()
            return
        yield from stretch(i, j - 1)
        for k in range(i, j - 4):
            for left in stretch(i, k):
                for inner in stretch(k + 1, j - 1):
                    yield (*left, *inner, (k, j - 1))

    return stretch(0, n)


def worth(pairs, chances, threshold):
    return sum(chances[i, j] - threshold for i, j in pairs)


@given(st.integers(0, 11), st.integers(0, 10**6), st.sampled_from([0.2, 0.5]))
def test_the_best_of_all(n, seed, threshold):
    chances = np.random.default_rng(seed).random((n, n)) ** 2
    partner = fold(chances, threshold=threshold)
    pairs = [(i, j) for i, j in enumerate(partner.tolist()) if j > i]
    best = max(worth(s, chances, threshold) for s in structures(n))
    assert worth(pairs, chances, threshold) == pytest.approx(best, abs=1e-9)
    assert all(chances[i, j] > threshold and j - i > 3 for i, j in pairs)
    assert all(partner[partner[i]] == i for i in range(n) if partner[i] >= 0)
    assert np.array_equal(base_pairs(dot_bracket(partner)), partner)


def test_only_what_can_pair():
    sequence = "GGGAAAACCC"
    chances = np.full((10, 10), 0.9)
    partner = fold(chances, sequence=sequence)
    assert dot_bracket(partner) == "(((....)))"
    pairs = [sequence[i] + sequence[j] for i, j in enumerate(partner) if j > i]
    assert set(pairs) <= CANONICAL
    dna, rna = (fold(chances, sequence=s) for s in ("gggttttccc", "GGGUUUUCCC"))
    assert np.array_equal(dna, rna)
    assert not allowed_pairs("AAAA").any()
    assert allowed_pairs("AU").tolist() == [[False, True], [True, False]]


def test_nothing():
    assert dot_bracket(fold(np.zeros((0, 0)))) == ""
    assert dot_bracket(fold(np.full((20, 20), 0.4))) == "." * 20
