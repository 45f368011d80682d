"""Shards embedded by Ray tasks; each writes its own file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from riboray.embedding.shards import Shard, make_shard
from riboray.pipeline import connect, fetch, worker_count

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["embed_shards"]


@ray.remote(num_cpus=1, max_retries=5)
def _embed(shard: Shard) -> int:
    """Embed and commit one shard. Done twice, after a crash, it is the same file again."""
    return make_shard(shard)


def embed_shards(
    shards: list[Shard], address: str, workers: int | None
) -> Iterator[tuple[Shard, int]]:
    """Embed shards on Ray, a few at a time, and yield each with its rows when it is committed.

    Raises
    ------
    RiborayError
        If a shard fails for a reason other than a lost process, which is repeated.
    """
    with connect(address, cpus=workers or 0) as resources:
        limit = worker_count(workers, address, resources)
        todo = list(reversed(shards))
        running: dict[Any, Shard] = {}
        while todo or running:
            while todo and len(running) < limit:
                shard = todo.pop()
                running[_embed.remote(shard)] = shard
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                yield running.pop(reference), fetch(reference)
