"""One worker of a training run."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch

from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.feeding.pipeline import open_stream, start_maker
from riboray.pretraining.loop import run
from riboray.pretraining.options import RunOptions
from riboray.pretraining.sessions import Record, Requests
from riboray.pretraining.trainer import Trainer
from riboray.pretraining.work import Work

__all__ = ["RaySession", "begin", "work"]

#: Seconds between questions to the board: a GPU's steps would ask it a hundred times a second.
_ASKING_SECONDS = 0.25


class RaySession:
    """The loop's session inside a Ray Train worker."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answer: Any = None
        self._asked = 0.0
        self._stop = False
        self._checkpoints: int | None = None
        self._notice: Any = None

    def publish(self, record: Record) -> None:
        """Post without waiting."""
        self._board.post.remote(record)

    def requests(self) -> Requests:
        """Look whether the answer to an earlier question is here; never wait for it.

        Rank 0 asks for all: what it says is agreed on with the next step.
        """
        if ray.train.get_context().get_world_rank() != 0:
            return Requests()
        if self._answer is None:
            if time.monotonic() - self._asked < _ASKING_SECONDS:
                return Requests(self._stop)
            self._answer, self._asked = self._board.requests.remote(), time.monotonic()
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready:
            return Requests(self._stop)
        self._stop, asked = ray.get(self._answer)
        self._answer = None
        before = asked if self._checkpoints is None else self._checkpoints
        self._checkpoints = asked
        return Requests(self._stop, asked > before)

    def losing_machine(self) -> bool:
        """Ask Ray Train whether one of the run's nodes is being drained."""
        notice = ray.train.get_preemption_info()
        is_new = notice is not None and notice != self._notice
        self._notice = notice
        return is_new


def begin(config: RunOptions, store: CheckpointStore, board: Any) -> RaySession | None:
    """Begin an attempt, all workers together; None if there were failures enough."""
    failures = None
    if ray.train.get_context().get_world_rank() == 0:
        newest = max(store.steps(), default=0)
        failures = ray.get(board.begin_attempt.remote(newest))
    if ray.train.collective.broadcast_from_rank_zero(failures) > config.max_failures:
        board.post.remote({"kind": "gave_up"})
        return None
    torch.set_num_threads(config.cpus_per_worker)
    return RaySession(board)


def work(arguments: dict[str, Any]) -> None:
    """Pre-train as one of a run's workers.

    Parameters
    ----------
    arguments : dict
        The ``board``, and a list of a reference to the `Work` under ``values``.
    """
    values: Work = ray.get(arguments["values"][0])
    config = values.config
    session = begin(config, values.store, arguments["board"])
    if session is None:
        return
    trainer = Trainer(config, ray.train.torch.get_device())
    maker = start_maker() if trainer.device.type == "cuda" else None
    source = partial(open_stream, maker=maker)
    run(config, trainer, values.specs, source, values.validation, session, values.store)
