"""Measurements against scikit-learn's and scipy's, and against plain loops."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats
from sklearn import metrics as sk

from riboray.errors import ConfigError
from riboray.finetuning.metrics import Evidence, chosen_metric, compute_metrics, known_metrics
from riboray.finetuning.structures import FoldedRna, best_threshold, fold_rna, structure_metrics
from riboray.model.prediction import HeadConfig

NUMBERS = HeadConfig(level="sequence", problem="regression", labels=("v",))
BINARY = HeadConfig(level="nucleotide", problem="binary", labels=("no", "yes"))
CLASSES = HeadConfig(level="sequence", problem="multiclass", labels=tuple("abcd"))
LABELS = HeadConfig(level="sequence", problem="multilabel", labels=tuple("abc"))
PAIRS = HeadConfig(level="contact", problem="binary", labels=("no", "yes"))


def measured(head, *parts):
    evidence = Evidence(loss=3.0, weight=2.0)
    for predicted, target in parts:
        evidence.add_values(np.asarray(predicted, np.float32), np.asarray(target))
    return compute_metrics(evidence, head)


@given(seed=st.integers(0, 2**31))
def test_classes(seed):
    """Float32 sums of torchmetrics against float64: 1e-5 is ample."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(4), 60).astype(np.float32)
    labels = rng.integers(0, 4, 60)
    known = np.where(rng.random(60) < 0.1, -100, labels)
    found = measured(CLASSES, (chances[:30], known[:30]), (chances[30:], known[30:]))
    real, ours = labels[known >= 0], chances[known >= 0]
    called = ours.argmax(1)
    assert found["loss"] == 1.5
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(real, called), abs=1e-5)
    assert found["f1"] == pytest.approx(sk.f1_score(real, called, average="macro"), abs=1e-5)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(real, called), abs=1e-5)
    areas = [sk.roc_auc_score(real == k, ours[:, k]) for k in np.unique(real)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-5)


@given(seed=st.integers(0, 2**31))
def test_two_classes(seed):
    rng = np.random.default_rng(seed)
    chances = rng.random((80, 1)).astype(np.float32)
    marks = (rng.random((80, 1)) < 0.4).astype(np.float32)
    marks[:2, 0] = 0, 1
    hidden = np.where(rng.random((80, 1)) < 0.2, np.nan, marks)
    hidden[:2] = marks[:2]
    found = measured(BINARY, (chances, hidden))
    known = ~np.isnan(hidden[:, 0])
    real, ours = marks[known, 0], chances[known, 0]
    assert found["f1"] == pytest.approx(sk.f1_score(real, ours > 0.5), abs=1e-5)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(real, ours > 0.5), abs=1e-5)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(real, ours), abs=1e-5)
    assert found["auprc"] == pytest.approx(sk.average_precision_score(real, ours), abs=1e-5)


@given(seed=st.integers(0, 2**31))
def test_numbers(seed):
    rng = np.random.default_rng(seed)
    real = rng.normal(100, 5, (40, 1)).astype(np.float32)
    ours = (real + rng.normal(0, 4, (40, 1))).astype(np.float32)
    hidden = real.copy()
    hidden[3] = np.nan
    found = measured(NUMBERS, (ours, hidden))
    a, b = np.delete(ours[:, 0], 3).astype(float), np.delete(real[:, 0], 3).astype(float)
    assert found["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-6)
    assert found["pearson"] == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-6)
    assert found["r2"] == pytest.approx(sk.r2_score(b, a), abs=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-6)
    assert found["mae"] == pytest.approx(np.mean(np.abs(a - b)), rel=1e-6)


def test_several_labels_are_means_over_them():
    rng = np.random.default_rng(0)
    chances = rng.random((50, 3)).astype(np.float32)
    marks = (rng.random((50, 3)) < 0.5).astype(np.float32)
    found = measured(LABELS, (chances, marks))
    areas = [sk.roc_auc_score(marks[:, k], chances[:, k]) for k in range(3)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-5)


def test_calling_all_the_same_is_worth_nothing():
    marks = np.array([[0], [0], [0], [1]], np.float32)
    assert measured(BINARY, (np.full((4, 1), 0.1), marks))["mcc"] == 0
    two = HeadConfig(level="sequence", problem="multiclass", labels=("a", "b"))
    assert measured(two, ([[0.9, 0.1]] * 4, marks[:, 0].astype(int)))["mcc"] == 0


def test_what_data_do_not_define_is_left_out():
    assert "auroc" not in measured(BINARY, ([[0.2], [0.4]], np.zeros((2, 1), np.float32)))
    assert "spearman" not in measured(NUMBERS, ([[1.0]], np.ones((1, 1), np.float32)))
    assert measured(CLASSES, ([[1, 0, 0, 0]], [-100])) == {"loss": 1.5}
    assert compute_metrics(Evidence(), PAIRS) == {}


@given(seed=st.integers(0, 2**31), length=st.integers(6, 30))
def test_precision_among_the_likeliest_pairs(seed, length):
    rng = np.random.default_rng(seed)
    chances, real = np.zeros((2, length, length), np.float32)
    for i in range(length):
        for j in range(i + 1, length):
            chances[i, j] = rng.random()
            real[i, j] = rng.random() < 0.2
    real[0, length - 1] = 1
    upper = np.triu_indices(length, 1)
    evidence = Evidence()
    evidence.add_pairs(chances[upper], real[upper], length)
    found = compute_metrics(evidence, PAIRS)
    far = [(chances[i, j], real[i, j]) for i in range(length) for j in range(i + 4, length)]
    ranked = [mark for _, mark in sorted(far, key=lambda pair: -pair[0])]
    for name, divisor in (("precision_at_l", 1), ("precision_at_l2", 2), ("precision_at_l5", 5)):
        count = max(length // divisor, 1)
        assert found[name] == pytest.approx(np.mean(ranked[:count]), abs=1e-6)
    mcc = sk.matthews_corrcoef(real[upper], chances[upper] >= 0.5)
    assert found["mcc"] == pytest.approx(mcc, abs=1e-9)


def test_evidence_of_several_workers_is_that_of_one():
    rng = np.random.default_rng(5)
    chances, labels = rng.dirichlet(np.ones(4), 30).astype(np.float32), rng.integers(0, 4, 30)
    whole, parts = Evidence(), [Evidence(loss=1, weight=2), Evidence(loss=2, weight=1)]
    whole.loss = whole.weight = 3
    whole.add_values(chances, labels)
    for k, part in enumerate(parts):
        part.add_values(chances[k::2], labels[k::2])
    assert compute_metrics(Evidence.merged(parts), CLASSES) == pytest.approx(
        compute_metrics(whole, CLASSES), abs=1e-6
    )


def test_the_metric_is_checked():
    assert chosen_metric("auto", CLASSES) == "mcc"
    assert chosen_metric("auto", PAIRS) == "precision_at_l"
    assert chosen_metric("rmse", NUMBERS) == "rmse"
    with pytest.raises(ConfigError, match="rmse is none of loss, accuracy"):
        chosen_metric("rmse", CLASSES)
    assert known_metrics(NUMBERS)[0] == "loss"


def test_structures_are_compared_pair_by_pair():
    sequence = "GGGAAACCC"
    chances = np.zeros((9, 9), np.float32)
    for i, j in ((0, 8), (1, 7), (2, 6)):
        chances[i, j] = chances[j, i] = 0.4
    reference = np.array([[0, 8], [1, 7], [3, 5]], np.int32)
    rna = fold_rna(chances, sequence, reference, 0.3)
    assert (rna.structure, rna.right, rna.predicted, rna.real) == ("(((...)))", 2, 3, 3)
    assert (rna.f1, rna.sensitivity, rna.ppv) == pytest.approx((2 / 3,) * 3)
    nothing = fold_rna(chances, sequence, reference, 0.5)
    assert (nothing.f1, nothing.sensitivity, nothing.ppv) == (0, 0, 1)
    found = structure_metrics([rna, nothing])
    assert found["structure_f1"] == pytest.approx(1 / 3)
    assert best_threshold({0.3: [rna], 0.5: [nothing]}) == 0.3
    assert best_threshold({0.3: [rna], 0.35: [rna]}) == 0.35
    assert FoldedRna(".", 0, 0, 0).f1 == 1
