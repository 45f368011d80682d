"""Candidates for alignment by nearest pooled embeddings.

Raw pooled embeddings mostly tell composition. *Whitened*, so that all their principal directions
count the same, they keep more than three times as many hits among the first ten (docs/results.md,
"Prefilters").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = ["Whitening", "build_index", "nearest"]

#: Of the largest standard deviation; weaker directions are noise and dropped.
_WEAKEST = 1e-3


@dataclass(frozen=True)
class Whitening:
    """A map of pooled embeddings to vectors of unit length with uncorrelated coordinates.

    Attributes
    ----------
    centre : ndarray, shape=(d,), dtype=float32
    basis : ndarray, shape=(d, k), dtype=float32
    """

    centre: NDArray[np.float32]
    basis: NDArray[np.float32]

    @classmethod
    def fit(cls, pooled: NDArray[np.floating]) -> Whitening:
        """Fit to pooled embeddings, shape (n, d), of the database."""
        rows = np.asarray(pooled, np.float64)
        centre = rows.mean(axis=0)
        spread = (rows - centre).T @ (rows - centre) / max(len(rows) - 1, 1)
        variances, directions = np.linalg.eigh(spread)
        strong = variances > max(variances[-1] * _WEAKEST**2, 1e-20)
        basis = directions[:, strong] / np.sqrt(variances[strong])
        if not strong.any():  # one sequence, or all alike
            basis = np.eye(rows.shape[1])
        return cls(centre.astype(np.float32), basis.astype(np.float32))

    def apply(self, pooled: NDArray[np.floating]) -> NDArray[np.float32]:
        """Whiten, shape (n, d) to (n, k), rows of unit length."""
        rows = (np.asarray(pooled, np.float32) - self.centre) @ self.basis
        unit: NDArray[np.float32] = rows / np.maximum(
            np.linalg.norm(rows, axis=1, keepdims=True), 1e-12
        )
        return unit


def build_index(vectors: NDArray[np.float32], path: Path) -> None:
    """Build an approximate index (HNSW; Malkov & Yashunin 2020, doi:10.1109/TPAMI.2018.2889473).

    One thread adds in order, so that the same vectors give the same index.
    """
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)
    with atomic_path(path) as temporary:
        index.save(str(temporary))


def nearest(
    path: Path, queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest vectors of an index.

    Parameters
    ----------
    path : Path
        Index that `build_index` wrote; mapped, not read.
    queries : ndarray, shape=(n, k), dtype=float32
        Whitened queries.
    count : int
        Neighbours of each.

    Returns
    -------
    rows : ndarray, shape=(n, at most count), dtype=int64
        Row numbers, nearest first.
    similarity : ndarray, of the same shape, dtype=float32
        Cosines.
    """
    # The search looks at so many nodes at least: more finds more of the true neighbours.
    width = max(2 * count, 64)
    index = Index(ndim=queries.shape[1], metric="cos", dtype="f16", expansion_search=width)
    try:
        index.view(str(path))
    except RuntimeError as error:
        raise CorpusError(path, f"index cannot be read ({error}); remove it") from error
    count = min(count, len(index))
    found = index.search(np.atleast_2d(queries), count, threads=1)
    keys = np.asarray(found.keys, np.int64).reshape(len(queries), -1)
    distances = np.asarray(found.distances, np.float32).reshape(len(queries), -1)
    return keys, np.float32(1) - distances
