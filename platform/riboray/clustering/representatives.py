"""Medoids, and figures that say how well each cluster hangs together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["Cohesion", "cohesion", "medoids"]


@njit(nogil=True, cache=True)
def _inside(
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    weights: NDArray[np.floating],
    labels: NDArray[np.integer],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum and count each node's edges to its own cluster."""
    count = len(labels)
    sums, edges = np.zeros(count), np.zeros(count, np.int64)
    for node in range(count):
        for place in range(indptr[node], indptr[node + 1]):
            if labels[indices[place]] == labels[node]:
                sums[node] += weights[place]
                edges[node] += 1
    return sums, edges


@njit(nogil=True, cache=True)
def _nearest_other(
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    weights: NDArray[np.floating],
    labels: NDArray[np.integer],
    sizes: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return each node's highest mean similarity to another cluster."""
    count = len(labels)
    best, link = np.zeros(count), np.zeros(len(sizes))
    for node in range(count):
        for place in range(indptr[node], indptr[node + 1]):
            link[labels[indices[place]]] += weights[place]
        for place in range(indptr[node], indptr[node + 1]):
            label = labels[indices[place]]
            if label != labels[node]:
                best[node] = max(best[node], link[label] / sizes[label])
            link[label] = 0.0
    return best


def medoids(matrix: sparse.csr_matrix, labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Find the member of each cluster with the highest summed similarity to the others.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n)
        Symmetric similarities; pairs without an edge count as 0.
    labels : ndarray, shape=(n,), dtype=integer
        A partition.

    Returns
    -------
    ndarray, shape=(clusters,), dtype=int64
        By label; of equal members, the first.
    """
    sums, _ = _inside(matrix.indptr, matrix.indices, matrix.data, labels)
    order = np.lexsort((np.arange(len(labels)), -sums, labels))
    new = np.diff(labels[order], prepend=labels[order[0]] - 1) != 0
    return np.asarray(order[new], np.int64)


@dataclass(frozen=True)
class Cohesion:
    """How well clusters hang together, by the edges of the graph.

    Attributes
    ----------
    edges : ndarray, shape=(clusters,), dtype=int64
        Edges inside.
    density : ndarray, shape=(clusters,), dtype=float32
        Share of all pairs inside that are linked; of a single sequence, 1.
    cohesion : ndarray, shape=(clusters,), dtype=float32
        Share of the weight of all edges of the members that stays inside; without edges, 1.
    silhouette : ndarray, shape=(clusters,), dtype=float32
        Mean over the members of ``(a - b) / max(a, b)``, where a is the mean similarity to the
        other members and b the highest to another cluster; no edge is similarity 0. Of a single
        sequence 0 (Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7, with similarities).
    """

    edges: NDArray[np.int64]
    density: NDArray[np.float32]
    cohesion: NDArray[np.float32]
    silhouette: NDArray[np.float32]


def cohesion(matrix: sparse.csr_matrix, labels: NDArray[np.integer]) -> Cohesion:
    """Measure every cluster.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n)
        Symmetric similarities, nothing on the diagonal.
    labels : ndarray, shape=(n,), dtype=integer
        Clusters, counted from 0 without a gap.

    Returns
    -------
    Cohesion
    """
    sizes = np.bincount(labels).astype(np.int64)
    sums, linked = _inside(matrix.indptr, matrix.indices, matrix.data, labels)
    edges = np.bincount(labels, weights=linked, minlength=len(sizes)).astype(np.int64) // 2
    pairs = sizes * (sizes - 1) / 2
    density = np.where(pairs > 0, edges / np.maximum(pairs, 1), 1.0)
    degrees = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    weight = np.bincount(labels, weights=degrees, minlength=len(sizes))
    inside = np.bincount(labels, weights=sums, minlength=len(sizes))
    kept = np.where(weight > 0, inside / np.maximum(weight, 1e-30), 1.0)
    own = sums / np.maximum(sizes[labels] - 1, 1)
    other = _nearest_other(matrix.indptr, matrix.indices, matrix.data, labels, sizes)
    highest = np.maximum(own, other)
    each = np.where(highest > 0, (own - other) / np.maximum(highest, 1e-30), 0.0)
    each[sizes[labels] == 1] = 0.0
    silhouette = np.bincount(labels, weights=each, minlength=len(sizes)) / sizes
    return Cohesion(
        edges, density.astype(np.float32), kept.astype(np.float32), silhouette.astype(np.float32)
    )
