"""Runs that start from a checkpoint instead of random weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from riboray.corpus import trained as trained_module
from riboray.corpus.trained import TrainedSequences
from riboray.errors import CheckpointError, ConfigError, OutputError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.pretraining import driver
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.start import keep_start
from riboray.pretraining.trainer import Trainer
from tests.conftest import tiny_config
from tests.model.test_checkpoint import published_file
from tests.pretraining.test_loop import CPU, corpus, make, train, weights

__all__ = ["corpus"]  # the fixture


def test_a_bundled_model_goes_on(sample_corpus):
    """Weights are those of the model, and so is what is measured before the first step."""
    config = PretrainConfig(init="rnabert", validation_families=["RF00003", "RF00006"])
    trainer = Trainer(config, CPU)
    for name, tensor in load_checkpoint("rnabert").model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor), name
    data = prepare_data(sample_corpus, config, 1)
    before = TrainedSequences.read(load_checkpoint("rnabert").path)
    assert before is not None
    assert set(before.masked.tolist()) <= set(data.trained.masked.tolist())
    assert data.trained.masked_total == len(data.trained.masked) > before.masked_total


def test_training_goes_on_from_there(corpus, tmp_path):
    _, _, first = train(corpus, make(max_steps=60, learning_rate=5e-3))
    trainer, _, _ = train(corpus, make(max_steps=60, learning_rate=5e-3))
    save_checkpoint(trainer.model, tmp_path / "c")
    config = make(max_steps=5, init=str(tmp_path / "c"))
    assert all(
        torch.equal(tensor, trainer.model.state_dict()[name])
        for name, tensor in weights(Trainer(config, CPU)).items()
    )
    _, session, last = train(corpus, config)
    before = next(r for r in session.records if r["kind"] == "validation")
    assert before["mlm_loss"] == pytest.approx(first["mlm_loss"], abs=1e-4)
    assert last["finished"]
    # What a checkpoint without a list was trained on is not known: nothing is claimed.
    assert prepare_data(corpus, config, 1).trained is None


def test_another_shape_or_none(corpus, tmp_path):
    save_checkpoint(Trainer(make(), CPU).model, tmp_path / "tiny")
    other = PretrainConfig(init=str(tmp_path / "tiny"), validation_families=["RF00003"])
    with pytest.raises(ConfigError, match="has another shape than the run's model: lm_head"):
        prepare_data(corpus, other, 1)
    bos = make(model=replace(tiny_config(), add_bos=True), max_length=400)
    save_checkpoint(Trainer(bos, CPU).model, tmp_path / "bos")
    with pytest.raises(ConfigError, match="has add_bos True, and the run False"):
        prepare_data(corpus, make(init=str(tmp_path / "bos")), 1)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        prepare_data(corpus, make(init=str(tmp_path / "nothing")), 1)


def test_what_two_trainings_saw(rng, monkeypatch):
    one, other = (rng.integers(0, 2**64, n, dtype=np.uint64) for n in (1000, 3000))
    whole = TrainedSequences.of(one, one[:10]).and_those_of(TrainedSequences.of(other, one[:20]))
    assert whole.masked.tolist() == np.union1d(one, other).tolist()
    assert (whole.masked_total, whole.aligned_total) == (4000, 20)
    monkeypatch.setattr(trained_module, "_MOST", 500)
    some = TrainedSequences.of(one, one[:10]).and_those_of(TrainedSequences.of(other, one[:20]))
    # 500 of the 3,000 are known, so only the lowest sixth of all hashes is.
    assert some.masked.tolist() == np.union1d(one, other)[: len(some.masked)].tolist()
    assert some.masked_total == pytest.approx(4000, rel=0.15)
    assert some.aligned_total == 20
    assert not some.overlap(["ACGU"]).exact


def saved(folder, seed):
    torch.manual_seed(seed)
    return save_checkpoint(RnaBertForPreTraining(tiny_config()), folder)


def test_it_is_copied_once_and_outlives_the_original(tmp_path, monkeypatch):
    first = saved(tmp_path / "first", 1)
    (first / "training_state").mkdir()
    (first / "training_state" / "trainer.pt").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    kept, sha256 = keep_start("first", tmp_path / "run" / "start")
    assert kept == str(tmp_path / "run" / "start" / "first")
    assert load_checkpoint(kept).sha256 == sha256 == load_checkpoint(first).sha256
    assert not (tmp_path / "run" / "start" / "first" / "training_state").exists()
    assert keep_start("first", tmp_path / "run" / "start") == (kept, sha256)
    shutil.rmtree(first)
    assert keep_start("first", tmp_path / "run" / "start") == (kept, sha256)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        keep_start("first", tmp_path / "other" / "start")


def test_an_original_that_changed_is_told(tmp_path):
    first = saved(tmp_path / "first", 1)
    _, before = keep_start(str(first), tmp_path / "start")
    shutil.rmtree(first)
    saved(first, 2)
    kept, now = keep_start(str(first), tmp_path / "start")
    assert now != before
    assert load_checkpoint(kept).sha256 == before
    first.rename(tmp_path / "other")  # as of one that has another name
    assert keep_start(str(tmp_path / "other"), tmp_path / "start") == (kept, now)


def test_a_run_goes_on_with_the_checkpoint_it_began_with(tmp_path, monkeypatch):
    """By its content: wherever it lies now, and no other one, and not without one."""
    monkeypatch.setattr(driver, "_train", lambda config, run, data: {"init": config.init})
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    for name, seed in (("first", 1), ("other", 2)):
        torch.manual_seed(seed)
        save_checkpoint(RnaBertForPreTraining(RnaBertConfig(**shape)), tmp_path / name)

    def begin(init):
        given = PretrainConfig(
            storage=str(tmp_path), run_name="r", init=init, model=RnaBertConfig(**shape)
        )
        return driver.pretrain(given)["init"]

    kept = begin(str(tmp_path / "first"))
    assert kept == str(tmp_path / "r" / "start" / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    assert begin(str(tmp_path / "moved")) == kept
    with pytest.raises(OutputError, match="has changed since it began"):
        begin(str(tmp_path / "other"))
    with pytest.raises(OutputError, match="a run with other options"):
        begin(None)


def test_a_file_is_copied_as_a_file(tmp_path):
    published_file(tmp_path / "bert.pth")
    kept, sha256 = keep_start(str(tmp_path / "bert.pth"), tmp_path / "start")
    assert load_checkpoint(kept).format == "published"
    assert load_checkpoint(kept).sha256 == sha256


def test_a_model_that_comes_with_riboray_is_everywhere_already(tmp_path):
    kept, sha256 = keep_start("rnabert-zero-shot", tmp_path / "start")
    assert kept == "rnabert-zero-shot"
    assert sha256 == load_checkpoint("rnabert-zero-shot").sha256
    assert not (tmp_path / "start").exists()
