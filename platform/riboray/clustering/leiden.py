"""Leiden communities of a graph held in arrays.

The algorithm of Traag, Waltman & van Eck 2019 (doi:10.1038/s41598-019-41695-z): nodes move to
the community that gains most, communities are refined into well-connected parts, the parts become
nodes of a smaller graph, and so on. Written here because libraries want every edge as an object
of its own, ten times the memory of the arrays.

Quality is the constant Potts model (Traag, Van Dooren & Nesterov 2011,
doi:10.1103/PhysRevE.84.016114), which knows no resolution limit, or modularity (Newman & Girvan
2004, doi:10.1103/PhysRevE.69.026113), which merges small communities of large graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

__all__ = ["leiden", "partition_quality"]

#: Runs over the whole graph, each from the result of the one before, while they improve it.
_ITERATIONS = 10

#: Of the mean weight: how much worse a merge may be and still be taken now and then.
_RANDOMNESS = 0.01


@dataclass(frozen=True)
class _Level:
    """A graph whose nodes may stand for many: weights between them, and their sizes."""

    matrix: sparse.csr_matrix
    sizes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sizes)


@njit(nogil=True, cache=True)
def _move(
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    weights: NDArray[np.floating],
    sizes: NDArray[np.float64],
    resolution: float,
    order: NDArray[np.int64],
    community: NDArray[np.int64],
) -> None:
    """Move nodes, neighbours of those that moved again, until none would gain."""
    count = len(sizes)
    total, members = np.zeros(count), np.zeros(count, np.int64)
    for node in range(count):
        total[community[node]] += sizes[node]
        members[community[node]] += 1
    empty, spare = np.empty(count + 1, np.int64), 0
    for label in range(count):
        if members[label] == 0:
            empty[spare] = label
            spare += 1
    link, touched = np.zeros(count), np.empty(count, np.int64)
    queue, waiting = order.copy(), np.ones(count, np.bool_)
    head, length = 0, count
    while length > 0:
        node = queue[head]
        head = (head + 1) % count
        length -= 1
        waiting[node] = False
        own, found = community[node], 0
        total[own] -= sizes[node]
        members[own] -= 1
        for place in range(indptr[node], indptr[node + 1]):
            label = community[indices[place]]
            if link[label] == 0.0:
                touched[found] = label
                found += 1
            link[label] += weights[place]
        best, gain = own, link[own] - resolution * sizes[node] * total[own]
        for k in range(found):
            label = touched[k]
            here = link[label] - resolution * sizes[node] * total[label]
            # A margin, so that rounding alone moves nothing, forth and back for ever.
            if here > gain + 1e-10 * (1.0 + abs(gain)):
                best, gain = label, here
            link[label] = 0.0
        if gain < -1e-10 and members[own] > 0:
            spare -= 1
            best = empty[spare]
        elif best != own and members[own] == 0:
            empty[spare] = own
            spare += 1
        community[node] = best
        total[best] += sizes[node]
        members[best] += 1
        if best == own:
            continue
        for place in range(indptr[node], indptr[node + 1]):
            other = indices[place]
            if community[other] != best and not waiting[other]:
                queue[(head + length) % count] = other
                length += 1
                waiting[other] = True


@njit(nogil=True, cache=True)
def _refine(
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    weights: NDArray[np.floating],
    sizes: NDArray[np.float64],
    resolution: float,
    order: NDArray[np.int64],
    chance: NDArray[np.float64],
    randomness: float,
    community: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Merge nodes of one community into parts that are well connected to the rest of it."""
    count = len(sizes)
    whole, outward = np.zeros(count), np.zeros(count)
    for node in range(count):
        whole[community[node]] += sizes[node]
        for place in range(indptr[node], indptr[node + 1]):
            if community[indices[place]] == community[node]:
                outward[node] += weights[place]
    part, part_size, alone = np.arange(count), sizes.copy(), np.ones(count, np.bool_)
    link, touched, share = np.zeros(count), np.empty(count, np.int64), np.empty(count)
    for node in order:
        rest = whole[community[node]] - sizes[node]
        if not alone[node] or outward[node] < resolution * sizes[node] * rest:
            continue
        found = 0
        for place in range(indptr[node], indptr[node + 1]):
            other = indices[place]
            if community[other] != community[node]:
                continue
            if link[part[other]] == 0.0:
                touched[found] = part[other]
                found += 1
            link[part[other]] += weights[place]
        top = 0.0
        for k in range(found):
            label = touched[k]
            outside = whole[community[node]] - part_size[label]
            gain = link[label] - resolution * sizes[node] * part_size[label]
            if outward[label] < resolution * part_size[label] * outside or gain < 0.0:
                gain = -np.inf
            share[k] = gain
            top = max(top, gain)
        mass = np.exp(-top / randomness)  # of staying alone
        for k in range(found):
            share[k] = np.exp((share[k] - top) / randomness)
            mass += share[k]
        left, chosen = chance[node] * mass - np.exp(-top / randomness), -1
        if left >= 0.0:
            for k in range(found):
                left -= share[k]
                if share[k] > 0.0:
                    chosen = touched[k]
                if left < 0.0:
                    break
        if chosen >= 0:
            part[node] = chosen
            part_size[chosen] += sizes[node]
            outward[chosen] += outward[node] - 2.0 * link[chosen]
            alone[node] = alone[chosen] = False
        for k in range(found):
            link[touched[k]] = 0.0
    return part


def _merged(level: _Level, part: NDArray[np.int64], count: int) -> _Level:
    """Make one node of each part; what links a part with itself is left out."""
    coo = level.matrix.tocoo()
    rows, columns = part[coo.row], part[coo.col]
    between = rows != columns
    # In double precision: a part of many nodes sums many weights.
    weights = coo.data[between].astype(np.float64)
    shape = (count, count)
    matrix = sparse.csr_matrix((weights, (rows[between], columns[between])), shape=shape)
    sizes = np.bincount(part, weights=level.sizes, minlength=count)
    return _Level(matrix, sizes.astype(np.float64))


def _numbered(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    names, numbers = np.unique(labels, return_inverse=True)
    return numbers.astype(np.int64), len(names)


def _once(
    level: _Level,
    resolution: float,
    randomness: float,
    community: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Run the algorithm once, from a partition of the level's nodes."""
    node_of = np.arange(len(level))
    while True:
        matrix, count = level.matrix, len(level)
        arrays = matrix.indptr, matrix.indices, matrix.data, level.sizes, resolution
        _move(*arrays, generator.permutation(count), community)
        order, chance = generator.permutation(count), generator.random(count)
        part = _refine(*arrays, order, chance, randomness, community)
        part, parts = _numbered(part)
        if parts == count:
            return community[node_of]
        above = np.empty(parts, np.int64)
        above[part] = community
        level, node_of = _merged(level, part, parts), part[node_of]
        community, _ = _numbered(above)


def _connected(matrix: sparse.csr_matrix, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split communities that hang together by nothing; quality can only gain."""
    coo = matrix.tocoo()
    inside = labels[coo.row] == labels[coo.col]
    edges = (coo.data[inside], (coo.row[inside], coo.col[inside]))
    _, found = csgraph.connected_components(sparse.csr_matrix(edges, shape=matrix.shape), False)
    return np.asarray(found, np.int64)


def _scales(
    matrix: sparse.csr_matrix, quality: str, resolution: float
) -> tuple[NDArray[np.float64], float]:
    """Return sizes of the nodes and the penalty for a unit of size times size."""
    if quality == "cpm":
        return np.ones(matrix.shape[0]), resolution * float(matrix.data.mean(dtype=np.float64))
    degrees = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    return degrees, resolution / float(degrees.sum())


def partition_quality(
    matrix: sparse.csr_matrix, labels: NDArray[np.integer], quality: str, resolution: float
) -> float:
    """Return what `leiden` maximises.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n)
        Symmetric weights, with at least one edge.
    labels : ndarray, shape=(n,), dtype=integer
        A partition.
    quality, resolution : str, float
        As in `leiden`.

    Returns
    -------
    float
        Weight inside the communities less ``penalty / 2 * size ** 2`` of each. Size is the number
        of nodes (cpm; penalty is the resolution times the mean weight) or the sum of degrees
        (modularity; penalty is the resolution over the sum of all degrees).
    """
    sizes, penalty = _scales(matrix, quality, resolution)
    coo = matrix.tocoo()
    inside = float(coo.data[labels[coo.row] == labels[coo.col]].sum(dtype=np.float64)) / 2
    return inside - penalty / 2 * float((np.bincount(labels, weights=sizes) ** 2).sum())


def leiden(
    matrix: sparse.csr_matrix, *, quality: str = "cpm", resolution: float = 0.1, seed: int = 0
) -> NDArray[np.int64]:
    """Find communities.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n), dtype=floating
        Symmetric, positive weights, nothing on the diagonal.
    quality : str
        ``cpm`` or ``modularity``.
    resolution : float
        Higher gives more communities. Of ``cpm``, in units of the mean weight: communities are
        kept together whose density is above it.
    seed : int
        The same seed gives the same result.

    Returns
    -------
    ndarray, shape=(n,), dtype=int64
        Label of each node. Every community is connected; a node without edges is alone.

    Notes
    -----
    Memory is about 40 bytes an entry of the matrix at the peak, when it is made smaller.
    """
    count = matrix.shape[0]
    labels = np.arange(count)
    if not matrix.nnz:
        return labels
    generator = np.random.default_rng(seed)
    sizes, penalty = _scales(matrix, quality, resolution)
    randomness = _RANDOMNESS * float(matrix.data.mean(dtype=np.float64))
    best = partition_quality(matrix, labels, quality, resolution)
    for _ in range(_ITERATIONS):
        found = _once(_Level(matrix, sizes), penalty, randomness, labels.copy(), generator)
        found = _connected(matrix, found)
        reached = partition_quality(matrix, found, quality, resolution)
        if reached <= best + 1e-9 * abs(best):
            break
        labels, best = found, reached
    return labels
