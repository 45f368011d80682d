"""Similarities of all with all against plain loops, one pair at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, align_embeddings
from riboray.alignment.lockstep import LANES
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError, RiborayError
from riboray.evaluation.measures import MEASURES, Subject, centred_rows
from riboray.evaluation.similarities import (
    SOFT_ALIGN_SCALE,
    alignment_scores,
    cosines,
    kmer_cosines,
    nucleotide_rows,
    per_length,
    rare_kmer_cosines,
    soft_alignment_scores,
    whitened_cosines,
)
from riboray.model import RnaBertForPreTraining
from tests.conftest import random_sequences, tiny_config


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(3)
    return Embedder(RnaBertForPreTraining(tiny_config(initializer_range=0.3)).eval())


def unit_matrices(rng, count, longest, width=5):
    made = [rng.normal(size=(rng.integers(1, longest + 1), width)) for _ in range(count)]
    return [(m / np.linalg.norm(m, axis=1, keepdims=True)).astype(np.float32) for m in made]


def soft_align_plain(x, y, scale):
    """RNABERT's soft alignment of one pair, cell by cell, in float64."""
    s = [
        [scale * math.fsum(float(p) * float(q) for p, q in zip(u, v, strict=True)) for v in y]
        for u in x
    ]
    e = [[math.exp(v) for v in row] for row in s]
    of_rows = [math.fsum(row) for row in e]
    of_columns = [math.fsum(column) for column in zip(*e, strict=True)]
    total = weight = 0.0
    for i, row in enumerate(e):
        for j, value in enumerate(row):
            a, b = value / of_rows[i], value / of_columns[j]
            c = a + b - a * b
            total += c * s[i][j]
            weight += c
    return total / weight


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([SOFT_ALIGN_SCALE, 1.0, 8.0]))
@settings(max_examples=40)
def test_soft_alignment_against_a_loop(seed, count, scale):
    """To 1e-5: exponents of up to 8 in float32 are good to 1e-6, and the mean averages it."""
    rows = unit_matrices(np.random.default_rng(seed), count, 12)
    found = soft_alignment_scores(rows, scale)
    assert found.dtype == np.float32
    for i, x in enumerate(rows):
        for j, y in enumerate(rows):
            assert found[i, j] == pytest.approx(soft_align_plain(x, y, scale), abs=1e-5)


def test_soft_alignment_of_more_than_a_block(rng):
    rows = unit_matrices(rng, LANES + 7, 9)
    found = soft_alignment_scores(rows)
    np.testing.assert_array_equal(found, found.T)
    for i, j in ((0, LANES + 6), (LANES, LANES - 1), (LANES + 1, 5)):
        plain = soft_align_plain(rows[i], rows[j], SOFT_ALIGN_SCALE)
        assert found[i, j] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("mode", ["global", "semiglobal", "local"])
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_alignment_scores_are_those_of_single_pairs(rng, mode, offset):
    """To 1e-4: sums of up to 40 numbers of the size of 1 in float32, in another order."""
    rows, gaps = unit_matrices(rng, LANES + 9, 40), GapPenalties(0.7, 0.2)
    found = alignment_scores(rows, gaps=gaps, mode=mode, offset=offset)
    np.testing.assert_array_equal(found, found.T)
    for i, j in rng.integers(0, len(rows), (60, 2)).tolist():
        root = np.sqrt(offset).astype(np.float32)
        x = np.concatenate([rows[i], np.full((len(rows[i]), 1), root)], axis=1)
        y = np.concatenate([rows[j], np.full((len(rows[j]), 1), -root)], axis=1)
        score, _ = align_embeddings(x, y, gaps, mode, traceback=False)
        assert found[i, j] == pytest.approx(score, abs=1e-4)


def test_a_sequence_scores_its_length_with_itself(rng):
    rows = unit_matrices(rng, 5, 30)
    lengths = [len(r) for r in rows]
    scores = alignment_scores(rows)
    np.testing.assert_allclose(np.diag(scores), lengths, rtol=1e-5)
    geometric = per_length(scores, lengths, "geometric")
    own = np.sqrt(np.outer(np.diag(scores), np.diag(scores)))
    np.testing.assert_allclose(geometric, scores / own, rtol=1e-4)


def test_lengths_to_divide_by():
    scores = np.full((2, 2), 6.0, np.float32)
    for by, expected in (("shorter", 3), ("mean", 6 / 5), ("geometric", 1.5), ("longer", 6 / 8)):
        assert per_length(scores, [2, 8], by)[0, 1] == pytest.approx(expected)
    with pytest.raises(ConfigError, match="unknown length 'median'; known are shorter"):
        per_length(scores, [2, 8], "median")
    with pytest.raises(ConfigError, match="offset must not be negative"):
        alignment_scores([np.ones((1, 1), np.float32)], offset=-1.0)


@given(st.lists(st.text("ACGUN", max_size=30), min_size=1, max_size=6), st.integers(1, 4))
def test_kmers_against_counting(sequences, k):
    found = kmer_cosines(sequences, k)
    counts = [
        Counter(w for i in range(len(s) - k + 1) if "N" not in (w := s[i : i + k]))
        for s in sequences
    ]
    for i, a in enumerate(counts):
        for j, b in enumerate(counts):
            product = sum(a[word] * b[word] for word in a)
            norms = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
            assert found[i, j] == pytest.approx(product / norms if norms else 0.0, abs=1e-6)


def test_k_has_bounds():
    for k in (0, 9):
        with pytest.raises(ConfigError, match=f"between 1 and 8, not {k}"):
            kmer_cosines(["ACGU"], k)


def test_rare_kmers_count_more():
    sequences = ["AAAAAACC", "AAAAAAGG", "GGGCCCUU", "UGGCCCGG", "CAAAAAAC", "CCAAAAAA"]
    found = rare_kmer_cosines(sequences, 3)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
    assert found[2, 3] > found[0, 1], "AAA is in four of them, GCC in two"


def test_cosines_and_centring(rng):
    rows = rng.normal(size=(7, 4)) + 5
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines(rows), unit @ unit.T, atol=1e-6)
    assert np.abs(cosines(rows, centred=True)).mean() < np.abs(cosines(rows)).mean()
    assert cosines(np.zeros((2, 3))).tolist() == [[0, 0], [0, 0]]


def test_whitening_makes_directions_count_alike(rng):
    """Stretching an axis changes nothing, and one direction cannot drown the others."""
    rows = rng.normal(size=(80, 6))
    stretched = rows * np.array([1, 30, 2, 9, 1, 4]) + 3
    np.testing.assert_allclose(whitened_cosines(stretched), whitened_cosines(rows), atol=1e-5)
    assert not np.allclose(cosines(stretched, centred=True), cosines(rows, centred=True), atol=0.1)
    few = whitened_cosines(rng.normal(size=(12, 50)))
    apart = few[~np.eye(12, dtype=bool)]
    assert apart.std() > 0.2, "of twelve rows in 50 dimensions not all are equally far apart"
    assert whitened_cosines(np.ones((5, 3))).tolist() == np.zeros((5, 5)).tolist()


def test_nucleotides_as_rows():
    (rows,) = nucleotide_rows(["ACGUNA"])
    np.testing.assert_array_equal(
        rows @ rows.T, [[a == b != "N" for b in "ACGUNA"] for a in "ACGUNA"]
    )


def test_centred_rows(rng):
    rows = rng.normal(size=(9, 4)).astype(np.float32) + 100
    centred = centred_rows(rows)
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(centred, axis=0), np.diff(rows, axis=0), atol=1e-5)
    assert centred_rows(rows[:1]).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_every_measure(name, embedder, rng):
    """A symmetric matrix of finite numbers, which follows the sequences when they are reordered.

    To 1e-4: embeddings differ by 1e-6 in other batches, and scores sum over tens of bases. Z-scores
    divide them by spreads that are extrapolated to a single base: to 1e-2.
    """
    sequences = [*random_sequences(rng, 20, 10, 60), "ACG", "A"]
    found = MEASURES[name].compute(Subject(sequences, embedder))
    assert found.shape == (22, 22)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, found.T, atol=1e-4)
    order = rng.permutation(22)
    again = MEASURES[name].compute(Subject([sequences[k] for k in order], embedder))
    tolerance = 1e-2 if name == "alignment-z" else 1e-4
    np.testing.assert_allclose(again, found[np.ix_(order, order)], atol=tolerance)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"soft-align"}))
def test_near_copies_are_found(name, embedder, rng):
    """Ten RNAs and a copy of each with one base changed, among 30.

    Not so RNABERT's soft alignment: 1.3 times a cosine hardly tells bases apart in a softmax, and
    what is left is close to the mean of all cosines.
    """
    originals = random_sequences(rng, 30, 50, 70)
    copies = [s[:25] + ("A" if s[25] != "A" else "C") + s[26:] for s in originals[:10]]
    found = MEASURES[name].compute(Subject([*originals, *copies], embedder))
    np.fill_diagonal(found, -np.inf)
    right = sum(int(found[30 + k].argmax()) == k for k in range(10))
    assert right >= 9


def test_what_needs_a_model_says_so():
    subject = Subject(["ACGU", "ACGG"])
    for measure in MEASURES.values():
        if measure.needs_model:
            with pytest.raises(ConfigError, match="give --checkpoint"):
                measure.compute(subject)
        else:
            assert measure.compute(subject).shape == (2, 2)
    with pytest.raises(ConfigError, match="no sequence"):
        Subject([])


def test_chance_scores_of_long_sequences(embedder, monkeypatch):
    monkeypatch.setattr("riboray.evaluation.measures.fit_null", lambda *_: None)
    with pytest.raises(ConfigError, match="leave alignment-z out"):
        MEASURES["alignment-z"].compute(Subject(["ACGU", "ACGG"], embedder))


def test_a_model_that_is_broken(embedder):
    model = RnaBertForPreTraining(tiny_config()).eval()
    with torch.no_grad():
        model.model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(RiborayError, match="not finite"):
        MEASURES["centred-alignment"].compute(Subject(["ACGU", "GGCC"], Embedder(model)))
