"""The verb `predict`."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from riboray.embedding.partwise import make_parts
from riboray.errors import CheckpointError, ConfigError
from riboray.manifest import check_writable
from riboray.model.bundled import DEFAULT_MODEL
from riboray.model.checkpoint import load_checkpoint
from riboray.model.prediction import RnaBertForPrediction
from riboray.predicting.config import PredictConfig
from riboray.predicting.expecting import FILLED, MUTATIONS
from riboray.predicting.heatmap import draw_heat_maps
from riboray.predicting.making import PREDICTIONS, read_columns
from riboray.rayenv import prepare_ray

__all__ = ["predict"]

#: RNAs of a picture.
_DRAWN = 6


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
    if config.asks_language:
        return _ask_language(config, address)
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


def _ask_language(config: PredictConfig, address: str) -> dict[str, Any]:
    """Score substitutions, or fill ambiguity codes."""
    if config.heat_map is not None and not config.dry_run:
        check_writable(Path(config.heat_map), "heat_map")
    config = replace(config, checkpoint=config.checkpoint or DEFAULT_MODEL)
    loaded = load_checkpoint(config.checkpoint)
    if loaded.model.lm_head is None:
        raise CheckpointError(config.checkpoint, "has no language-model head")
    if config.fill and loaded.model.config.tokens.id_of("N") is None:
        raise ConfigError("--fill: the model's vocabulary has no ambiguity codes")
    product = MUTATIONS if config.mutations else FILLED
    details = {"format": config.format}
    found = make_parts(config, config.output, loaded, product, address, details)
    if config.heat_map is not None and not config.dry_run:
        _draw(config, Path(config.heat_map))
        found["heat_map"] = config.heat_map
    return found


def _draw(config: PredictConfig, path: Path) -> None:
    """Draw the first RNAs' substitutions."""
    names = ["id", "sequence", "log_odds"]
    files = sorted(Path(config.output).glob(f"[0-9]*.{config.format}"))
    rows = (row for file in files for row in read_columns(file, names).to_pylist())
    rnas = [
        (row["id"], row["sequence"], np.array(row["log_odds"], np.float64).reshape(-1, 4))
        for row in islice(rows, _DRAWN)
    ]
    draw_heat_maps(path, rnas)
