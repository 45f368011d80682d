"""The prediction models of a service, by the names of their tasks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from riboray.errors import CheckpointError
from riboray.model.checkpoint import load_checkpoint
from riboray.model.config import RnaBertConfig
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from riboray.predicting.predictor import Predictor
from riboray.serving.schemas import TaskInfo

__all__ = ["Task", "Tasks"]


@dataclass(frozen=True)
class Task:
    """What is known of a task without its model in memory."""

    name: str
    checkpoint: str
    config: RnaBertConfig
    head: HeadConfig
    info: TaskInfo


class Tasks:
    """Models that are loaded when they are asked for, the last ones kept.

    All are looked into at once, so that a service with one that cannot be used never starts.

    Parameters
    ----------
    given : dict of str to str
        Checkpoint of each task.
    device : str
        Torch device.
    kept : int
        Models in memory at most.

    Raises
    ------
    CheckpointError
        If one cannot be read, or predicts nothing.
    """

    def __init__(self, given: dict[str, str], device: str = "cpu", kept: int = 16) -> None:
        self._device, self._kept = device, kept
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = threading.Lock()
        self._tasks = {name: _look_into(name, checkpoint) for name, checkpoint in given.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    @property
    def infos(self) -> list[TaskInfo]:
        """What there is."""
        return [task.info for task in self._tasks.values()]

    def predictor(self, name: str) -> Predictor:
        """Return a task's model, loaded if it is not.

        Raises
        ------
        CheckpointError
            If it is gone, or another one than when the service began.
        """
        with self._lock:
            if name not in self._loaded:
                task = self._tasks[name]
                loaded = load_checkpoint(task.checkpoint)
                if loaded.sha256 != task.info.sha256:
                    raise CheckpointError(task.checkpoint, "has changed since the service began")
                assert isinstance(loaded.model, RnaBertForPrediction)
                self._loaded[name] = Predictor(loaded.model, device=self._device)
                while len(self._loaded) > self._kept:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]


def _look_into(name: str, checkpoint: str) -> Task:
    loaded = load_checkpoint(checkpoint)
    model = loaded.model
    if not isinstance(model, RnaBertForPrediction):
        raise CheckpointError(checkpoint, f"has no prediction head; --tasks {name} needs one")
    head = model.head_config
    info = TaskInfo(
        task=name,
        # Where the file lies on the server is nobody's business outside.
        model=Path(loaded.name).name,
        sha256=loaded.sha256,
        level=head.level,
        problem=head.problem,
        labels=list(head.labels),
    )
    return Task(name, loaded.name, model.config, head, info)
