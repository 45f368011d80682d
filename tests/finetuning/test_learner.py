"""A step is what its formulas say, however it is cut up, and a run that goes on is the same run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from riboray.errors import ConfigError, RiborayError
from riboray.finetuning.config import FinetuneConfig, SearchSpace
from riboray.finetuning.datasets import Dataset
from riboray.finetuning.features import features_of, tokens_of
from riboray.finetuning.learner import Learner
from riboray.finetuning.model import check_learners, check_options
from riboray.finetuning.outcome import choose_threshold, measure_model
from riboray.finetuning.tasks import Task
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from riboray.predicting.predictor import Predictor
from tests.conftest import random_sequences, tiny_config

CPU = torch.device("cpu")
TASKS = {
    "classes": Task("sequence", "multiclass", ("a", "b", "c")),
    "numbers": Task("sequence", "regression", ("p", "q")),
    "marks": Task("sequence", "multilabel", ("a", "b")),
    "paired": Task("nucleotide", "binary", ("no", "yes")),
    "track": Task("nucleotide", "multiclass", ("E", "S", "H")),
    "pairs": Task("contact", "binary", ("no", "yes"), structures=True),
    "distances": Task("contact", "regression", ("d",)),
}


def target_of(task, sequence, rng):
    n, outputs = len(sequence), 1 if task.problem == "binary" else len(task.labels)
    places = {"sequence": (), "nucleotide": (n,), "contact": (n, n)}[task.level]
    if task.structures:
        return np.array([[k, n - 1 - k] for k in range(n // 2 - 2)], np.int32).reshape(-1, 2)
    if task.problem == "multiclass":
        return rng.integers(-1, outputs, places)
    values = rng.normal(50, 20, (*places, outputs))
    if task.problem != "regression":
        values = (values > 50).astype(np.float32)
    if task.level == "contact":
        values = (values + values.swapaxes(0, 1)) / 2
    values[rng.random(values.shape) < 0.1] = np.nan
    if task.level == "contact":
        values = (values + values.swapaxes(0, 1)) / 2
    return values.astype(np.float32)


def dataset(name, rng, count=12, longest=70):
    sequences = random_sequences(rng, count, 6, longest)
    task = TASKS[name]
    return Dataset(task, sequences, [target_of(task, s, rng) for s in sequences])


def configured(checkpoint, **options):
    usual = {"train": ["t.csv"], "checkpoint": checkpoint, "dropout": 0.0, "batch_size": 5}
    return FinetuneConfig(**{**usual, **options})


@pytest.mark.parametrize("level", ["sequence", "nucleotide", "contact"])
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize("special", [False, True])
def test_features_predict_what_users_get(level, pooling, special, rng):
    """Short and long ones; both average the same windows, in another order: float32 rounding."""
    config = tiny_config(max_position_embeddings=40, add_bos=special, add_eos=special)
    head = HeadConfig(level=level, problem="regression", labels=("v",), pooling=pooling)
    torch.manual_seed(3)
    model = RnaBertForPrediction(config, head).eval()
    texts = random_sequences(rng, 6, 5, 38) + random_sequences(rng, 3, 41, 150)
    texts = texts[::2] + texts[1::2]
    found = model.of_features(features_of(model, texts))
    expected = Predictor(model).predict(texts).rows
    for ours, theirs in zip(found, expected, strict=True):
        assert np.allclose(ours.detach().numpy(), theirs, atol=2e-6)
    sum(part.sum() for part in found).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "token_type" not in n)
    alone = [features_of(model, [text])[0] for text in texts]
    for one, together in zip(alone, features_of(model, texts), strict=True):
        assert torch.allclose(one, together, atol=2e-6)
    assert tokens_of([len(t) for t in texts], model).min() >= 5


def reference_loss(learner, rows):
    """The mean over labels, one record and one label at a time."""
    total, weight = 0.0, 0.0
    head, scale = learner.head, learner.tuning.scale
    for row in rows:
        text, target = learner.data.sequences[row], learner.data.targets[row]
        (logits,) = learner.model.of_features(features_of(learner.model, [text]))
        n = len(text)
        if head.level == "contact":
            pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
            if target.dtype == np.int32:
                real = {tuple(pair) for pair in target.tolist()}
                labels = [np.array([float(pair in real)], np.float32) for pair in pairs]
            else:
                labels = [target[i, j] for i, j in pairs]
            parts = [logits[i, j] for i, j in pairs]
        else:
            parts = [logits] if head.level == "sequence" else list(logits)
            labels = [target] if head.level == "sequence" else list(target)
        losses = []
        for part, label in zip(parts, labels, strict=True):
            if head.problem == "multiclass":
                if label >= 0:
                    losses.append(-torch.log_softmax(part, -1)[int(label)])
                continue
            label = scale.scaled(np.asarray(label, np.float32))
            for value, wanted in zip(part, label, strict=True):
                if np.isnan(wanted):
                    continue
                if head.problem == "regression":
                    losses.append((value - float(wanted)) ** 2)
                else:
                    wanted = torch.tensor(float(wanted))
                    losses.append(functional.binary_cross_entropy_with_logits(value, wanted))
        if head.level == "contact":
            total, weight = total + n * sum(losses) / len(losses), weight + n
        else:
            total, weight = total + sum(losses), weight + len(losses)
    return total / weight


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_the_mean_over_labels_however_it_is_cut(name, tiny_checkpoint, rng):
    """One record at a time, in small batches, all at once: the same loss and gradient.

    Sums in another order differ by float32 rounding, some 1e-6 of gradients around 1."""
    data = dataset(name, rng)
    rows = np.arange(len(data))
    losses, gradients = [], []
    for budget in (40, 100, 100_000):
        learner = Learner(configured(tiny_checkpoint, token_budget=budget), data, rows, CPU)
        if not losses:
            loss = reference_loss(learner, rows.tolist())
            loss.backward()
            losses.append(float(loss))
            gradients.append([p.grad for p in learner.parameters if p.grad is not None])
        seen = []
        learner.optimizer.step = lambda seen=seen, learner=learner: seen.extend(
            p.grad.clone() for p in learner.parameters
        )
        learner.config = replace(learner.config, max_grad_norm=1e9)
        losses.append(learner.step(rows, 1e-3, 0).loss)
        gradients.append([g for g in seen if bool((g != 0).any())])
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    for other in gradients[1:]:
        kept = [g for g in gradients[0] if bool((g != 0).any())]
        for a, b in zip(kept, other, strict=True):
            assert torch.allclose(a, b, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_measurements_in_training_are_those_of_the_model_that_is_written(
    name, tiny_checkpoint, rng
):
    data = dataset(name, rng)
    rows = np.arange(len(data))
    learner = Learner(configured(tiny_checkpoint), data, rows, CPU)
    for step in range(3):
        learner.step(rows, 1e-2, step)
    model = learner.tuning.finished()
    outcome = measure_model(model, data, rows)
    found = learner.measure(rows)
    for metric, value in found.items():
        if metric != "loss":
            assert outcome.metrics[metric] == pytest.approx(value, abs=1e-4), metric
    assert len(outcome.predictions) == len(data)
    if data.task.structures:
        chosen = choose_threshold(model, data, rows)
        again = measure_model(chosen, data, rows).metrics["structure_f1"]
        assert again >= outcome.metrics["structure_f1"]
    if data.task.problem == "multiclass":
        known = sum(int((target >= 0).sum()) for target in data.targets)
        assert sum(map(sum, outcome.confusion)) == known


def test_a_frozen_encoder_is_asked_once_and_stays(tiny_checkpoint, rng, monkeypatch):
    data = dataset("paired", rng)
    rows = np.arange(len(data))
    kept, forgetful = (
        Learner(configured(tiny_checkpoint, learn="frozen"), data, rows, CPU) for _ in range(2)
    )
    before = {n: p.clone() for n, p in kept.model.model.named_parameters()}
    monkeypatch.setattr("riboray.finetuning.learner.KEPT_BYTES", 1 << 30)
    for step in range(3):
        kept.step(rows, 1e-2, step)
    monkeypatch.setattr("riboray.finetuning.learner.KEPT_BYTES", 0)
    for step in range(3):
        forgetful.step(rows, 1e-2, step)
    assert len(kept._features) == len(data)
    assert not forgetful._features
    assert all(torch.equal(before[n], p) for n, p in kept.model.model.named_parameters())
    made = forgetful.all_features(rows)
    told = Learner(configured(tiny_checkpoint, learn="frozen"), data, rows, CPU, made)
    told.model.model.forward = None  # it is not asked again
    for step in range(3):
        told.step(rows, 1e-2, step)
    for a, b, c in zip(kept.parameters, forgetful.parameters, told.parameters, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_additions_of_low_rank_are_learnt_and_added(tiny_checkpoint, rng):
    pytest.importorskip("peft")
    data = dataset("classes", rng)
    rows = np.arange(len(data))
    learner = Learner(configured(tiny_checkpoint, learn="lora", lora_rank=2), data, rows, CPU)
    learnt = {n for n, p in learner.model.named_parameters() if p.requires_grad}
    assert {n for n in learnt if not n.startswith("sequence_head")} == {
        n for n in learnt if "lora_" in n
    }
    assert len(learnt) > 10
    for step in range(3):
        learner.step(rows, 1e-2, step)
    plain = learner.tuning.finished()
    assert type(plain.model.encoder.layer[0].attention.self.query) is torch.nn.Linear
    with torch.no_grad():
        learner.model.eval()
        ours = learner.model.of_features(features_of(learner.model, data.sequences))
        theirs = plain.of_features(features_of(plain, data.sequences))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    base = Learner(configured(tiny_checkpoint), data, rows, CPU).model.state_dict()
    moved = plain.state_dict()["model.encoder.layer.0.attention.self.query.weight"]
    assert not torch.equal(moved, base["model.encoder.layer.0.attention.self.query.weight"])


def test_numbers_far_from_zero_are_learnt(tiny_checkpoint, rng):
    """Labels around 1e4 with a spread of 300: scaled in training, plain in the model written."""
    sequences = random_sequences(rng, 40, 10, 35)
    content = np.array([s.count("G") / len(s) for s in sequences])
    targets = [np.array([1e4 + 1e3 * c], np.float32) for c in content]
    data = Dataset(Task("sequence", "regression", ("v",)), sequences, targets)
    rows = np.arange(40)
    learner = Learner(configured(tiny_checkpoint), data, rows, CPU)
    for step in range(60):
        learner.step(rows, 1e-2, step)
    found = measure_model(learner.tuning.finished(), data, rows).metrics
    assert found["r2"] > 0.8
    again = Learner(configured(tiny_checkpoint), data, rows, CPU)
    assert again.measure(rows)["r2"] < 0.2


def test_rare_classes_count_more_if_asked(tiny_checkpoint, rng):
    sequences = random_sequences(rng, 40, 10, 35)
    targets = [np.array(int(k < 4)) for k in range(40)]
    data = Dataset(Task("sequence", "multiclass", ("a", "b")), sequences, targets)
    config = configured(tiny_checkpoint, class_weights="balanced")
    learner = Learner(config, data, np.arange(40), CPU)
    assert learner.weights.tolist() == pytest.approx([40 / (2 * 36), 40 / (2 * 4)])
    marks = [np.array([float(k < 4)], np.float32) for k in range(40)]
    data = Dataset(Task("sequence", "binary", ("a", "b")), sequences, marks)
    learner = Learner(config, data, np.arange(40), CPU)
    assert learner.weights.tolist() == pytest.approx([9.0])
    with pytest.raises(ConfigError, match="base pairs are rare"):
        Learner(config, dataset("pairs", rng), np.arange(12), CPU)


def test_a_gradient_that_is_no_number_stops_the_run(tiny_checkpoint, rng):
    data = dataset("numbers", rng)
    learner = Learner(configured(tiny_checkpoint), data, np.arange(12), CPU)
    with torch.no_grad():
        learner.parameters[0].fill_(float("nan"))
    with pytest.raises(RiborayError, match="diverged"):
        learner.step(np.arange(12), 1e-3, 0)


@pytest.mark.parametrize(
    ("name", "options", "kept", "told"),
    [
        ("paired", {"pooling": "mean"}, False, "nothing is pooled to predict nucleotides"),
        ("numbers", {"transform": "linear"}, True, "--new-head makes another"),
        ("numbers", {"search": SearchSpace(pooling=["mean", "pooler"])}, True, "--new-head"),
        ("numbers", {"search": SearchSpace(lora_rank=[4, 8])}, False, "say --learn lora"),
        (
            "numbers",
            {"learn": "frozen", "search": SearchSpace(encoder_scale=[0.1, 1.0])},
            False,
            "the encoder is frozen",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(name, options, kept, told, rng):
    data = dataset(name, rng, count=3)
    head = HeadConfig(level="sequence", problem="regression", labels=("p", "q")) if kept else None
    with pytest.raises(ConfigError, match=told):
        check_options(configured("m", **options), data, head)
    check_options(configured("m"), data, head)


def test_a_missing_library_is_told_before_anything_starts(monkeypatch):
    monkeypatch.setattr("riboray.finetuning.model.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"riboray\[lora\]"):
        check_learners(configured("m", learn="lora"))
    with pytest.raises(ConfigError, match=r"riboray\[lora\]"):
        check_learners(configured("m", search=SearchSpace(learn=["full", "lora"])))
    check_learners(configured("m"))
