"""Chunks of sequences as sides of tiles: embedded here and now, or read from embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from riboray.alignment.estimate import embed_side
from riboray.alignment.sides import Side
from riboray.alignment.similarity import RowMaker
from riboray.embedding.shards import cached_embedder

__all__ = ["embedding_chunks"]


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
