"""The verb `convert`: any RNABERT checkpoint in, a directory that MultiMolecule opens out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from riboray.alphabet import get_vocabulary
from riboray.errors import ConfigError
from riboray.model.checkpoint import describe, load_checkpoint, save_checkpoint
from riboray.model.metadata import TRAINED_NAME
from riboray.model.vocabulary import convert_vocabulary

__all__ = ["ConvertConfig", "convert"]


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Read any RNABERT checkpoint and write it as a directory that MultiMolecule opens."""

    checkpoint: str = ""
    """The published .pth, a directory that riboray or MultiMolecule wrote, or an id of the Hugging
    Face Hub."""
    output: str = ""
    """New directory to write."""
    vocabulary: str = "multimolecule"
    """Vocabulary to write; MultiMolecule opens ``multimolecule`` (28 tokens) only."""

    def __post_init__(self) -> None:
        for name in ("checkpoint", "output"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is required")
        get_vocabulary(self.vocabulary)


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Convert a checkpoint; return its description.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read.
    OutputError
        If the output exists.
    """
    loaded = load_checkpoint(config.checkpoint)
    model = loaded.model
    if model.config.vocabulary != config.vocabulary:
        model = convert_vocabulary(model, get_vocabulary(config.vocabulary))
    save_checkpoint(model, config.output)
    trained = loaded.path / TRAINED_NAME
    if trained.is_file():
        shutil.copy(trained, config.output)
    return describe(load_checkpoint(config.output))
