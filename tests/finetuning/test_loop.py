"""A run that goes on is the same run; it ends when it should, and keeps what is best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from riboray.finetuning.learner import Learner
from riboray.finetuning.loop import run, steps_of
from riboray.finetuning.metrics import compute_metrics
from riboray.finetuning.splitting import Fold
from riboray.model.heads import RnaBertForPreTraining
from riboray.predicting.predictor import Predictor
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.sessions import LocalSession, Requests
from tests.finetuning.test_learner import CPU, configured, dataset


class Stopping(LocalSession):
    """Asks for a stop after so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def requests(self):
        self.left -= 1
        return Requests(stop=self.left < 0)


def fold_of(count):
    rows = np.arange(count)
    return Fold("all", rows[: count - 6], rows[count - 6 : count - 3], rows[count - 3 :])


@pytest.mark.parametrize("learn", ["full", "frozen", "lora"])
def test_a_run_that_goes_on_is_the_same_run(learn, tiny_checkpoint, rng, tmp_path):
    data, fold = dataset("classes", rng, count=23), fold_of(23)
    config = configured(tiny_checkpoint, learn=learn, max_epochs=3, patience=0, dropout=0.3)

    def go(folder, session):
        learner = Learner(config, data, fold.train, CPU)
        store = CheckpointStore(folder)
        return run(config, learner, fold, session, store), learner, session

    end, through, whole = go(tmp_path / "a", LocalSession())
    assert end["finished"]
    assert end["step"] == steps_of(config, len(fold.train))[1] == 12
    first, _, _ = go(tmp_path / "b", Stopping(5))
    assert not first["finished"]
    assert first["step"] == 5
    second, resumed, more = go(tmp_path / "b", LocalSession())
    assert second["step"] == 12
    for a, b in zip(through.parameters, resumed.parameters, strict=True):
        assert torch.equal(a, b)
    events = [r["message"] for r in more.records if r["kind"] == "event"]
    assert events[0].startswith("resumed at step 5")
    validations = [r for r in whole.records if r["kind"] == "validation"]
    assert [r["step"] for r in validations] == [0, 4, 8, 12]
    again, _, quiet = go(tmp_path / "a", LocalSession())
    assert again["step"] == 12
    assert not [r for r in quiet.records if r["kind"] == "validation"]


def test_a_run_stops_when_it_gets_no_better_and_goes_on_with_more_patience(
    tiny_checkpoint, rng, tmp_path
):
    data, fold = dataset("classes", rng, count=23), fold_of(23)
    config = configured(
        tiny_checkpoint, max_epochs=50, patience=2, learning_rate=1e-6, metric="accuracy"
    )
    session, store = LocalSession(), CheckpointStore(tmp_path)
    end = run(config, Learner(config, data, fold.train, CPU), fold, session, store)
    assert end["finished"]
    assert end["progress"] == 1
    assert end["step"] == 2 * 4
    assert "no better accuracy in 2" in session.records[-1]["message"]
    config = replace(config, patience=4)
    end = run(config, Learner(config, data, fold.train, CPU), fold, session, store)
    assert end["step"] == 4 * 4
    # All have the same accuracy: the loss decides, and patience looks at the accuracy alone.
    measured = [r for r in session.records if r["kind"] == "validation"]
    assert len({r["accuracy"] for r in measured}) == 1
    assert len({r["loss"] for r in measured}) > 1
    assert store.best() == store.path(min(measured, key=lambda r: (r["loss"], r["step"]))["step"])


def test_a_run_may_end_before_its_schedule(tiny_checkpoint, rng):
    data = dataset("classes", rng, count=20)
    none = np.empty(0, np.int64)
    fold = Fold("all", np.arange(20), none, none)
    config = configured(tiny_checkpoint, max_epochs=4, record_seconds=0)
    session = LocalSession()
    end = run(config, Learner(config, data, fold.train, CPU), fold, session, None, 6)
    assert (end["step"], end["finished"], end["best"]) == (6, True, None)
    rates = [r["learning_rate"] for r in session.records if r["kind"] == "train"]
    whole = LocalSession()
    run(config, Learner(config, data, fold.train, CPU), fold, whole)
    assert rates == [r["learning_rate"] for r in whole.records if r["kind"] == "train"][:6]


@pytest.mark.parametrize("record_seconds", [0.0, 100.0])
def test_the_last_step_is_measured_and_kept(record_seconds, tiny_checkpoint, rng, tmp_path):
    """An end within an epoch, and one that was told beforehand, whether records are due or not."""
    data, fold = dataset("classes", rng, count=26), fold_of(26)
    config = configured(
        tiny_checkpoint, max_epochs=2.5, record_seconds=record_seconds, learning_rate=1e-9
    )
    session, store = LocalSession(), CheckpointStore(tmp_path / "a")
    run(config, Learner(config, data, fold.train, CPU), fold, session, store)
    steps = [r["step"] for r in session.records if r["kind"] == "validation"]
    assert steps == [0, 4, 8, 10]
    assert store.steps()[-1] == 10
    none = np.empty(0, np.int64)
    every, store = Fold("all", np.arange(26), none, none), CheckpointStore(tmp_path / "b")
    run(config, Learner(config, data, every.train, CPU), every, session, store, 7)
    assert store.steps() == [7]


def test_a_head_is_gone_on_with(tiny_checkpoint, rng, tmp_path):
    """Without a step, a model that is fine-tuned again predicts what it did."""
    from riboray.model import save_checkpoint

    data = dataset("numbers", rng)
    rows = np.arange(len(data))
    learner = Learner(configured(tiny_checkpoint), data, rows, CPU)
    learner.step(rows, 1e-2, 0)
    model = learner.tuning.finished()
    path = str(save_checkpoint(model, tmp_path / "m"))
    again = Learner(configured(path), data, rows[:7], CPU).tuning.finished()
    ours, theirs = (Predictor(m).predict(data.sequences).rows for m in (model, again))
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    fresh = Learner(configured(path, new_head=True), data, rows, CPU).tuning.finished()
    assert not np.allclose(ours, Predictor(fresh).predict(data.sequences).rows, rtol=1e-3)
    assert isinstance(fresh, RnaBertForPreTraining)
    assert compute_metrics(learner.collect(rows), learner.head)["loss"] > 0
