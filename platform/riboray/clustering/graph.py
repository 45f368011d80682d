"""Similarities as a graph: edges in arrays, never an object an edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["EdgeCollector", "Graph"]

#: Edges gathered before they are thinned, at least.
_PENDING = 4_000_000


@dataclass(frozen=True)
class Graph:
    """An undirected graph with positive weights; every edge once.

    Attributes
    ----------
    count : int
        Nodes.
    first, second : ndarray, shape=(e,), dtype=int32
        Ends of the edges, ``first < second``, in increasing order.
    weight : ndarray, shape=(e,), dtype=float32
        Weights, above 0.
    """

    count: int
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    weight: NDArray[np.float32]

    def adjacency(self) -> sparse.csr_matrix:
        """Return the symmetric matrix of weights, shape (count, count), dtype float32."""
        rows = np.concatenate([self.first, self.second])
        columns = np.concatenate([self.second, self.first])
        weights = np.concatenate([self.weight, self.weight])
        matrix = sparse.csr_matrix((weights, (rows, columns)), shape=(self.count, self.count))
        matrix.sort_indices()
        return matrix

    def strongest(self, neighbors: int, *, mutual: bool) -> Graph:
        """Keep the heaviest edges of each node.

        Parameters
        ----------
        neighbors : int
            Edges a node may choose; of equal weights, those to earlier nodes.
        mutual : bool
            Keep an edge that both its nodes choose; else one that either does.

        Returns
        -------
        Graph
        """
        matrix = self.adjacency()
        weakest, last = _choices(matrix.indptr, matrix.indices, matrix.data, neighbors)
        del matrix
        chosen = [
            (self.weight > weakest[node]) | ((self.weight == weakest[node]) & (other <= last[node]))
            for node, other in ((self.first, self.second), (self.second, self.first))
        ]
        kept = chosen[0] & chosen[1] if mutual else chosen[0] | chosen[1]
        return Graph(self.count, self.first[kept], self.second[kept], self.weight[kept])


@njit(nogil=True, cache=True)
def _choices(
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    weights: NDArray[np.float32],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return weight and end of the last edge that each node chooses."""
    nodes = len(indptr) - 1
    weakest, last = np.full(nodes, -np.inf, np.float32), np.full(nodes, nodes, np.int64)
    for node in range(nodes):
        start, stop = indptr[node], indptr[node + 1]
        if stop - start <= count:
            continue
        # Stable, and the indices of a row increase: ties go to earlier nodes.
        order = np.argsort(-weights[start:stop], kind="mergesort")
        place = start + order[count - 1]
        weakest[node], last[node] = weights[place], indices[place]
    return weakest, last


class EdgeCollector:
    """Gathers edges that come in any order, some twice, in bounded memory.

    Parameters
    ----------
    count : int
        Nodes.
    neighbors : int, optional
        Edges that a node may choose. What no node would choose is dropped on the way, so that
        memory grows with ``count * neighbors`` and not with the edges that come.
    """

    def __init__(self, count: int, neighbors: int | None = None) -> None:
        self._count, self._neighbors = count, neighbors
        empty = np.empty(0, np.int32)
        self._kept = Graph(count, empty, empty, np.empty(0, np.float32))
        self._waiting: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
        self._pending = 0

    def add(
        self,
        one: NDArray[np.integer],
        other: NDArray[np.integer],
        weight: NDArray[np.floating],
    ) -> None:
        """Add edges.

        Parameters
        ----------
        one, other : ndarray, shape=(k,), dtype=integer
            Their ends, in any order. An edge from a node to itself is dropped.
        weight : ndarray, shape=(k,)
            Their weights; what is not above 0 is dropped. Of an edge that comes twice, the
            higher weight counts.
        """
        kept = (one != other) & (weight > 0)
        first, second = np.minimum(one, other)[kept], np.maximum(one, other)[kept]
        edges = first.astype(np.int32), second.astype(np.int32), weight[kept].astype(np.float32)
        self._waiting.append(edges)
        self._pending += len(edges[0])
        if self._pending > max(_PENDING, 2 * len(self._kept.first)):
            self._merge()

    def graph(self, *, mutual: bool = False) -> Graph:
        """Return what was gathered, thinned to the strongest edges if so asked."""
        self._merge()
        if mutual and self._neighbors is not None:
            return self._kept.strongest(self._neighbors, mutual=True)
        return self._kept

    def _merge(self) -> None:
        """Join what waits with what is kept, each edge once, and drop what nobody chooses."""
        if not self._waiting:
            return
        kept = self._kept
        first = np.concatenate([kept.first, *(edges[0] for edges in self._waiting)])
        second = np.concatenate([kept.second, *(edges[1] for edges in self._waiting)])
        weight = np.concatenate([kept.weight, *(edges[2] for edges in self._waiting)])
        self._waiting, self._pending = [], 0
        order = np.lexsort((-weight, second, first))
        first, second, weight = first[order], second[order], weight[order]
        new = np.ones(len(first), bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        merged = Graph(self._count, first[new], second[new], weight[new])
        if self._neighbors is not None:
            merged = merged.strongest(self._neighbors, mutual=False)
        self._kept = merged
