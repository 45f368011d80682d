"""Models by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from riboray.errors import CheckpointError
from riboray.model import load_checkpoint
from riboray.model.bundled import (
    DEFAULT_MODEL,
    bundled_models,
    checkpoint_exists,
    checkpoint_path,
    same_path,
)
from riboray.model.checkpoint import describe


def test_a_name_is_a_model_wherever_one_is(tmp_path, monkeypatch):
    assert DEFAULT_MODEL in bundled_models()
    monkeypatch.chdir(tmp_path)
    for name in bundled_models():
        loaded = load_checkpoint(name)
        assert loaded.path.is_dir()
        assert loaded.name == describe(loaded)["path"] == name
        assert load_checkpoint(loaded.path).name == name
        assert load_checkpoint(loaded.name).sha256 == loaded.sha256
        assert sum(p.numel() for p in loaded.model.model.parameters()) == 481_080


def test_what_is_no_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert checkpoint_path(DEFAULT_MODEL) != Path(DEFAULT_MODEL)
    assert checkpoint_path(f"./{DEFAULT_MODEL}/") == Path(DEFAULT_MODEL)
    assert same_path(Path(DEFAULT_MODEL)) == str(tmp_path / DEFAULT_MODEL)
    with pytest.raises(CheckpointError, match="not a checkpoint directory"):
        load_checkpoint(f"./{DEFAULT_MODEL}")
    assert checkpoint_exists(DEFAULT_MODEL)
    assert not checkpoint_exists("nowhere")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint("nowhere")
