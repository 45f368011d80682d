"""Embedding on Ray: a crew of processes that grows and shrinks with the cluster.

A process reads a part, embeds it and writes its file: sequences of a plain or Parquet file, and
embeddings of any, never travel through Ray. It reads the next part while it embeds one. Only what
must be read from its beginning, a compressed file or a very large row group, is read by the driver
and handed out.

Ray Data would do: its actors, and those that it needs beside them, take longer to start
(2,264 sequences on two cores: 24 s against 18 s), and an actor that is lost for good, with its
machine, keeps its work.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from riboray.corpus.pipeline import RayRunner
from riboray.corpus.screening import Block
from riboray.crew.folders import common_file
from riboray.crew.pipeline import Crew, shared
from riboray.crew.size import Needs, crew_size
from riboray.embedding.config import PartwiseOptions
from riboray.embedding.parts import Job, Maker, Note, maker_of
from riboray.embedding.planning import Part
from riboray.embedding.reading import Source, read_parts, wanted_units
from riboray.errors import ConfigError
from riboray.pipeline import connect
from riboray.rayenv import LOCAL

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["EmbeddingPool", "embedding_pool"]

#: Parts of a unit that a process finds by itself; of more, reading up to the one wanted would take
#: too long.
_MOST_SOUGHT = 16

Where = tuple[Source, tuple[int, ...]] | Block
"""Where a part is to be read, or its records."""

#: A process's maker of parts. It makes one at a time; the next one is read meanwhile.
_makers: dict[str, Maker] = {}
_lock = threading.Lock()


def _make(box: list[Any], part: Part, where: Where) -> Note:
    """Embed one part; return its note."""
    job: Job = shared(box)
    if not isinstance(where, Block):
        ((_, where),) = read_parts(*where, job.given.columns, [part.part])
    with _lock:
        if job.identity not in _makers:
            _makers[job.identity] = maker_of(job)
        return _makers[job.identity].make(part, where)


class EmbeddingPool:
    """Ray, connected: reads inputs and embeds them.

    Parameters
    ----------
    config : PartwiseOptions
        The options.
    address : str
        Which Ray.
    resources : dict
        What it has.
    """

    def __init__(self, config: PartwiseOptions, address: str, resources: dict[str, float]) -> None:
        self.use_gpu = uses_gpu(config, address, resources)
        kind = "GPU" if self.use_gpu else "CPU"
        self.size = crew_size(config.num_workers, address, resources, kind)
        self.needs = Needs(gpus=int(self.use_gpu), memory=config.memory_per_worker, calls=2)
        self.runner = RayRunner(None if self.use_gpu else config.num_workers, address)
        self._address = address

    def embed(
        self, sources: Sequence[Source], parts: Sequence[Part], job: Job
    ) -> Iterator[tuple[int, Note]]:
        """Embed parts; yield each one's number and note when it is committed, in any order.

        Raises
        ------
        RiborayError
            If one fails for a reason other than a lost process, which is replaced.
        """
        box = [ray.put(job)]
        calls = ((part, (_make, box, part, where)) for part, where in _calls(sources, parts, job))
        with common_file(self._address, Path(job.directory) / "work") as probe:
            crew = Crew(self.size, self.needs, probe)
            try:
                for part, note in crew.each(calls, len(parts), what=job.product.doing, last=True):
                    yield part.number, note
            finally:
                crew.dismiss()


def _calls(
    sources: Sequence[Source], parts: Sequence[Part], job: Job
) -> Iterator[tuple[Part, Where]]:
    """Yield each part with where it is; what must be streamed is read as it is drawn."""
    places = {(part.source, part.part): part for part in parts}
    for source, unit, inside in wanted_units(sources, places):
        if unit and len(unit) <= _MOST_SOUGHT:
            for number in sorted(inside):
                yield places[source.index, number], (source, unit)
            continue
        for number, block in read_parts(source, unit, job.given.columns, inside):
            yield places[source.index, number], block


def uses_gpu(config: PartwiseOptions, address: str, resources: dict[str, float]) -> bool:
    """Decide where the model runs.

    Raises
    ------
    ConfigError
        If a GPU is asked for and this machine has none; a cluster may yet get one.
    """
    has = bool(resources.get("GPU"))
    if config.device == "gpu" and not has and address == LOCAL:
        raise ConfigError("device is gpu, but this machine has no GPU; use cpu or auto")
    return config.device == "gpu" or (has and config.device != "cpu")


@contextmanager
def embedding_pool(config: PartwiseOptions, address: str) -> Iterator[EmbeddingPool]:
    """Connect to Ray, or start one on this machine, for the length of a ``with`` block."""
    given = config.num_workers
    asked = given[1] if isinstance(given, list) else given
    with connect(address, cpus=asked or 0, spare=0) as resources:
        yield EmbeddingPool(config, address, resources)
