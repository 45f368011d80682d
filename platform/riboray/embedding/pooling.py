"""From base embeddings to one embedding of a sequence."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Pool", "normalised", "pool", "pool_packed"]


def pool(rows: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Make one embedding of a sequence's base embeddings, shape (n, d): mean, max or first."""
    one = rows[:1] if how == "first" else rows
    pooled: NDArray[np.float32] = one.max(axis=0) if how == "max" else one.mean(axis=0)
    return pooled


def pool_packed(rows: Tensor, offsets: Tensor, how: str) -> Tensor:
    """Pool every sequence of a packed batch.

    Parameters
    ----------
    rows : Tensor, shape=(T, H), dtype=float32
        Base embeddings of all sequences in a row.
    offsets : Tensor, shape=(n + 1,), dtype=int64
        Where sequences begin; on the CPU. None is empty.
    how : str
        ``mean``, ``max`` or ``first``.

    Returns
    -------
    Tensor, shape=(n, H)
        On the device of ``rows``.
    """
    if how == "first":
        return rows[offsets[:-1].to(rows.device)]
    if rows.device.type == "cpu":
        starts, values = offsets[:-1].numpy(), rows.numpy()
        if how == "max":
            return torch.from_numpy(np.maximum.reduceat(values, starts, axis=0))
        sums = np.add.reduceat(values, starts, axis=0)
        return torch.from_numpy(sums / np.diff(offsets.numpy())[:, None].astype(np.float32))
    lengths = offsets.diff().to(rows.device)
    pooled: Tensor = torch.segment_reduce(rows, how, lengths=lengths, axis=0)
    return pooled


class Pool:
    """Pools the base embeddings of one sequence as they come, stretch by stretch.

    Parameters
    ----------
    how : str
        ``mean``, ``max`` or ``first``.
    width : int
        Size of an embedding.
    """

    def __init__(self, how: str, width: int) -> None:
        self._how = how
        self._count = 0
        # Sums of hundreds of thousands of rows want more than float32.
        self._held = np.zeros(width, np.float64)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take in a stretch, shape (n, H)."""
        if not len(rows):
            return
        if self._how == "mean":
            self._held += rows.sum(axis=0, dtype=np.float64)
        elif self._how == "max":
            top = rows.max(axis=0)
            self._held = np.maximum(self._held, top) if self._count else top.astype(np.float64)
        elif not self._count:
            self._held = rows[0].astype(np.float64)
        self._count += len(rows)

    def result(self) -> NDArray[np.float32]:
        """Return the embedding of the whole, shape (H,)."""
        scale = self._count if self._how == "mean" else 1
        return (self._held / scale).astype(np.float32)


def normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row of zeros stays one."""
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    scaled: NDArray[np.float32] = rows / np.maximum(norms, np.float32(1e-30))
    return scaled
