"""Fixtures of the tests of embedding."""

from __future__ import annotations

import pytest
import torch

from riboray.model import RnaBertConfig, RnaBertForPreTraining, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small model, as a directory."""
    torch.manual_seed(5)
    config = RnaBertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=16,
        max_position_embeddings=60,
    )
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(RnaBertForPreTraining(config), folder)
    return folder
