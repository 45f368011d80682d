"""What a prediction head reads of sequences of any length, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from riboray.alphabet import encode_packed
from riboray.batching import count_windows, window_starts
from riboray.model.prediction import RnaBertForPrediction

__all__ = ["features_of", "tokens_of"]


def tokens_of(lengths: Sequence[int], model: RnaBertForPrediction) -> np.ndarray:
    """Count the tokens that sequences of these lengths are to the model, all windows together."""
    config = model.config
    width = config.max_sequence_length
    sizes = np.asarray(lengths, np.int64)
    special = int(config.add_bos) + int(config.add_eos)
    windows = count_windows(sizes, width)
    if config.padding == "original":  # each is padded to the full width
        return windows * config.max_position_embeddings
    return np.where(windows == 1, sizes, windows * width) + special * windows


def features_of(model: RnaBertForPrediction, texts: Sequence[str]) -> list[Tensor]:
    """Return what the head of a model reads of sequences; see `RnaBertForPrediction.features`.

    Of one longer than the model, base embeddings are averages over windows, as `Embedder` makes
    them.

    Parameters
    ----------
    model : RnaBertForPrediction
        Gradients flow back into it.
    texts : sequence of str
        RNA, upper case with U, as one batch.

    Raises
    ------
    InvalidSequenceError
        If one holds a character without a token.
    """
    config = model.config
    width = config.max_sequence_length
    starts = [window_starts(len(text), width) for text in texts]
    pieces = [text[at : at + width] for text, own in zip(texts, starts, strict=True) for at in own]
    ids, edges = encode_packed(
        pieces, config.tokens, add_bos=config.add_bos, add_eos=config.add_eos
    )
    device = model.model.embeddings.word_embeddings.weight.device
    moved, bounds = torch.from_numpy(ids).to(device), torch.from_numpy(edges)
    if len(pieces) == len(texts):
        return model.features(moved, bounds)
    states = model.model.packed(moved, bounds)
    first, last = int(config.add_bos), int(config.add_eos)
    piece = 0
    bases = []
    for text, own in zip(texts, starts, strict=True):
        rows = [
            states[edges[k] + first : edges[k + 1] - last] for k in range(piece, piece + len(own))
        ]
        piece += len(own)
        bases.append(rows[0] if len(rows) == 1 else _averaged(rows, own, len(text)))
    if not model.head_config.uses_pooler:
        return model.features_of_bases(bases)
    # A short sequence's pooler reads its first token, which may be a special one.
    first_pieces = np.cumsum([0, *map(len, starts)])[:-1]
    tokens = [
        states[int(edges[k])] if len(own) == 1 else rows[0]
        for k, own, rows in zip(first_pieces, starts, bases, strict=True)
    ]
    return model.features_of_bases([token[None] for token in tokens])


def _averaged(windows: list[Tensor], starts: list[int], length: int) -> Tensor:
    """Average the base embeddings of overlapping windows; shape (width, H) each to (length, H)."""
    rows = torch.cat(windows)
    width = len(windows[0])
    places = np.concatenate([np.arange(at, at + width) for at in starts])
    counts = np.bincount(places, minlength=length).astype(np.float32)
    where = torch.from_numpy(places).to(rows.device)
    sums = torch.zeros(length, rows.shape[1], dtype=rows.dtype, device=rows.device)
    share = torch.from_numpy(1 / counts).to(rows.device, rows.dtype)
    return sums.index_add(0, where, rows) * share[:, None]
