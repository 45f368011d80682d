"""Fixtures of the tests of embedding."""

from __future__ import annotations

import pytest
import torch

from riboray.model import RnaBertForPreTraining, save_checkpoint
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small model, as a directory."""
    torch.manual_seed(5)
    config = tiny_config(
        max_position_embeddings=60,
    )
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(RnaBertForPreTraining(config), folder)
    return folder
