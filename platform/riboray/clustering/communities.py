"""Cutting a graph into clusters: one function for all methods, and what every result obeys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from riboray.clustering.config import ClusterConfig
from riboray.clustering.greedy import set_cover
from riboray.clustering.leiden import leiden
from riboray.clustering.representatives import medoids
from riboray.clustering.spectral import spectral
from riboray.errors import RiborayError

__all__ = ["Clustering", "cluster_graph", "components", "make_clustering"]


@dataclass(frozen=True)
class Clustering:
    """A partition of sequences. Clusters stand largest first; of equal size, by first member.

    Attributes
    ----------
    labels : ndarray, shape=(n,), dtype=int32
        Cluster of each sequence, counted from 0.
    representatives : ndarray, shape=(clusters,), dtype=int64
        A member of each cluster.
    sizes : ndarray, shape=(clusters,), dtype=int64
        Members of each.
    order : ndarray, shape=(n,), dtype=int64
        All sequences, cluster by cluster: the representative, then the others as in the input.
    """

    labels: NDArray[np.int32]
    representatives: NDArray[np.int64]
    sizes: NDArray[np.int64]
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each cluster begins in `order`, and the number of sequences."""
        return np.cumsum([0, *self.sizes.tolist()], dtype=np.int64)

    def members(self, cluster: int) -> NDArray[np.int64]:
        """Return the members of one cluster, its representative first."""
        start = int(self.sizes[:cluster].sum())
        return self.order[start : start + int(self.sizes[cluster])]


def components(matrix: sparse.csr_matrix) -> NDArray[np.int64]:
    """Return the connected component of each node, shape (n,)."""
    _, labels = csgraph.connected_components(matrix, directed=False)
    return np.asarray(labels, np.int64)


def cluster_graph(matrix: sparse.csr_matrix, config: ClusterConfig) -> Clustering:
    """Cut a graph by the method asked for.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n), dtype=float32
        Symmetric, positive weights, nothing on the diagonal; n at least 1.
    config : ClusterConfig
        Method and its options.

    Returns
    -------
    Clustering
        With medoids as representatives; of the greedy method, the centres that took the others.
    """
    if config.method == "greedy":
        owner = set_cover(matrix)
        return make_clustering(owner, owner[owner == np.arange(len(owner))])
    if config.method == "components":
        labels = components(matrix)
    elif config.method == "spectral":
        labels = spectral(matrix, config.clusters or 1, config.seed)
    else:
        labels = leiden(
            matrix,
            quality=config.quality,
            resolution=config.resolved_resolution,
            seed=config.seed,
        )
    return make_clustering(labels, medoids(matrix, labels))


def make_clustering(
    labels: NDArray[np.integer], representatives: NDArray[np.integer]
) -> Clustering:
    """Put clusters in order, largest first, and check that they are a partition.

    Parameters
    ----------
    labels : ndarray, shape=(n,), dtype=integer
        Any labels.
    representatives : ndarray, dtype=integer
        One member of each cluster, in any order.

    Returns
    -------
    Clustering

    Raises
    ------
    RiborayError
        If a cluster has no representative, or two.
    """
    _, first, numbers, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    ranked = np.lexsort((first, -sizes))
    place = np.empty(len(ranked), np.int64)
    place[ranked] = np.arange(len(ranked))
    clusters = place[numbers]
    chosen = np.full(len(ranked), -1, np.int64)
    chosen[clusters[representatives]] = representatives
    if len(representatives) != len(ranked) or (chosen < 0).any():
        raise RiborayError(
            f"{len(ranked)} clusters have {len(representatives)} representatives; this is a bug"
        )
    is_chosen = np.zeros(len(labels), bool)
    is_chosen[chosen] = True
    order = np.lexsort((np.arange(len(labels)), ~is_chosen, clusters))
    return Clustering(
        clusters.astype(np.int32), chosen, sizes[ranked].astype(np.int64), order.astype(np.int64)
    )
