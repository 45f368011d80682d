"""The verb `embed`."""

from __future__ import annotations

from typing import Any

from riboray.embedding.config import EmbedConfig, resolve_layers
from riboray.embedding.partwise import make_parts
from riboray.embedding.shards import EMBEDDINGS
from riboray.errors import ConfigError
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import prepare_ray

__all__ = ["details_of", "embed"]


def embed(config: EmbedConfig) -> dict[str, Any]:
    """Embed every sequence of the input, in its order; return the counts.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that something else made.
    """
    address = prepare_ray(config.ray_address)
    loaded = load_checkpoint(config.checkpoint)
    if config.log_likelihood != "none" and loaded.model.lm_head is None:
        raise ConfigError("--log-likelihood needs a model with a language-model head")
    layers = resolve_layers(config.layers, loaded.model.config.num_hidden_layers)
    return make_parts(
        *(config, config.output, loaded, EMBEDDINGS, address, details_of(config, layers)),
        layers=layers,
        precision=config.precision,
    )


def details_of(config: EmbedConfig, layers: tuple[int, ...]) -> dict[str, Any]:
    """Return what the manifest says of the embeddings."""
    return {
        "per_base": config.per_base,
        "pooling": config.pooling,
        "format": config.format,
        "layers": list(layers),
        "normalised": config.normalise,
        "log_likelihood": config.log_likelihood,
    }
