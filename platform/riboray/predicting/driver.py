"""The verb `predict`."""

from __future__ import annotations

from typing import Any

from riboray.embedding.partwise import make_parts
from riboray.errors import CheckpointError, ConfigError
from riboray.model.checkpoint import load_checkpoint
from riboray.model.prediction import RnaBertForPrediction
from riboray.predicting.config import PredictConfig
from riboray.predicting.making import PREDICTIONS
from riboray.rayenv import prepare_ray

__all__ = ["predict"]


def predict(config: PredictConfig) -> dict[str, Any]:
    """Predict for every sequence of the input, in its order; return the counts.

    Raises
    ------
    CheckpointError
        If the model cannot be read, or predicts nothing.
    ConfigError
        If structures are wanted of a model that does not predict pairs.
    RiborayError
        On input that cannot be used, or an output directory that something else made.
    """
    address = prepare_ray(config.ray_address)
    loaded = load_checkpoint(config.checkpoint)
    model = loaded.model
    if not isinstance(model, RnaBertForPrediction):
        raise CheckpointError(config.checkpoint, "has no prediction head")
    head = model.head_config
    if config.structures and (head.level, head.problem) != ("contact", "binary"):
        raise ConfigError(
            f"--structures: the model predicts {head.problem} of {head.level}s, not which pair"
        )
    details = {
        "level": head.level,
        "problem": head.problem,
        "labels": list(head.labels),
        "format": config.format,
        "structures": list(config.structures),
    }
    return make_parts(config, config.output, loaded, PREDICTIONS, address, details)
