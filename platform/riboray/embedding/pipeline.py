"""Embedding on Ray: a pool of actors that grows and shrinks with the cluster.

An actor reads a part, embeds it and writes its file: sequences of a plain or Parquet file, and
embeddings of any, never travel through Ray. It reads the next part while it embeds one. Only what
must be read from its beginning, a compressed file or a very large row group, is read by the driver
and handed out.

Ray Data would do: its actors, and those that it needs beside them, take longer to start
(2,264 sequences on two cores: 24 s against 18 s), and an actor that is lost for good, with its
machine, keeps its work.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from riboray.console import say
from riboray.corpus.pipeline import RayRunner
from riboray.corpus.screening import Block
from riboray.embedding.config import EmbedConfig
from riboray.embedding.planning import Part
from riboray.embedding.reading import Source, read_parts, wanted_units
from riboray.embedding.shards import Job, Note, PartMaker
from riboray.errors import ConfigError, RiborayError
from riboray.pipeline import connect, first_line, worker_count

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["EmbeddingPool", "embedding_pool"]

#: Parts with an actor at a time: one that it embeds and one that it reads.
_AHEAD = 2
#: Parts of a unit that an actor finds by itself; of more, reading up to the one wanted would take
#: too long.
_MOST_SOUGHT = 16
#: How often a part may take its process with it.
_DEATHS = 5
#: Seconds after which a process that died is asked again whether it is back.
_PATIENCE = 1.0

#: How Ray tells that a process is gone; the latter if it ended it for want of memory.
_LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)

Where = tuple[Source, tuple[int, ...]] | Block
"""Where a part is to be read, or its records."""


class _Worker:
    """A process with a model: reads parts, embeds them, writes them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._maker: PartMaker | None = None
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Answer, once the process is there."""
        return True

    def make(self, part: Part, where: Where) -> Note:
        """Embed one part; return its note, or what stops the run."""
        try:
            if not isinstance(where, Block):
                columns = self._job.given.columns
                ((_, where),) = read_parts(*where, columns, [part.part])
            with self._lock:
                self._maker = self._maker or PartMaker(self._job)
                return self._maker.make(part, where)
        except RiborayError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except OSError as error:
            path = f"{error.filename}: " if error.filename else ""
            reason = f"{path}{error.strerror or error}; what is done is kept: put this right and "
            return {"error": reason + "give the same command again", "exit_code": 1}
        except Exception as error:
            traceback.print_exc()
            return {"error": f"embedding failed: {type(error).__name__}: {error}", "exit_code": 1}


class EmbeddingPool:
    """Ray, connected: reads inputs and embeds them.

    Parameters
    ----------
    config : EmbedConfig
        The options.
    address : str
        Which Ray.
    resources : dict
        What it has.
    """

    def __init__(self, config: EmbedConfig, address: str, resources: dict[str, float]) -> None:
        self.use_gpu = uses_gpu(config, resources)
        given = config.num_workers
        if isinstance(given, list):
            self.least, self.most = given
        elif self.use_gpu:
            self.least = self.most = given or max(int(resources.get("GPU", 1)), 1)
        else:
            self.least = self.most = worker_count(given, address, resources)
        self.runner = RayRunner(self.most)

    def embed(
        self, sources: Sequence[Source], parts: Sequence[Part], job: Job
    ) -> Iterator[tuple[int, Note]]:
        """Embed parts; yield each one's number and note when it is committed, in any order.

        Raises
        ------
        RiborayError
            If one fails for a reason other than a lost process, which is replaced.
        """
        options = {"max_restarts": -1, "max_concurrency": _AHEAD, "num_cpus": 1}
        options |= {"num_gpus": int(self.use_gpu)}
        kind: Any = ray.remote(_Worker)
        actors = [kind.options(**options).remote(job) for _ in range(min(self.most, len(parts)))]
        crew = _Crew(actors)
        try:
            for part, note in crew.run(_calls(sources, parts, job)):
                if "error" in note:
                    failure = RiborayError(note["error"])
                    failure.exit_code = note["exit_code"]
                    raise failure
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


class _Crew:
    """Actors, of which some may not be there yet, or not any more.

    Parameters
    ----------
    actors : list
        Handles. Those that the cluster has no room for wait; an autoscaling cluster makes room.
    """

    def __init__(self, actors: list[Any]) -> None:
        self._awaited = {actor.ready.remote(): actor for actor in actors}
        self._load: Counter[Any] = Counter()
        self._there: list[Any] = []
        self._running: dict[Any, tuple[Part, Where, Any]] = {}
        self._again: deque[tuple[Part, Where]] = deque()
        self._deaths: Counter[int] = Counter()

    def run(self, calls: Iterable[tuple[Part, Where]]) -> Iterator[tuple[Part, Note]]:
        """Make calls and yield their results as they come.

        Raises
        ------
        RiborayError
            If a part takes its process with it again and again.
        """
        source = iter(calls)
        following = next(source, None)
        while following or self._again or self._running:
            while (following or self._again) and (actor := self._free()) is not None:
                if self._again:
                    self._hand(actor, *self._again.popleft())
                elif following is not None:
                    self._hand(actor, *following)
                    following = next(source, None)
            if following is None and not self._again:
                self._send_home()
            done, _ = ray.wait(
                [*self._running, *self._awaited], num_returns=1, fetch_local=False, timeout=60
            )
            if not done and not self._there:
                say("  waiting     the cluster has no room for a process yet")
            for reference in done:
                if reference in self._awaited:
                    self._welcome(reference)
                elif (result := self._collect(reference)) is not None:
                    yield result

    def _free(self) -> Any:
        """Return the actor with the least to do, or None if all have enough."""
        actor = min(self._there, key=self._load.__getitem__, default=None)
        return None if actor is None or self._load[actor] >= _AHEAD else actor

    def _hand(self, actor: Any, part: Part, where: Where) -> None:
        self._load[actor] += 1
        self._running[actor.make.remote(part, where)] = part, where, actor

    def _welcome(self, reference: Any) -> None:
        actor = self._awaited.pop(reference)
        try:
            ray.get(reference)
        except _LOST as error:
            if getattr(error, "actor_init_failed", False):
                raise RiborayError(f"a process could not begin: {first_line(error)}") from error
            time.sleep(_PATIENCE)  # died again: it is started once more
            self._awaited[actor.ready.remote()] = actor
        except ray.exceptions.RayError as error:
            raise RiborayError(f"a process could not begin: {first_line(error)}") from error
        else:
            self._there.append(actor)

    def _collect(self, reference: Any) -> tuple[Part, Note] | None:
        """Return a result; if its process died, give the part to another."""
        part, where, actor = self._running.pop(reference)
        self._load[actor] -= 1
        try:
            return part, ray.get(reference)
        except _LOST as error:
            self._deaths[part.number] += 1
            if self._deaths[part.number] >= _DEATHS:
                raise RiborayError(
                    f"part {part.number} of the input ended its process {_DEATHS} times (is there "
                    f"enough memory?): {first_line(error)}"
                ) from error
            self._again.append((part, where))
            if actor in self._there:
                self._there.remove(actor)
                self._awaited[actor.ready.remote()] = actor
            return None
        except ray.exceptions.RayError as error:
            raise RiborayError(f"embedding failed: {first_line(error)}") from error

    def _send_home(self) -> None:
        """Give back what has nothing to do any more: a cluster shrinks while the last ones work."""
        busy = {actor for _, _, actor in self._running.values()}
        for actor in [a for a in self._there if a not in busy]:
            self._there.remove(actor)
            ray.kill(actor)
        if len(self._running) and not self._again:
            for actor in self._awaited.values():
                if actor not in busy:
                    ray.kill(actor)
            # The others died with work that nobody has asked for yet, and may be needed for it.
            self._awaited = {r: actor for r, actor in self._awaited.items() if actor in busy}

    def dismiss(self) -> None:
        """End all actors."""
        for actor in {
            *self._there,
            *self._awaited.values(),
            *(x[2] for x in self._running.values()),
        }:
            ray.kill(actor)


def uses_gpu(config: EmbedConfig, resources: dict[str, float]) -> bool:
    """Decide where the model runs.

    Raises
    ------
    ConfigError
        If a GPU is asked for and there is none now.
    """
    has = bool(resources.get("GPU"))
    if config.device == "gpu" and not has:
        raise ConfigError("device is gpu, but the cluster has no GPU now; use cpu or auto")
    return has and config.device != "cpu"


@contextmanager
def embedding_pool(config: EmbedConfig, address: str) -> Iterator[EmbeddingPool]:
    """Connect to Ray, or start one on this machine, for the length of a ``with`` block."""
    given = config.num_workers
    asked = given[1] if isinstance(given, list) else given
    with connect(address, cpus=asked or 0, spare=0) as resources:
        yield EmbeddingPool(config, address, resources)
