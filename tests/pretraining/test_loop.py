"""The loop in one process: it learns, it stops and goes on bit for bit, it splits exactly."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from riboray.errors import CheckpointError, RiborayError
from riboray.model import load_checkpoint
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import Phase, learning_rate
from riboray.pretraining.data import prepare_data
from riboray.pretraining.loop import run
from riboray.pretraining.report import draw_training_curve, summarise
from riboray.pretraining.sessions import LocalSession
from riboray.pretraining.streams import iterate_stream, read_visit
from riboray.pretraining.trainer import Trainer
from tests.conftest import tiny_config

CPU = torch.device("cpu")

#: Muon, positions that start as waves, a loss against all alignments.
NEWER = {"optimizer": "muon", "position_init": "sinusoidal", "sal_temperature": 0.2}

#: Alignments of groups of members instead of pairs of the corpus.
GROUPS = {"group_size": 4, "pair_tokens_per_batch": 2048, "focus_families": ["RF00005"]}


@pytest.fixture(scope="module")
def corpus(sample_corpus):
    return sample_corpus


def make(**options):
    tiny = tiny_config()
    defaults = {
        "model": tiny,
        "validation_families": ["RF00003", "RF00006"],
        "validation_pairs": 20,
        "max_steps": 10,
        "evaluations": 1,
    }
    return PretrainConfig(**{**defaults, **options})


def train(corpus, config, store=None, streams=2):
    data = prepare_data(corpus, config, streams)
    session, trainer = LocalSession(), Trainer(config, CPU)
    last = run(config, trainer, data.specs, iterate_stream, data.validation, session, store)
    return trainer, session, last


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 5e-3},
        {"learning_rate": 2e-3, **NEWER},
        {"learning_rate": 5e-3, **GROUPS, "sal_weight": 1.0, "sal_length_power": 1.0},
    ],
    ids=["original", "newer", "groups"],
)
def test_both_objectives_are_learnt(corpus, options):
    config = make(max_steps=120, **options)
    _, session, last = train(corpus, config)
    before = next(r for r in session.records if r["kind"] == "validation")
    assert last["finished"]
    assert last["step"] == 120
    assert before["mlm_loss"] == pytest.approx(math.log(28), abs=0.2)
    assert last["mlm_loss"] < 1.45
    assert last["mlm_accuracy"] > before["mlm_accuracy"] + 0.1
    assert last["sal_f1"] > before["sal_f1"] + 0.1
    assert last["sal_loss"] < before["sal_loss"]


@pytest.mark.parametrize("weights_of", [(1.0, 0.0), (0.0, 0.05)], ids=["mlm alone", "sal alone"])
def test_each_objective_alone(corpus, weights_of):
    mlm, sal = weights_of
    config = make(max_steps=15, mlm_weight=mlm, sal_weight=sal)
    trainer, session, _ = train(corpus, config)
    training = [r for r in session.records if r["kind"] == "train"]
    assert ("mlm_loss" in training[-1]) == bool(mlm)
    assert ("sal_loss" in training[-1]) == bool(sal)
    assert all(torch.isfinite(p).all() for p in trainer.parameters)


#: Another focus from the fourth step on.
PHASES = {
    "curriculum": [Phase(steps=3), Phase(focus_families=["RF00004"], focus_share=0.9)],
    "batches_per_step": 2,
}


@pytest.mark.parametrize(
    "options",
    [{}, {**NEWER, **GROUPS, "ema_decay": 0.9}, {**GROUPS, **PHASES}, PHASES],
    ids=["original", "newer", "groups by phase", "pairs by phase"],
)
def test_stop_and_go_equals_going_through(corpus, tmp_path, options):
    """10 steps = 5 steps, a checkpoint, a new process's worth of state, 5 more: bit for bit."""
    config = make(max_steps=10, **options)  # the evaluation at step 5 makes a checkpoint
    through, session, _ = train(corpus, config, CheckpointStore(tmp_path / "a", 9))
    checkpoint = tmp_path / "a" / "step-000000005"
    assert json.loads((checkpoint / "training_state" / "state.json").read_text())["step"] == 5
    (tmp_path / "b").mkdir()
    checkpoint.rename(tmp_path / "b" / checkpoint.name)
    resumed, again, _ = train(corpus, config, CheckpointStore(tmp_path / "b"))
    for key, tensor in weights(through).items():
        assert torch.equal(tensor, weights(resumed)[key]), key
    finals = [
        {k: v for k, v in s.records[-1].items() if k != "elapsed_s"} for s in (session, again)
    ]
    assert finals[0] == finals[1]


def test_warming_up_leaves_no_trace(corpus):
    """Weights, optimiser, random numbers and the next step are as if it had not been."""
    config = make(ema_decay=0.9)
    specs = prepare_data(corpus, config, 1).specs
    mlm, sal = ([next(iterate_stream(spec, 0))[1]] for spec in (specs["mlm"], specs["sal"]))
    warm, cold = Trainer(config, CPU), Trainer(config, CPU)
    state = torch.get_rng_state()
    warm.warm_up(mlm, sal)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in warm.parameters)
    metrics, untimed = [], {"alignment_wait": 0.0, "ss_loss": 0.0, "ss_accuracy": 0.0}
    for trainer in (warm, cold):
        torch.set_rng_state(state)
        metrics.append(trainer.step(mlm, sal, learning_rate=1e-3))
    one, other = (asdict(replace(m, **untimed)) for m in metrics)
    np.testing.assert_equal(one, other)  # what a step lacks is NaN in both
    one, other = weights(warm), weights(cold)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_streams_in_one_step_equal_one_larger_batch(corpus):
    """A step over two streams is the mean over all their targets, not a mean of means."""
    config = make(max_steps=3)
    data = prepare_data(corpus, config, 2)
    batches = [next(iterate_stream(data.specs["mlm"], k))[1] for k in range(2)]
    pairs = [next(iterate_stream(data.specs["sal"], k))[1] for k in range(2)]
    trainers = [Trainer(config, CPU) for _ in range(2)]
    together = trainers[0].step(batches, pairs, learning_rate=1e-3)
    # By hand: sums of losses over sums of counts.
    singles = [Trainer(config, CPU).step([b], [], learning_rate=0.0) for b in batches]
    targets = [int((b.labels != 255).sum()) for b in batches]
    mean = sum(s.mlm_loss * n for s, n in zip(singles, targets, strict=True)) / sum(targets)
    assert together.mlm_loss == pytest.approx(mean, rel=1e-5)
    assert together.pairs == sum(len(p.reference) for p in pairs)
    assert together.tokens == sum(int(b.lengths.sum()) for b in (*batches, *pairs))


def test_the_final_checkpoint_is_a_model(corpus, tmp_path):
    config = make(max_steps=4)
    store = CheckpointStore(tmp_path)
    trainer, _, _ = train(corpus, config, store)
    loaded = load_checkpoint(store.path(4))
    for key, tensor in weights(trainer).items():
        assert torch.equal(tensor, loaded.model.state_dict()[key])
    lines = (store.path(4) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["kind"] == "validation"


def test_a_checkpoint_of_another_model_is_refused(corpus, tmp_path):
    store = CheckpointStore(tmp_path)
    train(corpus, make(max_steps=2), store)
    other = make(max_steps=4, model=replace(make().model, num_hidden_layers=1))
    with pytest.raises(CheckpointError, match="another configuration"):
        train(corpus, other, store)


@pytest.mark.parametrize(
    "limit",
    [
        {"max_steps": 3},
        {"max_steps": None, "max_epochs": 0.2},
        {"max_steps": None, "max_minutes": 0.02},
    ],
)
def test_every_limit_ends_the_run(corpus, limit):
    _, _, last = train(corpus, make(**limit))
    assert last["finished"]
    assert last["progress"] == 1.0


def test_learning_rate_schedule():
    factors = [learning_rate(1.0, p / 100, 0.1, "cosine") for p in range(101)]
    assert factors[0] > 0
    assert factors[10] == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert learning_rate(2.0, 0.0, 0.0, "cosine") == 2.0
    assert learning_rate(2.0, 0.99, 0.5, "constant") == 2.0
    assert learning_rate(2.0, 0.25, 0.5, "constant") == 1.0


def test_gradients_are_clipped(corpus):
    config = make(max_grad_norm=1e-3)
    data = prepare_data(corpus, config, 1)
    trainer = Trainer(config, CPU)
    batch = next(iterate_stream(data.specs["mlm"], 0))[1]
    metrics = trainer.step([batch], [], learning_rate=1e-3)
    assert metrics.gradient_norm > 1e-3
    total = sum(p.grad.square().sum() for p in trainer.parameters if p.grad is not None)
    assert float(total) ** 0.5 == pytest.approx(1e-3, rel=1e-3)


def test_figure_and_summary(corpus, tmp_path):
    _, session, last = train(corpus, make(max_steps=6, record_seconds=0))
    draw_training_curve(session.records, tmp_path / "curve.png", "test")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    summary = summarise(session.records)
    assert summary["steps"] == 6
    assert summary["after"]["sal_f1"] == last["sal_f1"]
    assert summary["before"]["mlm_loss"] > summary["after"]["mlm_loss"]


def test_a_step_that_diverges_stops_the_run_and_leaves_the_weights(corpus):
    """A NaN anywhere is in the norm of the gradient, of any objective and on any device."""
    config = make(curriculum=[Phase(objectives="mlm")])
    data = prepare_data(corpus, config, 1)
    batch = read_visit(data.specs["mlm"], 0)[0]
    trainer = Trainer(config, CPU)
    with torch.no_grad():
        trainer.model.lm_head.decoder.bias[3] = math.nan
    before = weights(trainer)
    with pytest.raises(RiborayError, match="training diverged"):
        trainer.step([batch], [], learning_rate=1e-3)
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, before[name]) or name.endswith("decoder.bias"), name
