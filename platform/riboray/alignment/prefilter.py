"""Candidates for alignment: nearest pooled embeddings, and most shared k-mers.

Raw pooled embeddings mostly tell composition. *Whitened*, so that all their principal directions
count the same, they keep more than three times as many hits among the first ten (docs/results.md,
"Prefilters").
k-mers are weighted by rarity, as words are in text retrieval (Spärck Jones 1972,
doi:10.1108/eb026526), and compared by cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from usearch.index import Index

from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = ["KmerWeights", "Whitening", "build_index", "count_kmers", "nearest", "shared_kmers"]

#: Queries compared with all targets at once.
_DENSE = 512

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


@njit(nogil=True, cache=True)
def _codes(text: NDArray[np.uint8], k: int, out: NDArray[np.int64]) -> int:
    """Write the code of every k-mer of ACGU; return how many."""
    count, run, code = 0, 0, 0
    mask = 4**k - 1
    for i in range(len(text)):
        letter = text[i]
        value = -1
        if letter == 65:
            value = 0
        elif letter == 67:
            value = 1
        elif letter == 71:
            value = 2
        elif letter == 85:
            value = 3
        if value < 0:  # an ambiguity code ends the run
            run, code = 0, 0
            continue
        code = ((code << 2) | value) & mask
        run += 1
        if run >= k:
            out[count] = code
            count += 1
    return count


def count_kmers(sequences: Sequence[str], k: int, *, how_often: bool = False) -> sparse.csr_matrix:
    """Tell which k-mers of ACGU each sequence holds.

    Returns
    -------
    csr_matrix, shape=(n, 4**k), dtype=float32
        How often a k-mer occurs, or 1 where it does.
    """
    indices, values, bounds = [], [np.empty(0, np.float32)], [0]
    for sequence in sequences:
        text = np.frombuffer(sequence.encode(), np.uint8)
        room = np.empty(len(text), np.int64)
        found, times = np.unique(room[: _codes(text, k, room)], return_counts=True)
        indices.append(found)
        values.append(times.astype(np.float32))
        bounds.append(bounds[-1] + len(found))
    columns = np.concatenate(indices) if indices else np.empty(0, np.int64)
    counts = np.concatenate(values)
    data = counts if how_often else np.ones_like(counts)
    return sparse.csr_matrix((data, columns, bounds), shape=(len(sequences), 4**k))


@dataclass(frozen=True)
class KmerWeights:
    """Weights of k-mers by rarity.

    Attributes
    ----------
    k : int
    weights : ndarray, shape=(4**k,), dtype=float32
        Square roots of ``log(n / sequences that hold the k-mer)``.
    """

    k: int
    weights: NDArray[np.float32]

    @classmethod
    def fit(cls, sequences: Sequence[str], k: int) -> KmerWeights:
        """Fit to sequences of the database."""
        holding = np.asarray(count_kmers(sequences, k).sum(axis=0)).ravel()
        rarity = np.log((len(sequences) + 1.0) / (holding + 0.5))
        return cls(k, np.sqrt(np.maximum(rarity, 0.0)).astype(np.float32))

    def vectors(self, sequences: Sequence[str]) -> sparse.csr_matrix:
        """Return weighted k-mer vectors of unit length."""
        rows = count_kmers(sequences, self.k)
        rows.data = self.weights[rows.indices]
        norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
        rows.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(rows.indptr))
        return rows


def shared_kmers(
    queries: sparse.csr_matrix, targets: sparse.csr_matrix, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the targets that share most k-mers with each query.

    Returns
    -------
    rows : ndarray, shape=(n, at most count), dtype=int64
        Best first; ties by row.
    similarity : ndarray, of the same shape, dtype=float32
        Cosines of the weighted vectors.
    """
    count = min(count, targets.shape[0])
    rows = np.empty((queries.shape[0], count), np.int64)
    best = np.empty((queries.shape[0], count), np.float32)
    for start in range(0, queries.shape[0], _DENSE):
        here = slice(start, start + _DENSE)
        similarity = (queries[here] @ targets.T).toarray()
        rows[here] = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        best[here] = np.take_along_axis(similarity, rows[here], axis=1)
    return rows, best
