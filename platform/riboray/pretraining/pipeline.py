"""Training on Ray Train: the driver's side, of pre-training and of fine-tuning.

This file only connects. What a worker of pre-training runs is in `working.pipeline`, and what is
computed there in `streams`, `trainer` and `loop`; `feeding.pipeline` reads its batches ahead with
Ray Data.
"""

from __future__ import annotations

import os
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import ControllerError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from riboray.console import say
from riboray.errors import ConfigError, RiborayError
from riboray.pipeline import cause_of
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.network import interface_of
from riboray.pretraining.options import RunOptions
from riboray.pretraining.progress.pipeline import ProgressBoard
from riboray.pretraining.sessions import Record
from riboray.rayenv import LOCAL

__all__ = ["TrainingRun", "gpus_wanted", "pretraining_worker"]


def gpus_wanted(config: RunOptions, address: str, resources: dict[str, float]) -> bool:
    """Decide whether each worker gets a GPU.

    With ``device="auto"``, if the cluster has enough of them now.

    Raises
    ------
    ConfigError
        If GPUs are asked for and this machine has none; a cluster may yet get some.
    """
    if config.device == "gpu" and not resources.get("GPU"):
        if address == LOCAL:
            raise ConfigError("device is gpu, but this machine has no GPU; use cpu or auto")
        say("  waiting     the cluster has no GPU now; its autoscaler is asked for them")
    if config.device != "auto":
        return config.device == "gpu"
    return resources.get("GPU", 0) >= config.worker_range[0]


def pretraining_worker(arguments: dict[str, Any]) -> None:
    """Pre-train as one of a run's workers, whose values are a `work.Work`.

    Its module is imported in the worker alone: Ray's controller of the run needs this function
    too, and no model.
    """
    from riboray.pretraining.working.pipeline import work

    work(arguments)


def _talk_through_rays_network() -> None:
    """Have gloo use the interface by which Ray knows this node.

    By itself it takes the address that the host's own name has, which on many machines is one of
    the loopback's: then workers of other machines cannot reach it.
    """
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class _Backend(ray.train.torch.TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's way to connect workers, each through the right network."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Connect; Ray Train calls it in its controller whenever workers are there."""
        worker_group.execute(_talk_through_rays_network)
        super().on_start(worker_group, backend_config)


class _Connected(ray.train.torch.TorchConfig):
    """Names the backend."""

    @property
    def backend_cls(self) -> type[_Backend]:
        """Return the backend."""
        return _Backend


class _FailureNotes(ray.train.UserCallback):
    """Posts what went wrong in a worker; Ray Train calls it in its controller."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Post the failures; what all of them say is posted once."""
        errors = {rank: _explain(error) for rank, error in worker_exceptions.items()}
        # One worker's end makes the others fail at their next message: its own tells the cause.
        told = [e for e in errors.values() if not _is_collateral(e)] or list(errors.values())
        self._board.note_failure.remote()
        self._board.post.remote(_failure(told[0]))


def _failure(error: RiborayError) -> Record:
    """Return what is told of a failure that training goes on after."""
    cause = textwrap.shorten(str(error).removeprefix("training failed: "), 160)
    message = f"a worker failed ({cause}); going on from the newest checkpoint"
    return {"kind": "failure", "message": message, "error": error}


def _is_collateral(error: RiborayError) -> bool:
    """Tell whether an error is but the loss of the connection to another worker."""
    text = str(error)
    return any(
        word in text for word in ("Connection closed by peer", "gloo", "Gloo", "NCCL", "nccl")
    )


@dataclass(frozen=True)
class TrainingRun:
    """A run of Ray Train, from start to its last checkpoint.

    Attributes
    ----------
    config : RunOptions
        With every default filled in.
    worker : callable
        What every worker runs. It is given a dictionary: ``values``, a list of one reference to
        the values, and the ``board``.
    values : object
        What it works on: data, where to begin.
    store : CheckpointStore
        Where checkpoints are kept; on a cluster, a path that every node sees.
    directory : Path
        Run directory, absolute; Ray Train keeps its notes in ``train/`` below it.
    use_gpu : bool
        Whether each worker gets a GPU.
    """

    config: RunOptions
    worker: Callable[[dict[str, Any]], None]
    values: Any
    store: CheckpointStore
    directory: Path
    use_gpu: bool

    def fit(self, on_record: Callable[[Record], None], on_wait: Callable[[], bool]) -> Path:
        """Train, passing each record on as it comes.

        Parameters
        ----------
        on_record : callable
            Called with every record, in order, from this thread.
        on_wait : callable
            Called a few times a second; returns whether the user asked to stop.

        Returns
        -------
        Path
            The newest checkpoint.

        Raises
        ------
        RiborayError
            If training failed for good.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ProgressBoard.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        outcome: dict[str, Any] = {}

        def fit() -> None:
            failures, reached = 0, -1
            while True:
                try:
                    outcome["result"] = self._trainer(board).fit()
                    return
                except BaseException as error:
                    told = _explain(error)
                    # A machine that goes while workers connect: to Ray Train, no worker's failure.
                    lost = isinstance(error, ControllerError) and _is_collateral(told)
                    newest = max(self.store.steps(), default=0)
                    failures = failures + 1 if newest == reached else 1
                    reached = newest
                    if not lost or failures > self.config.max_failures:
                        outcome["error"] = error
                        return
                    board.post.remote(_failure(told))

        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        watch = _Watch(board, on_record, self._room())
        asked = False
        while thread.is_alive():
            thread.join(timeout=0.25)
            watch.read()
            if watch.has_grown(self._room()):
                board.request_checkpoint.remote()  # Ray Train is about to start the workers anew
            if on_wait() and not asked:
                board.request_stop.remote()
                asked = True
        watch.read()
        ray.kill(board)
        if "error" in outcome:
            raise _explain(outcome["error"]) from outcome["error"]
        if watch.gave_up:
            raise watch.failure or RiborayError("training ended before its end")
        newest = self.store.newest(watch.tell)
        if newest is None:
            raise watch.failure or RiborayError("training ended without a checkpoint")
        return newest

    def _trainer(self, board: Any) -> ray.train.torch.TorchTrainer:
        config = self.config
        least, most = config.worker_range
        # Ray's annotations know the classes of its first Train only.
        scaling: dict[str, Any] = {
            "num_workers": most if least == most else (least, most),
            "elastic_resize_monitor_interval_s": 60 * config.resize_minutes,
        }
        callbacks: list[Any] = [_FailureNotes(board)]
        return ray.train.torch.TorchTrainer(
            self.worker,
            train_loop_config={"values": [ray.put(self.values)], "board": board},
            torch_config=_Connected(),
            scaling_config=ray.train.ScalingConfig(
                **scaling, use_gpu=self.use_gpu, resources_per_worker=self._worker_resources
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(self.directory),
                # Failures are counted on the board, where a new checkpoint starts the count anew.
                failure_config=ray.train.FailureConfig(max_failures=-1),
                callbacks=callbacks,
            ),
        )

    @property
    def _worker_resources(self) -> dict[str, float]:
        needs: dict[str, float] = {"CPU": self.config.cpus_per_worker}
        if self.use_gpu:
            needs["GPU"] = 1
        if self.config.memory_per_worker is not None:
            needs["memory"] = self.config.memory_per_worker * 2**30
        return needs

    def _room(self) -> int:
        """Count the workers that the cluster's nodes have room for, up to the most wanted."""
        least, most = self.config.worker_range
        if least == most:
            return most
        room = 0
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if node["Alive"]:
                has = node["Resources"]
                room += min(int(has.get(k, 0) // n) for k, n in self._worker_resources.items())
        return min(room, most)


class _Watch:
    """Follows a run from the driver: passes records on, notes failures, sees the cluster grow."""

    def __init__(self, board: Any, on_record: Callable[[Record], None], room: int) -> None:
        self._board, self._on_record, self._room = board, on_record, room
        self._seen = 0
        self._last: Record = {"step": 0, "progress": 0.0, "elapsed_s": 0.0}
        self.failure: RiborayError | None = None
        self.gave_up = False

    def read(self) -> None:
        """Pass new records on."""
        records = ray.get(self._board.since.remote(self._seen))
        self._seen += len(records)
        for record in records:
            if record["kind"] == "gave_up":
                self.gave_up = True
                continue
            if record["kind"] == "failure":
                self.failure = record["error"]
                self.tell(record["message"])
                continue
            self._last = record
            self._on_record(record)

    def tell(self, message: str) -> None:
        """Pass on something that happened outside the workers."""
        where = {name: self._last[name] for name in ("step", "progress", "elapsed_s")}
        self._on_record({"kind": "event", **where, "message": message})

    def has_grown(self, room: int) -> bool:
        """Tell whether there is room for more workers than a moment ago."""
        before, self._room = self._room, room
        return room > before


def _explain(error: BaseException) -> RiborayError:
    """Find the error of ours inside Ray Train's, or wrap the first worker's."""
    failures = list(getattr(error, "worker_failures", {}).values())
    cause: BaseException | None = failures[0] if failures else error
    innermost = error
    while cause is not None:
        if isinstance(cause, RiborayError):
            return cause
        innermost, cause = cause, getattr(cause, "cause", None) or cause.__cause__
    return RiborayError(f"training failed: {cause_of(innermost)}")
