"""What every question to the service needs: a loaded checkpoint, a queue, an account of both."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riboray import __version__
from riboray.alignment.index import SearchIndex, open_database
from riboray.embedding.embedder import Embedder
from riboray.model.checkpoint import describe, load_checkpoint
from riboray.serving.batcher import Batcher
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.inputs import Limits
from riboray.serving.landscape import Landscape
from riboray.serving.metrics import Metrics
from riboray.serving.schemas import Health, Info
from riboray.serving.tasks import Tasks
from riboray.serving.work import Job, Worker

__all__ = ["Core"]

#: Batches in a row without a single result after which the model counts as broken.
_BROKEN = 3

_log = logging.getLogger(__name__)


def _cost(job: Job) -> int:
    return job.cost


def _open_index(db: str, checkpoint: str, embedder: Embedder, folder: Path) -> SearchIndex:
    """Open what is searched, indices and chance scores included."""
    database, _ = open_database(db, checkpoint)
    index = SearchIndex(database, embedder, checkpoint, folder)
    index.rule("global")
    return index


class Core:
    """A loaded checkpoint, its queue, and what is computed for whatever is asked.

    Parameters
    ----------
    checkpoint : str
        Anything `load_checkpoint` reads.
    limits : Limits, optional
        How much a request may ask for.
    capacity : int, optional
        Nucleotides that may wait; more are turned away.
    device : str, optional
        Torch device.
    db : str, optional
        Directory of embeddings that can be searched.
    tasks : dict of str to str, optional
        Checkpoint of each prediction model, by the name of its task.

    Raises
    ------
    CheckpointError, CorpusError
        If it cannot be read; the service then never starts.
    """

    def __init__(
        self,
        checkpoint: str,
        limits: Limits | None = None,
        capacity: int = 4_000_000,
        device: str = "cpu",
        db: str | None = None,
        tasks: dict[str, str] | None = None,
    ) -> None:
        loaded = load_checkpoint(checkpoint)
        # Where the file lies on the server is nobody's business outside.
        self.model, self.name = loaded.model, Path(loaded.name).name
        self.limits = limits or Limits()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        embedder = Embedder(loaded.model, device=device)
        self.tokens, self.config = embedder.config.tokens, embedder.config
        index = None
        if db is not None:  # indices that are not beside the database are this process's own
            self._folder = tempfile.TemporaryDirectory(prefix="riboray-index-")
            index = _open_index(db, checkpoint, embedder, Path(self._folder.name))
        self.tasks = Tasks(tasks or {}, device)
        self.worker = Worker(embedder, index, self.tasks.predictor)
        self.metrics = Metrics()
        run = self.metrics.timed(self.worker.run, _cost)
        self._batcher = Batcher[Job, Any](run, _cost, embedder.token_budget, capacity)
        self.metrics.watch(lambda: self._batcher.waiting)
        self._landscape: Landscape | None = None
        self._mapping = asyncio.Lock()
        self._info = Info(
            riboray_version=__version__,
            model=self.name,
            checkpoint={k: v for k, v in describe(loaded).items() if k != "path"},
            limits=vars(self.limits),
            database=None if index is None else len(index.database),
            tasks=self.tasks.infos,
        )

    def health(self) -> Health:
        """Tell that the checkpoint is loaded, and that the model answers.

        Raises
        ------
        ServiceError
            ``NOT_READY`` if the service is ending, or every batch fails.
        """
        if self._batcher.closed:
            raise ServiceError(ErrorCode.NOT_READY, "the service is ending")
        if self.is_broken:
            raise ServiceError(ErrorCode.NOT_READY, "the model fails; the log says why")
        return Health(status="ok")

    @property
    def is_broken(self) -> bool:
        """Whether batch after batch fails."""
        return self._batcher.failures >= _BROKEN

    def info(self) -> Info:
        """Describe the checkpoint."""
        return self._info

    async def close(self) -> None:
        """Finish what is being computed; who waits is told."""
        await self._batcher.close()
        if self._folder is not None:
            self._folder.cleanup()

    async def _compute(self, jobs: Sequence[Job | ServiceError], first: int = 0) -> list[Any]:
        """Compute the jobs; what was no job, and what fails, is an error in its place.

        ``first`` is the number of the first one in its request.
        """
        wanted = [job for job in jobs if not isinstance(job, ServiceError)]
        found = iter(await self._batcher.submit(wanted))
        results = []
        for index, job in enumerate(jobs, start=first):
            result = job if isinstance(job, ServiceError) else next(found)
            if isinstance(result, Exception) and not isinstance(result, ServiceError):
                _log.error("a job failed", exc_info=result)
                result = ServiceError(ErrorCode.INTERNAL, "it could not be computed")
            if isinstance(result, ServiceError) and result.index is None:
                result.index = index
            results.append(result)
        return results
