"""Greedy set cover, as MMseqs2 clusters (Steinegger & Söding 2018, doi:10.1038/s41467-018-04964-5).

The sequence with most neighbours that belong to nobody yet becomes a representative and takes
them; and again, until every sequence belongs to somebody.
"""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["set_cover"]


@njit(nogil=True, cache=True)
def _cover(indptr: NDArray[np.integer], indices: NDArray[np.integer]) -> NDArray[np.int64]:
    count = len(indptr) - 1
    open_neighbours = np.diff(indptr).astype(np.int64)
    owner = np.full(count, -1, np.int64)
    # One number orders by neighbours, most first, then by input. Counts only shrink: an entry that
    # is out of date comes back with its present count.
    most = np.int64(open_neighbours.max()) if count else np.int64(0)
    heap = [(most - open_neighbours[node]) * count + node for node in range(count)]
    heapq.heapify(heap)
    taken = np.empty(count, np.int64)
    while len(heap) > 0:
        key = heapq.heappop(heap)
        node = key % count
        if owner[node] >= 0:
            continue
        now = (most - open_neighbours[node]) * count + node
        if now != key:
            heapq.heappush(heap, now)
            continue
        owner[node], taken[0], size = node, node, 1
        for place in range(indptr[node], indptr[node + 1]):
            other = indices[place]
            if owner[other] < 0:
                owner[other], taken[size] = node, other
                size += 1
        for k in range(size):
            for place in range(indptr[taken[k]], indptr[taken[k] + 1]):
                open_neighbours[indices[place]] -= 1
    return owner


def set_cover(matrix: sparse.csr_matrix) -> NDArray[np.int64]:
    """Cover a graph by representatives and their neighbours.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n)
        Symmetric, nothing on the diagonal; weights do not matter.

    Returns
    -------
    ndarray, shape=(n,), dtype=int64
        The representative of each node: itself or a neighbour. Of nodes with as many neighbours,
        the earliest becomes the representative.

    Notes
    -----
    Time is O((n + e) log n), memory O(n).
    """
    found: NDArray[np.int64] = _cover(matrix.indptr, matrix.indices)
    return found
