"""Small sets into a given number of clusters, to compare similarities by the clusters they give.

`riboray.clustering` is for families of unknown number in sets of any size; here all similarities
are at hand and the number of clusters is given, as in the experiments of papers.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riboray.errors import ConfigError

__all__ = ["ClusterMethod", "partition"]

ClusterMethod = Literal["agglomerative", "spectral"]


def partition(
    similarity: NDArray[np.floating],
    count: int,
    method: ClusterMethod = "agglomerative",
    *,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Divide sequences into so many clusters.

    Parameters
    ----------
    similarity : ndarray, shape=(n, n), dtype=floating
        Symmetric, on any scale: neither a constant added nor a factor changes the clusters. The
        diagonal is not read.
    count : int
        Clusters, 2 to n.
    method : {"agglomerative", "spectral"}
        Average linkage, or normalised spectral clustering (von Luxburg 2007,
        doi:10.1007/s11222-007-9033-z) of the graph whose edges weigh the squares of what pairs are
        more alike than the median pair. (Graphs of nearest neighbours do worse: families differ in
        size, and many are smaller than any useful number of neighbours.)
    seed : int
        Of spectral clustering's k-means.

    Returns
    -------
    ndarray, shape=(n,), dtype=int64
        Numbers of clusters, in the order of their first sequences.

    Raises
    ------
    ConfigError
        If there are fewer sequences than clusters, fewer than two clusters, or the method is
        unknown.
    ValueError
        If the matrix is not square or holds NaN.
    """
    size = len(similarity)
    if similarity.shape != (size, size) or not np.isfinite(similarity).all():
        raise ValueError("similarities must be a square matrix of finite numbers")
    if count < 2:
        raise ConfigError(f"{count} cluster is no clustering: ask for at least 2")
    if count > size:
        raise ConfigError(f"{size} sequences cannot form {count} clusters; ask for fewer")
    if method not in get_args(ClusterMethod):
        known = ", ".join(get_args(ClusterMethod))
        raise ConfigError(f"unknown way of clustering {method!r}; known are {known}")
    symmetric = (np.asarray(similarity, np.float64) + similarity.T) / 2
    divide = _agglomerative if method == "agglomerative" else _spectral
    return _renumbered(divide(symmetric, count, seed))


def _agglomerative(similarity: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    distance = similarity.max() - similarity
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average")
    return _cut(tree, count)


def _cut(tree: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Undo the last ``count - 1`` joins; by height, equal ones would be undone together."""
    size = len(tree) + 1
    parent = np.arange(2 * size - 1)
    for join in range(size - count):
        for child in tree[join, :2].astype(np.int64):
            parent[child] = size + join
    for node in range(2 * size - 2, -1, -1):  # parents have higher numbers: theirs are final
        parent[node] = parent[parent[node]]
    return parent[:size]


def _spectral(similarity: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import SpectralClustering

    apart = ~np.eye(len(similarity), dtype=np.bool_)
    excess = np.maximum(similarity - np.median(similarity[apart]), 0.0)
    np.fill_diagonal(excess, 0.0)
    weights = (excess / max(excess.max(), 1e-300)) ** 2
    model = SpectralClustering(
        count, affinity="precomputed", assign_labels="kmeans", random_state=seed
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        return np.asarray(model.fit_predict(weights), np.int64)


def _renumbered(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, codes = np.unique(clusters, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[codes]
