"""Cutting an all-against-all into tiles: what is compared with what, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.lockstep import LANES

__all__ = ["Plan", "TileSpec", "cut", "plan_all_pairs", "plan_pairs", "plan_search"]

#: Tiles aimed at: enough to keep many workers busy to the end, few enough to be worth a task.
_TILES = 64
_SMALLEST_TILE, _LARGEST_TILE = 5e7, 1e9
#: Beyond so many tiles they grow again, to half a minute each: one process hands all of them out,
#: and with more to hand out a second than it can, others wait (docs/scaling.md).
_MANY_TILES, _HUGEST_TILE = 4096, 1e10

#: Nucleotides of a chunk at most: 100 MB of base embeddings.
_LARGEST_CHUNK = 200_000


@dataclass(frozen=True)
class TileSpec:
    """One tile.

    Attributes
    ----------
    a, b : int
        Chunks of queries and targets.
    same : bool
        Whether both are one chunk of one set: each unordered pair once.
    cells : int
        Cells of the dynamic programme.
    pairs : int
        Pairs compared.
    chosen : tuple of ndarray or None
        Only these pairs: global indices of queries and targets.
    """

    a: int
    b: int
    same: bool
    cells: int
    pairs: int
    chosen: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def name(self) -> str:
        """Name of the tile's file, without suffix."""
        return f"tile-{self.a:05d}-{self.b:05d}"


@dataclass(frozen=True)
class Plan:
    """A whole comparison. Depends on the sequences' lengths alone, never on the workers.

    Attributes
    ----------
    order : ndarray, shape=(n,), dtype=int64
        All sequences, longest first (ties in input order); "index" elsewhere is a place in it.
    target_order : ndarray or None
        The same for the targets, if they are another set.
    chunks, target_chunks : list of tuple of int
        First and last-plus-one index of each chunk.
    tiles : list of TileSpec
        Largest first.
    """

    order: NDArray[np.int64]
    target_order: NDArray[np.int64] | None
    chunks: list[tuple[int, int]]
    target_chunks: list[tuple[int, int]]
    tiles: list[TileSpec]

    @property
    def cells(self) -> int:
        """Cells of all tiles."""
        return sum(tile.cells for tile in self.tiles)

    @property
    def pairs(self) -> int:
        """Pairs of all tiles."""
        return sum(tile.pairs for tile in self.tiles)


def _tile_size(total: float) -> float:
    """Return the cells of a tile, of so many in all."""
    if total > _MANY_TILES * _LARGEST_TILE:
        return min(total / _MANY_TILES, _HUGEST_TILE)
    return float(np.clip(total / _TILES, _SMALLEST_TILE, _LARGEST_TILE))


def cut(lengths: NDArray[np.integer], nucleotides: float = np.inf) -> list[tuple[int, int]]:
    """Cut sequences into runs of at most so many nucleotides, or one sequence.

    Whatever is asked for, the base embeddings of a run fit in memory together.

    A run of more than `LANES` sequences holds a multiple of that, so that blocks are full.
    """
    nucleotides = min(nucleotides, _LARGEST_CHUNK)
    ends = np.cumsum(lengths, dtype=np.int64)
    bounds = [0]
    while bounds[-1] < len(lengths):
        start = bounds[-1]
        before = ends[start - 1] if start else 0
        count = int(np.searchsorted(ends, before + nucleotides, side="right")) - start
        if start + count < len(lengths) and count > LANES:
            count -= count % LANES
        bounds.append(start + max(count, 1))
    return list(pairwise(bounds))


def _longest_first(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.argsort(-np.asarray(lengths, np.int64), kind="stable")


def plan_all_pairs(lengths: NDArray[np.integer]) -> Plan:
    """Plan the comparison of every sequence with every other, each pair once.

    Parameters
    ----------
    lengths : ndarray, shape=(n,), dtype=integer
        Lengths, in nucleotides, at least 1.

    Returns
    -------
    Plan
    """
    order = _longest_first(lengths)
    sizes = np.asarray(lengths, np.int64)[order]
    chunks = cut(sizes, np.sqrt(_tile_size(float(sizes.sum()) ** 2 / 2)))
    totals = [int(sizes[start:stop].sum()) for start, stop in chunks]
    squares = [int((sizes[start:stop] ** 2).sum()) for start, stop in chunks]
    tiles = []
    for a, (start_a, stop_a) in enumerate(chunks):
        for b in range(a, len(chunks)):
            count_a, count_b = stop_a - start_a, chunks[b][1] - chunks[b][0]
            if a == b:
                cells, pairs = (totals[a] ** 2 - squares[a]) // 2, count_a * (count_a - 1) // 2
            else:
                cells, pairs = totals[a] * totals[b], count_a * count_b
            if pairs:
                tiles.append(TileSpec(a, b, a == b, cells, pairs))
    return Plan(order, None, chunks, chunks, _largest_first(tiles))


def plan_search(
    query_lengths: NDArray[np.integer],
    target_lengths: NDArray[np.integer],
    share: float = 1.0,
) -> Plan:
    """Plan the comparison of every query with every target.

    Few queries against many targets are cut along the targets, many queries against few along the
    queries, anything else along both.

    Parameters
    ----------
    query_lengths, target_lengths : ndarray, dtype=integer
        Lengths, in nucleotides.
    share : float
        Share of all pairs that will be compared: tiles are so much larger.

    Returns
    -------
    Plan
    """
    order, target_order = _longest_first(query_lengths), _longest_first(target_lengths)
    sizes = np.asarray(query_lengths, np.int64)[order]
    target_sizes = np.asarray(target_lengths, np.int64)[target_order]
    size = _tile_size(float(sizes.sum()) * float(target_sizes.sum()) * share) / share
    side = np.sqrt(size)
    chunks = cut(sizes, max(side, size / max(float(target_sizes.sum()), 1.0)))
    target_chunks = cut(target_sizes, max(side, size / max(float(sizes.sum()), 1.0)))
    tiles = []
    for a, (start, stop) in enumerate(chunks):
        for b, (target_start, target_stop) in enumerate(target_chunks):
            cells = int(sizes[start:stop].sum()) * int(target_sizes[target_start:target_stop].sum())
            pairs = (stop - start) * (target_stop - target_start)
            tiles.append(TileSpec(a, b, False, cells, pairs))
    return Plan(order, target_order, chunks, target_chunks, _largest_first(tiles))


def plan_pairs(
    plan: Plan,
    query: NDArray[np.int64],
    target: NDArray[np.int64],
    lengths: NDArray[np.integer],
    target_lengths: NDArray[np.integer],
) -> list[TileSpec]:
    """Group chosen pairs, given by index, into the tiles of a plan.

    Parameters
    ----------
    plan : Plan
        Its chunks are used.
    query, target : ndarray, shape=(k,), dtype=int64
        The pairs.
    lengths, target_lengths : ndarray
        Lengths by index.

    Returns
    -------
    list of TileSpec
        Largest first; tiles without a pair are left out.
    """
    starts = np.array([start for start, _ in plan.chunks])
    target_starts = np.array([start for start, _ in plan.target_chunks])
    in_a = np.searchsorted(starts, query, side="right") - 1
    in_b = np.searchsorted(target_starts, target, side="right") - 1
    order = np.lexsort((target, query, in_b, in_a))
    changes = np.flatnonzero(np.diff(in_a[order]) | np.diff(in_b[order])) + 1
    tiles = []
    for here in np.split(order, changes) if len(order) else []:
        a, b = int(in_a[here[0]]), int(in_b[here[0]])
        chosen = query[here], target[here]
        sizes = lengths[chosen[0]].astype(np.int64) * target_lengths[chosen[1]]
        same = plan.target_order is None and a == b
        tiles.append(TileSpec(a, b, same, int(sizes.sum()), len(here), chosen))
    return _largest_first(tiles)


def _largest_first(tiles: list[TileSpec]) -> list[TileSpec]:
    return sorted(tiles, key=lambda tile: (-tile.cells, tile.a, tile.b))
