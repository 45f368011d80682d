"""Tiles over a crew of processes; base embeddings shared through the object store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from riboray.alignment.candidates import (
    Candidates,
    Prefilter,
    first_width,
    merge_candidates,
    rank_by_diagonals,
    search_shard,
    stored_texts,
)
from riboray.alignment.hits import hits_table
from riboray.alignment.plan import TileSpec
from riboray.alignment.sides import Rule, Side, TileHits
from riboray.alignment.similarity import SequenceSet
from riboray.alignment.store import PairStore, Phase, TileReport
from riboray.alignment.tiles import align_pairs, align_tile, score_pairs, score_tile
from riboray.console import say
from riboray.crew.pipeline import Crew, shared
from riboray.embedding.pooling import pool
from riboray.embedding.shards import cached_embedder
from riboray.embedding.store import EmbeddingSet
from riboray.errors import RiborayError
from riboray.pipeline import LostObject

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["Context", "TileRunner", "find_candidates"]

#: How often base embeddings are made again that were lost with machines.
_LOSSES = 20

#: Queries embedded and pooled by one call.
_QUERIES = 256

Chunk = Callable[[], Side]
"""Loads or embeds a chunk of sequences; runs in an actor."""


@dataclass(frozen=True)
class Context:
    """What every tile needs besides its sequences.

    Attributes
    ----------
    rule : Rule
        How to align and what to report.
    ids, target_ids : list of str
        Names by index; ``target_ids`` is None if both sides are one set.
    lengths, target_lengths : ndarray
        Lengths by index.
    comparisons : int
        Pairs compared in all, for E-values.
    scores_only : bool
        No tracebacks.
    storage : str
        Type of base embeddings in the object store.
    """

    rule: Rule
    ids: list[str]
    lengths: np.ndarray[Any, np.dtype[np.int32]]
    comparisons: int
    scores_only: bool
    storage: str
    target_ids: list[str] | None = None
    target_lengths: np.ndarray[Any, np.dtype[np.int32]] | None = None


Arrays = tuple[Any, Any, Any, int]


def _make_chunk(load: Chunk, storage: str) -> Arrays:
    """Embed or load a chunk, to be left in the object store."""
    side = load()
    embeddings = side.sequences.embeddings.astype(storage, copy=False)
    return embeddings, side.sequences.starts, side.nucleotides, side.first


def _side(arrays: Arrays) -> Side:
    """Make a side of what the object store handed out: float32 is used where it lies."""
    embeddings, starts, nucleotides, first = arrays
    return Side(SequenceSet(embeddings.astype(np.float32, copy=False), starts), nucleotides, first)


def _align(
    box: list[Any], tile: TileSpec, phase: Phase, a: Arrays, b: Arrays | None = None
) -> TileReport:
    """Do one tile and commit what is to be reported of it."""
    store, context = shared(box)
    side_a = _side(a)
    side_b = side_a if b is None else _side(b)
    hits = _hits(context, tile, phase, side_a, side_b)
    table = hits_table(
        hits,
        context.ids,
        context.lengths,
        context.rule.null,
        context.comparisons,
        context.target_ids,
        context.target_lengths,
    )
    indices = {"query_index": hits.query, "target_index": hits.target}
    report: TileReport = store.commit(phase, tile, table, indices, hits.scored)
    return report


def _hits(context: Context, tile: TileSpec, phase: Phase, a: Side, b: Side) -> TileHits:
    rule = context.rule
    if tile.chosen is not None:
        query, target = tile.chosen[0] - a.first, tile.chosen[1] - b.first
        plain = replace(rule, top_k=None)
        if phase == "score" or context.scores_only:
            return score_pairs(a, b, plain, query, target)
        return align_pairs(a, b, plain, query, target)
    if phase == "score" or context.scores_only:
        return score_tile(a, b, rule, same=tile.same)
    return align_tile(a, b, rule, same=tile.same)


class TileRunner:
    """Runs the tiles of a plan on a crew.

    Parameters
    ----------
    crew : Crew
        Who works.
    store : PairStore
        Where tiles are committed.
    context : Context
        Shared by all tiles.
    chunks, target_chunks : list of callable
        Loaders of the chunks; the second list is None if both sides are one set.

    Attributes
    ----------
    seconds : float
        Time spent on tiles so far.
    """

    def __init__(
        self,
        crew: Crew,
        store: PairStore,
        context: Context,
        chunks: list[Chunk],
        target_chunks: list[Chunk] | None,
    ) -> None:
        self._crew, self._storage = crew, context.storage
        self._box = [ray.put((store, context))]
        self._chunks, self._target_chunks = chunks, target_chunks
        self._loaded: dict[tuple[int, int], Any] = {}
        self.seconds = 0.0

    def prepare(self, tiles: list[TileSpec], on_chunk: Callable[[int, int], None]) -> None:
        """Embed or load the chunks these tiles need."""
        needed = {(0, tile.a) for tile in tiles} | {self._key_b(tile) for tile in tiles}
        missing = sorted(needed - set(self._loaded))
        calls = ((key, (_make_chunk, self._loader(key), self._storage)) for key in missing)
        made = self._crew.each(calls, len(missing), what="embedding", keep=True)
        for done, (key, reference) in enumerate(made, start=1):
            self._loaded[key] = reference
            on_chunk(done, len(missing))

    def _loader(self, key: tuple[int, int]) -> Chunk:
        side, number = key
        return (self._chunks if side == 0 else self._target_chunks or [])[number]

    def _key_b(self, tile: TileSpec) -> tuple[int, int]:
        return (0 if self._target_chunks is None else 1, tile.b)

    def run(self, tiles: list[TileSpec], phase: Phase) -> Iterator[tuple[TileSpec, TileReport]]:
        """Align tiles, in their order, and yield each when it is committed.

        Raises
        ------
        RiborayError
            If a tile fails for another reason than a lost process or machine.
        """
        start, left = time.monotonic(), tiles
        for _ in range(_LOSSES):
            lost = []
            calls = ((tile, self._call(tile, phase)) for tile in left)
            for tile, report in self._crew.each(calls, len(left), what="aligning"):
                if isinstance(report, LostObject):
                    lost.append(tile)
                else:
                    yield tile, report
            if not lost:
                self.seconds += time.monotonic() - start
                return
            say(f"  {len(lost)} tiles again: base embeddings went with a machine")
            for tile in lost:
                self._loaded.pop((0, tile.a), None)
                self._loaded.pop(self._key_b(tile), None)
            left = lost
            self.prepare(left, lambda done, total: None)
        raise RiborayError(f"base embeddings went with a machine {_LOSSES} times")

    def _call(self, tile: TileSpec, phase: Phase) -> tuple[Any, ...]:
        a, b = self._loaded[0, tile.a], self._loaded[self._key_b(tile)]
        sides = (a,) if self._key_b(tile) == (0, tile.a) else (a, b)
        return (_align, self._box, tile, phase, *sides)


def _pool_texts(checkpoint: str, texts: list[str], how: str) -> Any:
    """Embed and pool a few queries."""
    return np.stack([pool(rows, how) for rows in cached_embedder(checkpoint).per_base(texts)])


def _search_shard(box: list[Any], number: int, count: int) -> list[Candidates]:
    """Find candidates in one file; the index it may build is the same file every time."""
    database, chooser, pooled, kmers = shared(box)
    return search_shard(database, number, chooser, pooled, kmers, count)


def _rank(
    box: list[Any], texts: list[str], rows: np.ndarray[Any, np.dtype[np.int64]], count: int
) -> Candidates:
    """Choose among what k-mers chose."""
    database, chooser, _, _ = shared(box)
    return rank_by_diagonals(partial(stored_texts, database), chooser, texts, rows, count)


def find_candidates(
    crew: Crew,
    database: EmbeddingSet,
    chooser: Prefilter,
    queries: list[str],
    checkpoint: str,
    count: int,
    on_file: Callable[[int, int], None],
) -> list[Candidates]:
    """Search every file of a database for candidates of all queries; one a prefilter."""
    starts = range(0, len(queries), _QUERIES)
    how = database.pooling
    calls = (
        (start, (_pool_texts, checkpoint, queries[start : start + _QUERIES], how))
        for start in starts
    )
    parts = dict(crew.each(calls, len(starts), what="embedding"))
    pooled = np.concatenate([parts[start] for start in starts])
    kmers = None if chooser.kmers is None else chooser.kmers.queries(queries)
    box = [ray.put((database, chooser, pooled, kmers))]
    files = range(len(database.files))
    searches = ((number, (_search_shard, box, number, count)) for number in files)
    widths = ([] if chooser.whitening is None else [count]) + [first_width(count)]
    best: list[Candidates | None] = [None] * len(widths)
    for done, (_, part) in enumerate(crew.each(searches, len(files), what="searching"), start=1):
        found = zip(best, part, widths, strict=False)
        best = [merge_candidates(*one) for one in found]
        on_file(done, len(files))
    chosen = [one for one in best if one is not None]
    if chooser.kmers is None:
        return chosen
    rows = chosen.pop().rows
    blocks = (
        (start, (_rank, box, queries[start:stop], rows[start:stop], count))
        for start, stop in ((start, start + _QUERIES) for start in starts)
    )
    ranked = dict(crew.each(blocks, len(starts), what="ranking"))
    similarity = np.concatenate([ranked[start].similarity for start in starts])
    return [*chosen, Candidates(np.concatenate([ranked[s].rows for s in starts]), similarity)]
