"""Alignment by match scores against the aligner of single pairs, and fitted penalties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riboray.alignment import align_embeddings
from riboray.alignment.columns import AlignedColumns, GapPenalties, gap_costs
from riboray.embedding.embedder import Embedder
from riboray.evaluation import scores as module
from riboray.evaluation.fitting import fit_gaps
from riboray.evaluation.references import ReferencePair
from riboray.evaluation.scores import (
    IDENTITY,
    RIBOSUM85_60,
    MatrixScores,
    ModelScores,
    PairBatches,
    align_by_scores,
)
from riboray.model import RnaBertForPreTraining
from tests.conftest import random_sequences, tiny_config


def pair(a, b, partners=None, family="f"):
    places = np.full(len(a), -1, np.int32) if partners is None else partners
    return ReferencePair(family, "a", "b", AlignedColumns(a, b, places), 50.0)


def some_pairs(rng, count, low=1, high=90):
    texts = random_sequences(rng, 2 * count, low, high)
    return [pair(*two) for two in zip(texts[::2], texts[1::2], strict=True)]


def score_of(left, right, partners, gaps):
    """Score an alignment from scratch."""
    rows = np.flatnonzero(partners >= 0)
    match = sum(float(left[i] @ right[partners[i]]) for i in rows)
    sizes = np.array([len(left)]), np.array([len(right)])
    return match - float(gap_costs(partners[None], *sizes, gaps)[0])


@pytest.mark.parametrize("matrix", [IDENTITY, RIBOSUM85_60])
def test_batches_align_as_single_pairs_do(rng, matrix):
    scores, gaps = MatrixScores(matrix), GapPenalties(2.2, 0.22)
    pairs = some_pairs(rng, 40)
    found = align_by_scores(PairBatches(scores, pairs), gaps)
    assert found.seconds.shape == (40,)
    assert (found.seconds >= 0).all()
    for one, partners in zip(pairs, found.partners, strict=True):
        left, right = scores.left(one.sequences[0]), scores.right(one.sequences[1])
        best, _ = align_embeddings(left, right, gaps)
        # Sums of at most 180 scores of size 2.2 and penalties, in float32.
        assert score_of(left, right, partners, gaps) == pytest.approx(best, abs=1e-3)


def test_a_model_aligns_by_cosines(rng):
    torch.manual_seed(4)
    model = RnaBertForPreTraining(tiny_config()).eval()
    scores, pairs, gaps = ModelScores(Embedder(model)), some_pairs(rng, 12), GapPenalties()
    scores.prepare([text for one in pairs for text in one.sequences])
    found = align_by_scores(PairBatches(scores, pairs), gaps)
    for one, partners in zip(pairs, found.partners, strict=True):
        a, b = (scores.left(text) for text in one.sequences)
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-6)
        assert score_of(a, b, partners, gaps) == pytest.approx(
            align_embeddings(a, b, gaps)[0], abs=1e-3
        )
    assert scores.seconds("ACGU") > 0


def test_pairs_too_long_for_a_table_are_aligned_as_well(rng, monkeypatch):
    pairs, gaps = some_pairs(rng, 10, 30, 60), GapPenalties(2.2, 0.22)
    batches = PairBatches(MatrixScores(RIBOSUM85_60), pairs)
    whole = align_by_scores(batches, gaps).partners
    monkeypatch.setattr(module, "_CELLS", 45 * 45)
    batches = PairBatches(MatrixScores(RIBOSUM85_60), pairs)
    assert 0 < len(batches.long) < 10
    for a, b in zip(whole, align_by_scores(batches, gaps).partners, strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_that_are_kept_are_those_that_are_made_anew(rng, monkeypatch):
    pairs, gaps = some_pairs(rng, 30), GapPenalties(2.2, 0.22)
    kept = PairBatches(MatrixScores(IDENTITY), pairs)
    first, again = (align_by_scores(kept, gaps).partners for _ in range(2))
    monkeypatch.setattr(module, "_KEPT_CELLS", 0)
    fresh = align_by_scores(PairBatches(MatrixScores(IDENTITY), pairs), gaps).partners
    for a, b, c in zip(first, again, fresh, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


MEANINGS = {
    **{base: base for base in "ACGU"},
    **{"R": "AG", "Y": "CU", "S": "CG", "W": "AU", "K": "GU", "M": "AC"},
    **{"B": "CGU", "D": "AGU", "H": "ACU", "V": "ACG", "N": "ACGU", "X": "ACGU"},
}


@given(st.sampled_from(sorted(MEANINGS)), st.sampled_from(sorted(MEANINGS)))
def test_a_code_scores_the_mean_of_its_bases(a, b):
    scores = MatrixScores(RIBOSUM85_60)
    values = [
        RIBOSUM85_60["ACGU".index(x), "ACGU".index(y)] for x in MEANINGS[a] for y in MEANINGS[b]
    ]
    assert float((scores.left(a) @ scores.right(b).T)[0, 0]) == pytest.approx(
        np.mean(values), abs=1e-6
    )


def test_the_matrix_is_symmetric_and_as_published():
    assert (RIBOSUM85_60 == RIBOSUM85_60.T).all()
    assert RIBOSUM85_60[0].tolist() == pytest.approx([2.22, -1.86, -1.46, -1.39])
    assert np.diag(RIBOSUM85_60).tolist() == pytest.approx([2.22, 1.16, 1.03, 1.65])


def evolved(rng, count):
    """Pairs of a sequence and its descendant, with the true alignment."""
    made = []
    for text in random_sequences(rng, count, 40, 80):
        partners, child = [], ""
        for letter in text:
            if rng.random() < 0.06:
                child += "".join(rng.choice(list("ACGU"), rng.integers(1, 6)))
            if rng.random() < 0.06:
                partners.append(-1)
                continue
            partners.append(len(child))
            child += str(rng.choice(list("ACGU"))) if rng.random() < 0.3 else letter
        made.append(pair(text, child or "A", np.array(partners, np.int32)))
    return made


def test_fitted_penalties_are_better_on_pairs_they_never_saw(rng):
    train, test = evolved(rng, 150), evolved(rng, 150)
    scores, initial = MatrixScores(IDENTITY), GapPenalties(0.0, 0.0)
    fitted = fit_gaps(PairBatches(scores, train), initial)
    assert fitted.pairs == 150
    assert fitted.f1 > fitted.before + 0.05

    def f1_of(gaps):
        from riboray.evaluation.accuracy import measure, tally

        found = align_by_scores(PairBatches(scores, test), gaps).partners
        return measure(tally(found, [p.columns.partners for p in test]))["f1"]

    assert f1_of(fitted.gaps) > f1_of(initial) + 0.05
    # Penalties are found anew where scores are of another size.
    larger = fit_gaps(PairBatches(MatrixScores(10 * IDENTITY), train), initial)
    assert larger.f1 == pytest.approx(fitted.f1, abs=0.01)


def test_penalties_that_cannot_be_bettered_stay(rng):
    same = [pair(t, t, np.arange(len(t), dtype=np.int32)) for t in random_sequences(rng, 5, 9, 30)]
    initial = GapPenalties(3.0, 1.0)
    fitted = fit_gaps(PairBatches(MatrixScores(IDENTITY), same), initial)
    assert (fitted.gaps, fitted.f1, fitted.before) == (initial, 1, 1)
