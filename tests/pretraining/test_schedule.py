"""Phases, averaged weights, early stops, structure classes: what a run does besides stepping."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from riboray.corpus.structure import SS_CLASSES
from riboray.errors import ConfigError
from riboray.model import RnaBertConfig, load_checkpoint
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.curriculum import Phase
from riboray.pretraining.data import prepare_data
from riboray.pretraining.loop import run
from riboray.pretraining.masking import IGNORE
from riboray.pretraining.pairs import AlignedPair
from riboray.pretraining.sessions import LocalSession, Requests
from riboray.pretraining.streams import iterate_stream, pair_batch, structure_batch
from riboray.pretraining.trainer import Trainer
from tests.pretraining.test_loop import CPU, make, train, weights

THREE = [
    Phase(objectives="mlm", steps=3, learning_rate=2e-3),
    Phase(objectives="mlm+sal", steps=4),
    Phase(objectives="sal+ss", steps=5, learning_rate=5e-4),
]


@pytest.fixture(scope="module")
def corpus(sample_corpus):
    return sample_corpus


def steps_of(session):
    return [r for r in session.records if r["kind"] == "train"]


def three_phases(**options):
    return make(
        **{
            "curriculum": THREE,
            "max_steps": None,
            "record_seconds": 0,
            "evaluations": 2,
            "schedule": "constant",
            "warmup": 0,
            "ema_decay": 0.9,
            **options,
        }
    )


def test_phases_follow_each_other_and_their_end_ends_the_run(corpus):
    _, session, last = train(corpus, three_phases())
    records = steps_of(session)
    assert [r["step"] for r in records] == list(range(1, 13))
    assert [r["objectives"] for r in records] == ["mlm"] * 3 + ["mlm+sal"] * 4 + ["sal+ss"] * 5
    assert [r["phase"] for r in records] == [0] * 3 + [1] * 4 + [2] * 5
    assert [("mlm_loss" in r, "sal_loss" in r, "ss_loss" in r) for r in records] == (
        [(True, False, False)] * 3 + [(True, True, False)] * 4 + [(False, True, True)] * 5
    )
    assert [r["learning_rate"] for r in records] == [2e-3] * 3 + [1e-3] * 4 + [5e-4] * 5
    assert [r["progress"] for r in records] == pytest.approx([i / 12 for i in range(1, 13)])
    assert last["finished"]
    assert last["ss_accuracy"] > 0


@pytest.mark.parametrize("stop", [0, 2, 4, 6, 8, 10])
def test_a_run_stopped_in_any_phase_goes_on_bit_for_bit(corpus, tmp_path, stop):
    """Weights, averages, optimiser, phases, cursors, measurements: all go on as if never stopped.

    The clock and what is measured with it (rates, waits) is all that may differ.
    """
    config = three_phases()
    through, session, _ = train(corpus, config, CheckpointStore(tmp_path / "a"))

    class Stops(LocalSession):
        def requests(self):
            return Requests(stop=len(steps_of(self)) >= stop)

    store = CheckpointStore(tmp_path / "b")
    data, first = prepare_data(corpus, config, 2), Stops()
    halfway = run(
        config, Trainer(config, CPU), data.specs, iterate_stream, data.validation, first, store
    )
    assert not halfway["finished"]
    resumed, second, last = train(corpus, config, store)
    assert last["finished"]

    def plain(records):
        timed = ("elapsed_s", "tokens_per_s", "pairs_per_s", "data_wait", "alignment_wait", "mfu")
        chosen = [r for r in records if r["kind"] != "event"]
        return [{k: v for k, v in r.items() if k not in timed} for r in chosen]

    both = plain(first.records) + plain(second.records)
    assert both == plain(session.records), "no step twice, none skipped, every loss the same"
    for key, tensor in weights(through).items():
        assert torch.equal(tensor, weights(resumed)[key]), key
    for a, b in zip(through._average, resumed._average, strict=True):
        assert torch.equal(a, b)
    states = [
        json.loads((s.newest(print) / "training_state" / "state.json").read_text())
        for s in (CheckpointStore(tmp_path / "a"), store)
    ]
    for state in states:
        state.pop("elapsed_s")
    assert states[0] == states[1]


def test_averaged_weights_are_what_is_saved_and_measured(corpus, tmp_path):
    config = make(max_steps=6, ema_decay=0.5)
    store = CheckpointStore(tmp_path)
    trainer, _, last = train(corpus, config, store)
    saved = load_checkpoint(store.path(6)).model.state_dict()
    names = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    for name, average in zip(names, trainer._average, strict=True):
        assert torch.equal(saved[name], average)
    assert any(not torch.equal(saved[n], p) for n, p in trainer.model.named_parameters())
    plain = train(corpus, replace(config, ema_decay=0.0))[2]
    assert plain["mlm_loss"] != last["mlm_loss"]


def test_the_average_is_that_of_the_formula(corpus):
    config = make(ema_decay=0.9)
    data = prepare_data(corpus, config, 1)
    trainer = Trainer(config, CPU)
    stream = iterate_stream(data.specs["mlm"], 0)
    expected = [p.detach().clone().double() for p in trainer.parameters]
    for number in range(1, 5):
        trainer.step([next(stream)[1]], [], learning_rate=1e-2)
        decay = min(0.9, (1 + number) / (10 + number))
        expected = [
            decay * e + (1 - decay) * p.detach().double()
            for e, p in zip(expected, trainer.parameters, strict=True)
        ]
    for found, wanted in zip(trainer._average, expected, strict=True):
        assert torch.allclose(found.double(), wanted, atol=1e-6)  # float32 against float64


def scripted(monkeypatch, values):
    """Let measurements be what the script says; training goes on for real."""
    script = iter(values)
    monkeypatch.setattr(
        "riboray.pretraining.loop.evaluate", lambda *_: {"sal_f1": next(script), "mlm_loss": 1.0}
    )


def test_early_stop_ends_the_run_and_the_best_is_kept(corpus, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.0, 0.1, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9])
    config = make(max_steps=100, evaluations=49, patience=3)
    store = CheckpointStore(tmp_path, keep=1)
    _, session, last = train(corpus, config, store)
    assert last["finished"]
    assert last["step"] == 10, "measured every other step: best at 4, then three that are no better"
    assert store.best() == store.path(4)
    assert store.steps() == [4, 10]
    assert [r["best"] for r in session.records if "best" in r] == [True, True, False, False, False]
    event = session.records[-1]
    assert (event["kind"], event["progress"]) == ("event", 1.0)
    assert "no better sal_f1 in 3 measurements: the run ends" in event["message"]
    _, _, last = train(corpus, config, store)
    assert last["finished"]
    assert last["step"] == 10, "the same command finds the run over"


def test_early_stop_moves_on_to_the_next_phase(corpus, monkeypatch):
    scripted(monkeypatch, [0.0, 0.5, 0.4, 0.4, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    phases = [Phase(objectives="mlm+sal", steps=90), Phase(objectives="sal")]
    config = make(max_steps=20, evaluations=9, patience=2, curriculum=phases, record_seconds=0)
    _, session, last = train(corpus, config)
    assert [r["phase"] for r in steps_of(session)] == [0] * 6 + [1] * 14
    assert last["step"] == 20
    assert any("on to phase 2" in r.get("message", "") for r in session.records)


def test_a_full_disk_in_between_does_not_end_the_run(corpus, tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    real, failures = CheckpointStore.save, []

    def save(self, step, write, score=None):
        if step == 3:
            failures.append(step)
            raise OSError(28, "No space left on device")
        return real(self, step, write, score)

    monkeypatch.setattr(CheckpointStore, "save", save)
    _, session, last = train(corpus, make(max_steps=6, evaluations=1), store)
    assert failures == [3]
    assert last["finished"]
    told = [r["message"] for r in session.records if r["kind"] == "event"]
    assert told == ["checkpoint not written (No space left on device)"]
    with pytest.raises(OSError, match="No space"):  # what is lost for good is told
        train(corpus, make(max_steps=3), CheckpointStore(tmp_path / "other"))


def test_structure_batches_hold_the_classes_of_known_nucleotides(corpus):
    model = RnaBertConfig(add_bos=True, add_eos=True)
    batch = structure_batch(["GGAAACC", "ACG"], ["2266622", "012"], model)
    assert batch.labels.tolist() == [
        [IGNORE, 2, 2, 6, 6, 6, 2, 2, IGNORE],
        [IGNORE, IGNORE, 1, 2, *[IGNORE] * 5],
    ]
    assert batch.lengths.tolist() == [9, 5]
    assert len(SS_CLASSES) == 8


def test_structure_classes_are_learnt_without_the_held_out_families(corpus):
    phases = [Phase(objectives="ss")]
    config = make(max_steps=60, curriculum=phases, learning_rate=5e-3)
    data = prepare_data(corpus, config, 2)
    assert set(data.specs) == {"ss"}
    assert data.counts["ss_training_members"] > 1000
    assert data.counts["ss_validation_members"] > 50
    _, session, last = train(corpus, config)
    before = next(r for r in session.records if r["kind"] == "validation")
    assert before["ss_loss"] == pytest.approx(math.log(8), abs=0.3)
    assert last["ss_loss"] < before["ss_loss"] - 0.2


def test_an_objective_without_data_or_head_is_refused(corpus, tmp_path):
    no_head = RnaBertConfig(heads=("lm",))
    with pytest.raises(ConfigError, match="ss needs the ss head"):
        make(curriculum=[Phase(objectives="ss")], model=no_head)
    for file in corpus.glob("sequences-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = make(curriculum=[Phase(objectives="mlm", steps=1), Phase(objectives="sal")])
    with pytest.raises(ConfigError, match="phase 2 of the curriculum .* has no data"):
        prepare_data(tmp_path, replace(config, validation_families=[]), 1)


def test_pairs_are_masked_if_asked_and_only_then(corpus):
    plain, masked = (
        next(iterate_stream(prepare_data(corpus, make(mask_pairs=m), 1).specs["sal"], 0))[1]
        for m in (False, True)
    )
    mask_id = make().model.tokens.mask_id
    assert not (plain.input_ids == mask_id).any()
    assert (plain.reference == masked.reference).all()
    share = (masked.input_ids != plain.input_ids).sum() / plain.lengths.sum()
    assert share == pytest.approx(0.15 * 0.9, abs=0.02), "masked, or another nucleotide"


def test_gradients_accumulate_over_batches(corpus):
    """One worker with four batches takes the step that four batches make, not four steps."""
    config = make()
    data = prepare_data(corpus, config, 4)
    tokens = [next(iterate_stream(data.specs["mlm"], k))[1] for k in range(4)]
    pairs = [next(iterate_stream(data.specs["sal"], k))[1] for k in range(4)]
    trainer = Trainer(config, CPU)
    trainer.step(tokens, pairs, learning_rate=0.0)
    found = [p.grad.clone() for p in trainer.parameters if p.grad is not None]
    total = None
    targets = sum(int((b.labels != IGNORE).sum()) for b in tokens)
    count = sum(len(p.reference) for p in pairs)
    norm = 0.0
    other = Trainer(config, CPU)
    loss = sum(other.token_loss(b, "mlm").total for b in tokens) * (1.0 / targets)
    loss = loss + sum(other.finish(other.launch(p)).sum() for p in pairs) * (0.05 / count)
    loss.backward()
    total = [p.grad for p in other.parameters if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in total))
    scale = min(1.0, 1.0 / norm)
    for a, b in zip(found, total, strict=True):
        assert torch.allclose(a, b * scale, atol=1e-6)


def test_threads_beside_the_main_one_change_no_result(corpus):
    config = make()
    data = prepare_data(corpus, config, 3)
    tokens = [next(iterate_stream(data.specs["mlm"], k))[1] for k in range(2)]
    pairs = [next(iterate_stream(data.specs["sal"], k))[1] for k in range(3)]
    results = []
    for cpus in (1, 3):
        trainer = Trainer(replace(config, cpus_per_worker=cpus), CPU)
        for _ in range(3):
            metrics = trainer.step(tokens, pairs, learning_rate=1e-2)
        results.append((weights(trainer), asdict(replace(metrics, alignment_wait=0.0))))
    np.testing.assert_equal(results[0][1], results[1][1])  # what a step lacks is NaN in both
    for key, tensor in results[0][0].items():
        assert torch.equal(tensor, results[1][0][key]), key


@pytest.mark.slow
def test_a_compiled_encoder_computes_the_same(corpus):
    config = make(max_steps=4)
    plain, _, first = train(corpus, config)
    compiled, _, second = train(corpus, replace(config, compile=True))
    for key, tensor in weights(plain).items():
        # Fused kernels round differently; AdamW turns that into steps of the learning rate's
        # size where a gradient is near 0.
        assert torch.allclose(tensor, weights(compiled)[key], atol=5e-3), key
    assert second["mlm_loss"] == pytest.approx(first["mlm_loss"], rel=1e-3)


def test_empty_pairs_have_no_loss():
    batch = pair_batch([AlignedPair("ACGU", "ACGU", "F")], make().model)
    trainer = Trainer(make(), CPU)
    losses = trainer.finish(trainer.launch(batch))
    assert losses.shape == (1,)
    assert 0 <= losses.item() < math.inf
