"""RNABERT in plain PyTorch: configuration, encoder, heads and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riboray._lazy import lazy_exports

if TYPE_CHECKING:
    from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint, save_checkpoint
    from riboray.model.config import RnaBertConfig
    from riboray.model.encoder import RnaBertModel
    from riboray.model.heads import RnaBertForPreTraining
    from riboray.model.vocabulary import convert_vocabulary

__all__ = [
    "LoadedCheckpoint",
    "RnaBertConfig",
    "RnaBertForPreTraining",
    "RnaBertModel",
    "convert_vocabulary",
    "load_checkpoint",
    "save_checkpoint",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "LoadedCheckpoint": "checkpoint",
        "RnaBertConfig": "config",
        "RnaBertForPreTraining": "heads",
        "RnaBertModel": "encoder",
        "convert_vocabulary": "vocabulary",
        "load_checkpoint": "checkpoint",
        "save_checkpoint": "checkpoint",
    },
)
