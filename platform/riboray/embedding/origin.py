"""The model that made embeddings."""

from __future__ import annotations

from pathlib import Path

import yaml

from riboray.errors import ConfigError
from riboray.model.bundled import checkpoint_exists

__all__ = ["model_of"]


def model_of(directory: Path) -> str:
    """Return the checkpoint that a directory of embeddings was made with, as it was named then.

    Raises
    ------
    ConfigError
        If the directory does not tell, or there is nothing there any more.
    """
    resolved = directory / "resolved_config.yaml"
    try:
        path = str(yaml.safe_load(resolved.read_text("utf-8"))["checkpoint"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{resolved} does not name the model: give --checkpoint") from error
    if not checkpoint_exists(path):
        raise ConfigError(f"the model is no longer at {path}: give --checkpoint")
    return path
