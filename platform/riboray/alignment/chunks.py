"""Chunks of sequences as sides of tiles: embedded here and now, or read from embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.estimate import embed_side, make_side
from riboray.alignment.sides import Side
from riboray.alignment.similarity import RowMaker
from riboray.embedding.shards import cached_embedder
from riboray.embedding.store import EmbeddingSet

__all__ = ["embedding_chunks", "load_targets"]


def _embed(checkpoint: str, texts: list[str], first: int, maker: RowMaker) -> Side:
    return embed_side(cached_embedder(checkpoint), texts, first=first, maker=maker)


def embedding_chunks(
    checkpoint: str,
    sequences: list[str],
    bounds: list[tuple[int, int]],
    maker: RowMaker,
) -> list[Callable[[], Side]]:
    """Make loaders that embed runs of sequences.

    Parameters
    ----------
    checkpoint : str
        Absolute path of the model, readable where the loaders run.
    sequences : list of str
        All sequences, longest first.
    bounds : list of tuple of int
        First and last-plus-one index of each chunk.
    maker : RowMaker
        Makes rows of base embeddings.

    Returns
    -------
    list of callable
        One a chunk; each can be pickled.
    """
    return [
        partial(_embed, checkpoint, sequences[start:stop], start, maker) for start, stop in bounds
    ]


def load_targets(
    database: EmbeddingSet,
    rows: NDArray[np.int64],
    first: int,
    checkpoint: str,
    maker: RowMaker,
) -> Side:
    """Load some rows of a database as one side of a tile.

    Parameters
    ----------
    database : EmbeddingSet
        The database.
    rows : ndarray, shape=(n,), dtype=int64
        Global row numbers, in the order wanted.
    first : int
        Index of the first of them among the targets.
    checkpoint : str
        Model that embeds them if the database holds no base embeddings.
    maker : RowMaker
        Makes rows of base embeddings.

    Returns
    -------
    Side
    """
    texts = [""] * len(rows)
    bases: list[NDArray[np.floating]] = [np.empty((0, 0))] * len(rows)
    for number, places, local in database.by_file(rows):
        found = database.take(number, local, ["sequence"])["sequence"].to_pylist()
        for place, text in zip(places.tolist(), found, strict=True):
            texts[place] = text
        if database.per_base:
            stored = database.base_embeddings(number, local)
            for place, embeddings in zip(places.tolist(), stored, strict=True):
                bases[place] = embeddings
    if not database.per_base:
        embedder = cached_embedder(checkpoint)
        return embed_side(embedder, texts, first=first, maker=maker)
    return make_side(maker.rows(bases), texts, first=first)
