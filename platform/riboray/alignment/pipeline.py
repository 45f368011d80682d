"""Tiles over a pool of Ray actors; base embeddings shared through the object store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from riboray.alignment.database import Candidates, Prefilter, search_shard
from riboray.alignment.hits import hits_table
from riboray.alignment.plan import TileSpec
from riboray.alignment.similarity import SequenceSet
from riboray.alignment.store import PairStore, TileReport
from riboray.alignment.tiles import Rule, Side, align_pairs, align_tile, score_tile
from riboray.embedding.store import EmbeddingSet
from riboray.pipeline import connect, fetch, worker_count

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["Context", "TileRunner", "find_candidates", "running"]

#: Tiles handed to an actor ahead of time, so that it never waits for the next.
_AHEAD = 2

Chunk = Callable[[], Side]
"""Loads or embeds a chunk of sequences; runs in a Ray task."""


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


@ray.remote(num_cpus=1, max_retries=5)
def _make_chunk(load: Chunk, storage: str) -> Arrays:
    """Embed or load a chunk and leave it in the object store."""
    side = load()
    embeddings = side.sequences.embeddings.astype(storage)
    return embeddings, side.sequences.starts, side.nucleotides, side.first


def _side(arrays: Arrays) -> Side:
    """Make a side of what the object store handed out, read-only and without a copy.

    The working copy in float32 is what the compiled kernels take: one specialisation for all.
    """
    embeddings, starts, nucleotides, first = arrays
    return Side(
        SequenceSet(np.array(embeddings, np.float32), np.array(starts)),
        np.array(nucleotides),
        first,
    )


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
class TileWorker:
    """Aligns tiles, one at a time. A tile done twice, after a crash, is the same file again."""

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def align(
        self,
        store: PairStore,
        context: Context,
        tile: TileSpec,
        a: Arrays,
        b: Arrays | None,
        phase: str,
    ) -> TileReport:
        """Align a tile and commit what is to be reported of it."""
        side_a = _side(a)
        side_b = side_a if b is None else _side(b)
        rule = context.rule
        if phase == "score" or context.scores_only:
            hits = score_tile(side_a, side_b, rule, same=tile.same)
        elif tile.chosen is not None:
            query, target = (
                chosen - side.first
                for chosen, side in zip(tile.chosen, (side_a, side_b), strict=True)
            )
            hits = align_pairs(side_a, side_b, replace(rule, top_k=None), query, target)
        else:
            hits = align_tile(side_a, side_b, rule, same=tile.same)
        table = hits_table(
            hits,
            context.ids,
            context.lengths,
            rule.null,
            context.comparisons,
            context.target_ids,
            context.target_lengths,
        )
        if phase == "score":
            table = table.append_column("query_index", [hits.query]).append_column(
                "target_index", [hits.target]
            )
        name = tile.name if phase == "align" else f"{phase}-{tile.name}"
        return store.commit(name, table, hits.scored, text=phase == "align")


class TileRunner:
    """Runs the tiles of a plan on a Ray that is connected already.

    Parameters
    ----------
    store : PairStore
        Where tiles are committed.
    context : Context
        Shared by all tiles.
    chunks, target_chunks : list of callable
        Loaders of the chunks; the second list is None if both sides are one set.
    workers : int
        Actors.

    Attributes
    ----------
    seconds : float
        Time spent on tiles so far.
    """

    def __init__(
        self,
        store: PairStore,
        context: Context,
        chunks: list[Chunk],
        target_chunks: list[Chunk] | None,
        workers: int,
    ) -> None:
        self._store, self._context = store, context
        self._chunks, self._target_chunks = chunks, target_chunks
        self._workers = workers
        self._actors: list[Any] = []
        self._shared: tuple[Any, ...] = ()
        self.seconds = 0.0
        self._loaded: dict[tuple[int, int], Any] = {}

    def prepare(self, tiles: list[TileSpec], on_chunk: Callable[[int, int], None]) -> None:
        """Embed or load the chunks these tiles need."""
        needed = {(0, tile.a) for tile in tiles} | {self._key_b(tile) for tile in tiles}
        missing = sorted(needed - set(self._loaded), reverse=True)
        total = len(missing)
        waiting: list[Any] = []
        while missing or waiting:
            while missing and len(waiting) < self._workers:
                key = missing.pop()
                load = (self._chunks if key[0] == 0 else self._target_chunks or [])[key[1]]
                self._loaded[key] = _make_chunk.remote(load, self._context.storage)
                waiting.append(self._loaded[key])
            done, waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
            for reference in done:
                fetch(reference)
            on_chunk(total - len(missing) - len(waiting), total)

    def _key_b(self, tile: TileSpec) -> tuple[int, int]:
        return (0 if self._target_chunks is None else 1, tile.b)

    def run(self, tiles: list[TileSpec], phase: str) -> Iterator[tuple[TileSpec, TileReport]]:
        """Align tiles, in their order, and yield each when it is committed.

        Raises
        ------
        RiborayError
            If a tile fails for a reason other than a lost process, which is repeated.
        """
        if not self._actors:
            self._shared = ray.put(self._store), ray.put(self._context)
            count = min(self._workers, len(tiles))
            self._actors = [TileWorker.remote() for _ in range(count)]  # type: ignore[attr-defined]
        start = time.monotonic()
        todo = list(reversed(tiles))
        running: dict[Any, tuple[TileSpec, Any]] = {}
        free = [actor for _ in range(_AHEAD) for actor in self._actors]
        while todo or running:
            while todo and free:
                tile, actor = todo.pop(), free.pop(0)
                a, b = self._loaded[0, tile.a], None
                if self._key_b(tile) != (0, tile.a):
                    b = self._loaded[self._key_b(tile)]
                running[actor.align.remote(*self._shared, tile, a, b, phase)] = tile, actor
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                tile, actor = running.pop(reference)
                free.append(actor)
                yield tile, fetch(reference)
        self.seconds += time.monotonic() - start

    def pids(self) -> list[int]:
        """Return the actors' process ids."""
        return ray.get([actor.pid.remote() for actor in self._actors])


@ray.remote(num_cpus=1, max_retries=5)
def _search_shard(number: int, *arguments: Any) -> list[Candidates]:
    """Find candidates in one file; the index it may build is the same file every time."""
    database, *rest = arguments
    return search_shard(database, number, *rest)


def find_candidates(
    database: EmbeddingSet,
    chooser: Prefilter,
    pooled: np.ndarray[Any, np.dtype[np.float32]],
    queries: list[str],
    count: int,
    workers: int,
) -> Iterator[list[Candidates]]:
    """Search every file of a database, a few at a time; yield each one's candidates."""
    shared = [ray.put(value) for value in (database, chooser, pooled)]
    todo = list(range(len(database.files)))[::-1]
    running: list[Any] = []
    while todo or running:
        while todo and len(running) < workers:
            running.append(_search_shard.remote(todo.pop(), *shared, queries, count))
        done, running = ray.wait(running, num_returns=1)
        for reference in done:
            yield fetch(reference)


@contextmanager
def running(address: str, workers: int | None) -> Iterator[int]:
    """Connect to Ray; yield the number of workers to use, by default one a CPU."""
    with connect(address, cpus=workers or 0) as resources:
        yield worker_count(workers, address, resources)
