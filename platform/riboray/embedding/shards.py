"""One file's worth of sequences to embed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from riboray.embedding.embedder import Embedder
from riboray.embedding.store import embedding_schema, write_shard
from riboray.model.checkpoint import load_checkpoint

__all__ = ["Shard", "cached_embedder", "make_shard"]


@dataclass(frozen=True)
class Shard:
    """What a task needs to write one file."""

    path: str
    ids: list[str]
    sequences: list[str]
    checkpoint: str
    model: str
    identity: str
    pooling: str
    dtype: str
    per_base: bool


@lru_cache(maxsize=2)
def cached_embedder(checkpoint: str) -> Embedder:
    """Load a model once a process, on one thread: there is a process for every CPU."""
    torch.set_num_threads(1)
    return Embedder(load_checkpoint(checkpoint).model)


def make_shard(shard: Shard) -> int:
    """Embed a shard and write its file; return the rows."""
    embedder = cached_embedder(shard.checkpoint)
    metadata = {
        "model": shard.model,
        "identity": shard.identity,
        "pooling": shard.pooling,
        "layer": str(embedder.config.num_hidden_layers),
        "padding": embedder.config.padding,
        "dtype": shard.dtype,
        "rows": str(len(shard.ids)),
    }
    schema = embedding_schema(embedder.width, shard.dtype, shard.per_base, metadata)
    path = Path(shard.path)
    return write_shard(path, shard.ids, shard.sequences, embedder, schema, shard.pooling)
