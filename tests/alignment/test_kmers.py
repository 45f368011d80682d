"""k-mers of sequences, and which sequences share most of them, against plain definitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from riboray.alignment.kmers import KmerWeights, count_kmers, shared_kmers
from tests.conftest import random_sequences


def test_kmers_against_a_plain_count(rng):
    sequences = [*random_sequences(rng, 20, 1, 60), "ACGUNACGUACGU", "N" * 9]
    found = count_kmers(sequences, 4)
    code = {c: i for i, c in enumerate("ACGU")}
    for row, sequence in enumerate(sequences):
        words = {sequence[i : i + 4] for i in range(len(sequence) - 3)}
        wanted = {
            sum(code[c] * 4 ** (3 - i) for i, c in enumerate(word))
            for word in words
            if set(word) <= set("ACGU")
        }
        assert set(found[[row]].indices.tolist()) == wanted


def test_shared_kmers_find_a_mutated_copy(rng):
    database = random_sequences(rng, 300, 80, 120)
    query = database[123][:40] + "A" + database[123][41:]
    weights = KmerWeights.fit(database, 6)
    rows, similarity = shared_kmers(weights.vectors([query]), weights.vectors(database), 5)
    assert rows[0, 0] == 123
    assert 0.5 < similarity[0, 0] <= 1.0
    assert (np.diff(similarity[0]) <= 0).all()
    same = weights.vectors(database[:1])
    assert float((same @ same.T).toarray()[0, 0]) == pytest.approx(1.0)


def test_how_often(rng):
    sequences = ["", "ACG", "AAAAAA", "ACGUACGUNACGU", *random_sequences(rng, 5, 30, 90)]
    counts, there = count_kmers(sequences, 3, how_often=True), count_kmers(sequences, 3)
    assert counts.shape == there.shape == (9, 64)
    for row, sequence in enumerate(sequences):
        words = Counter(sequence[i : i + 3] for i in range(len(sequence) - 2))
        wanted = sorted(n for word, n in words.items() if "N" not in word)
        assert sorted(counts[[row]].data.tolist()) == wanted
        assert there[[row]].data.tolist() == [1.0] * len(wanted)
    assert count_kmers([], 3).shape == (0, 64)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 70))
def test_best_targets_are_those_of_the_whole_matrix(seed, targets, count):
    """Weights are small whole numbers, so that sums are exact and many are equal."""
    rng = np.random.default_rng(seed)

    def vectors(rows):
        dense = rng.integers(0, 3, (rows, 16)) * (rng.random((rows, 16)) < 0.4)
        return sparse.csr_matrix(dense.astype(np.float32))

    queries, database = vectors(5), vectors(targets)
    rows, similarity = shared_kmers(queries, database, count)
    whole = (queries @ database.T).toarray()
    wanted = np.argsort(-whole, axis=1, kind="stable")[:, :count]
    assert np.array_equal(rows, wanted), "ties by row"
    assert np.array_equal(similarity, np.take_along_axis(whole, wanted, axis=1))
    again = shared_kmers(queries, database.tocsc(), count)
    assert np.array_equal(again[0], rows)


def test_nothing_to_look_for_or_in():
    none, some = sparse.csr_matrix((0, 16), dtype=np.float32), sparse.csr_matrix(np.eye(16)[:3])
    assert shared_kmers(none, some, 5)[0].shape == (0, 3)
    assert shared_kmers(some, none, 5)[0].shape == (3, 0)
