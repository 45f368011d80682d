"""Batches without padding: tokens of all sequences in a row, and the encoder on them.

Shapes below: B rows of L tokens with padding, T tokens without, N sequences, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.model.attention import Offsets, over_sequences
from riboray.model.config import RnaBertConfig
from riboray.model.packed_kernels import encode_sequences

__all__ = ["Packing", "check_offsets", "encode_packed", "pack"]

#: What a token costs apart from attention, in scores of all heads: about as much as attending to
#: this many others.
_LINEAR_COST = 200


class Packing(NamedTuple):
    """How a padded batch and its tokens without padding belong together."""

    where: Tensor
    """Place of every token in the flattened batch; shape (T,), int64."""
    positions: Tensor
    """Place of every token in its sequence; shape (T,), int64."""
    offsets: Offsets
    """Where sequences begin, and where the last one ends; shape (B + 1,)."""
    shape: tuple[int, int]
    """B and L."""

    def unpack(self, packed: Tensor) -> Tensor:
        """Put tokens back, zeros between them; shape (T, H) to (B, L, H)."""
        rows, width = self.shape
        hidden = packed.shape[1]
        if len(packed) == rows * width:
            return packed.view(rows, width, hidden)
        padded = packed.new_zeros(rows * width, hidden)
        return padded.index_copy(0, self.where, packed).view(rows, width, hidden)


def pack(rows: int, width: int, lengths: Tensor | None) -> Packing:
    """Find the tokens of a padded batch.

    Parameters
    ----------
    rows, width : int
        B and L.
    lengths : Tensor, shape=(B,), dtype=integer, optional
        Tokens per row; more than L, or none given, count as L.

    Raises
    ------
    ValueError
        If there are not B lengths, or one is negative.
    """
    if lengths is None:
        sizes = np.full(rows, width)
    else:
        sizes = np.minimum(lengths.cpu().numpy(), width).astype(np.int64)
        if sizes.shape != (rows,) or (sizes < 0).any():
            raise ValueError(f"{rows} rows need as many lengths of at least 0")
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    where = positions + np.repeat(np.arange(rows) * width, sizes)
    return Packing(torch.from_numpy(where), torch.from_numpy(positions), offsets, (rows, width))


def check_offsets(offsets: NDArray[np.int64], tokens: int, limit: int) -> NDArray[np.int64]:
    """Return the lengths that offsets stand for.

    Raises
    ------
    ValueError
        If they do not begin with 0, fall, or do not end with the number of tokens; or if a
        sequence is longer than ``limit``.
    """
    if offsets.ndim != 1 or len(offsets) == 0:
        raise ValueError("offsets must be one-dimensional and begin with 0")
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != tokens or (lengths < 0).any():
        raise ValueError(f"offsets must rise from 0 to the number of tokens, {tokens}")
    if len(lengths) and lengths.max() > limit:
        raise ValueError(f"{lengths.max()} tokens exceed max_position_embeddings={limit}")
    return lengths


@torch.no_grad()
def encode_packed(
    config: RnaBertConfig,
    parameters: Iterable[Tensor],
    ids: Tensor,
    offsets: Offsets,
    every: bool,
) -> list[Tensor]:
    """Encode without gradients, on as many threads as PyTorch has.

    Parameters
    ----------
    config : RnaBertConfig
        Sizes.
    parameters : iterable of Tensor, dtype=float32
        Those of the embeddings, then those of the layers, in the order in which
        `riboray.model.encoder` registers them.
    ids : Tensor, shape=(T,), dtype=integer
        Token ids; on the CPU.
    offsets : ndarray, shape=(N + 1,), dtype=int64
        Where sequences begin; checked.
    every : bool
        Whether to return the embeddings and every layer's output, or the last one's alone.

    Returns
    -------
    list of Tensor, shape=(T, H)
        The states.

    Raises
    ------
    IndexError
        If an id has no embedding.
    """
    words, hidden = len(config.tokens), config.hidden_size
    tokens = ids.numpy().astype(np.int32)
    if tokens.size and (tokens.min() < 0 or tokens.max() >= words):
        raise IndexError(f"token ids must be from 0 to {words - 1}")
    sizes = [words, config.max_position_embeddings, config.type_vocab_size, 2]
    tables = np.concatenate([[0], np.cumsum(sizes)]) * hidden
    weights = torch.cat([parameter.reshape(-1) for parameter in parameters]).numpy()
    states = torch.empty(config.num_hidden_layers + 1 if every else 1, len(tokens), hidden)
    result = states.numpy()

    def work(part: Offsets) -> None:
        encode_sequences(
            tokens,
            part,
            weights,
            tables,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            np.float32(config.layer_norm_eps),
            result,
        )

    over_sequences(work, offsets, _LINEAR_COST)
    return list(states)
