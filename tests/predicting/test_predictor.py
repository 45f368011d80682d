"""Predictions in batches are those of each sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from riboray.errors import InvalidSequenceError
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from riboray.predicting.predictor import Predictor
from tests.conftest import random_sequences, tiny_config

LABELS = {"regression": ("x", "y"), "binary": ("no", "yes"), "multiclass": ("a", "b", "c")}


def predictor(level, problem, **options):
    torch.manual_seed(8)
    head = HeadConfig(level=level, problem=problem, labels=LABELS[problem], **options)
    config = tiny_config(initializer_range=0.3, max_position_embeddings=64)
    return Predictor(RnaBertForPrediction(config, head).eval(), token_budget=150)


@pytest.mark.parametrize("problem", LABELS)
@pytest.mark.parametrize("level", ["sequence", "nucleotide", "contact"])
def test_together_and_alone(level, problem):
    made = predictor(level, problem)
    texts = random_sequences(np.random.default_rng(2), 12, 1, 100)
    found = made.predict(texts)
    assert not found.failed
    sizes = {"sequence": 0, "nucleotide": 1, "contact": 2}
    for text, row in zip(texts, found.rows, strict=True):
        assert row.shape == (*([len(text)] * sizes[level]), made.head.outputs)
        assert row.dtype == np.float32
        assert np.allclose(made.predict([text]).rows[0], row, atol=1e-6)
        if problem == "multiclass":
            assert np.allclose(row.sum(-1), 1, atol=1e-5)
    assert made.predict([]).rows == []


def test_long_ones_are_as_long_as_they_are():
    """What fits is the same by either way, as long as no window is averaged."""
    made = predictor("nucleotide", "multiclass")
    text = "ACGGU" * 12
    assert np.allclose(made._predict_long(text), made.predict([text]).rows[0], atol=1e-6)
    assert predictor("sequence", "binary").predict(["ACGU" * 50]).rows[0].shape == (1,)


def test_one_that_fails_does_not_fail_the_others(monkeypatch):
    made = predictor("nucleotide", "binary")
    whole = made.model.logits

    def sick(ids, edges):
        if (edges.diff() == 13).any():
            raise RuntimeError("that one")
        return whole(ids, edges)

    monkeypatch.setattr(made.model, "logits", sick)
    texts = ["ACGU", "A" * 13, "GGGG"]
    found = made.predict(texts)
    assert list(found.failed) == [1]
    assert "that one" in found.failed[1]
    assert [len(found.rows[k]) for k in (0, 2)] == [4, 4]


def test_mistakes():
    made = predictor("sequence", "binary")
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        made.predict(["ACGU", ""])
    with pytest.raises(InvalidSequenceError, match="'J'"):
        made.predict(["ACJ"])
