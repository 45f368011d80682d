"""k-mers of sequences, and which sequences share most of them, against plain definitions."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.alignment.kmers import BestTargets, KmerIndex, KmerWeights, count_kmers
from riboray.errors import CorpusError
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


def search(weights, queries, database, count, firsts=(0,)):
    """Search a database cut into indices that begin at these rows."""
    best = BestTargets(weights.queries(queries), count)
    for first, stop in pairwise([*firsts, len(database)]):
        best.look_in(KmerIndex.build(database[first:stop], weights), first)
    return best.found()


def test_a_mutated_copy_is_found(rng):
    database = random_sequences(rng, 300, 80, 120)
    query = database[123][:40] + "A" + database[123][41:]
    weights = KmerWeights.fit(database, 6)
    rows, similarity = search(weights, [query], database, 5)
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


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 70), st.integers(0, 3))
def test_best_targets_are_those_of_the_whole_matrix(seed, targets, count, cuts):
    """Cosines differ in the order of their sums: by a few of 2**-24 each."""
    rng = np.random.default_rng(seed)
    texts = random_sequences(rng, targets + 5, 1, 14)
    texts[rng.integers(len(texts))] = "N"
    queries, database = texts[:5], texts[5:]
    weights = KmerWeights.fit(texts, 2)
    firsts = [0, *sorted(rng.integers(0, targets, cuts).tolist())]
    rows, similarity = search(weights, queries, database, count, firsts)
    whole = (weights.vectors(queries) @ weights.vectors(database).T).toarray()
    assert rows.shape == similarity.shape == (5, min(count, targets))
    assert all(len(set(r)) == len(r) for r in rows.tolist())
    np.testing.assert_allclose(similarity, np.take_along_axis(whole, rows, axis=1), atol=2e-6)
    wanted = -np.sort(-whole, axis=1)[:, :count]
    np.testing.assert_allclose(similarity, wanted, atol=2e-6, err_msg="none better is left out")
    order = np.lexsort((rows, -similarity), axis=1)
    assert (order == np.arange(rows.shape[1])).all(), "best first, ties by row"


def test_cuts_change_nothing(rng):
    """To the bit: what is added up for a target does not depend on the others."""
    database = random_sequences(rng, 200, 5, 40)
    weights = KmerWeights.fit(database, 3)
    whole = search(weights, database[:9], database, 20)
    cut = search(weights, database[:9], database, 20, (0, 1, 60, 199))
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_more_targets_than_a_block_holds(rng, tmp_path):
    database = random_sequences(rng, 500, 12, 12) * 140  # 70,000
    database[-1] = "ACGUUGCAACGG"
    weights = KmerWeights.fit(database[:1000], 4)
    KmerIndex.build(database, weights).save(tmp_path / "index.npz")
    index = KmerIndex.load(tmp_path / "index.npz")
    assert index.bounds.shape == (2, 4**4 + 1)
    assert len(index) == 70_000
    queries = [database[-1], database[7]]
    best = BestTargets(weights.queries(queries), 140)
    best.look_in(index)
    rows, similarity = best.found()
    assert rows[0, 0] == 69_999
    assert rows[1].tolist() == list(range(7, 70_000, 500)), "copies of it, first ones first"
    assert similarity[1] == pytest.approx(1.0)


def test_nothing_to_look_for_or_in(rng, tmp_path):
    some = random_sequences(rng, 3, 10, 20)
    weights = KmerWeights.fit(some, 3)
    assert search(weights, [], some, 5)[0].shape == (0, 0)
    assert search(weights, some, [], 5)[0].shape == (3, 0)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(CorpusError, match="remove it"):
        KmerIndex.load(tmp_path / "bad.npz")
