"""RNABERT in plain PyTorch: configuration, encoder, heads and checkpoints."""

from __future__ import annotations

from riboray.model.checkpoint import load_checkpoint, save_checkpoint
from riboray.model.config import RnaBertConfig
from riboray.model.encoder import RnaBertModel
from riboray.model.heads import RnaBertForPreTraining

__all__ = [
    "RnaBertConfig",
    "RnaBertForPreTraining",
    "RnaBertModel",
    "load_checkpoint",
    "save_checkpoint",
]
