"""What a checkpoint of a fine-tuning holds beside the model, written and taken up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from riboray.errors import CheckpointError
from riboray.finetuning.learner import Learner
from riboray.model.checkpoint import write_checkpoint_files
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.reduction import from_rank_zero
from riboray.pretraining.report import read_records
from riboray.pretraining.state import STATE_FOLDER, write_beside

__all__ = ["TuningState", "restore_tuning", "write_tuning"]

Record = dict[str, Any]

SCHEMA_VERSION = 1


@dataclass
class TuningState:
    """Where a run stands.

    Attributes
    ----------
    step : int
        Steps taken.
    elapsed_s : float
        Seconds of training so far.
    evaluated : int
        Epochs measured; -1 before the first measurement.
    stale : int
        Measurements in a row that were no better than the best.
    best : float or None
        The best, higher is better.
    tie : float
        What decides between models that are as good: the loss, with its sign changed.
    ended : bool
        Whether it stopped by itself before its limit.
    """

    step: int = 0
    elapsed_s: float = 0.0
    evaluated: int = -1
    stale: int = 0
    best: float | None = None
    tie: float = 0.0
    ended: bool = False


def write_tuning(
    learner: Learner, directory: Path, state: TuningState, history: list[Record]
) -> None:
    """Write a checkpoint's files into an existing directory; the model as it is to be used."""
    write_checkpoint_files(learner.tuning.finished(), directory)
    values = {"schema_version": SCHEMA_VERSION, **asdict(state)}
    write_beside(directory, ("learner.pt", learner.state_dict()), values, history, learner.config)


def restore_tuning(
    learner: Learner, store: CheckpointStore | None, warn: Callable[[str], None]
) -> tuple[TuningState, list[Record]]:
    """Take up the newest checkpoint that is whole; called by all workers together.

    Returns
    -------
    state : TuningState
        Where to go on; the beginning if there is no checkpoint.
    history : list of dict
        The records up to there.

    Raises
    ------
    CheckpointError
        If the checkpoint is whole but not of this run. On every worker.
    """

    def read() -> tuple[dict[str, Any], TuningState, list[Record]] | None:
        path = None if store is None else store.newest(warn)
        return None if path is None else _read(path)

    found = from_rank_zero(read, learner.device)
    if found is None:
        return TuningState(), []
    stored, state, history = found
    try:
        learner.load_state_dict(stored)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = f"its training state does not fit the run ({error})"
        raise CheckpointError("checkpoints", reason) from error
    return state, history


def _read(directory: Path) -> tuple[dict[str, Any], TuningState, list[Record]]:
    folder = directory / STATE_FOLDER
    try:
        values = json.loads((folder / "state.json").read_text("utf-8"))
        version = values.pop("schema_version")
        if version > SCHEMA_VERSION:
            reason = f"training state of version {version}; update riboray"
            raise CheckpointError(directory, reason)
        stored = torch.load(folder / "learner.pt", map_location="cpu", weights_only=True)
        return stored, TuningState(**values), read_records(directory / "metrics.jsonl")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(directory, f"no usable training state ({error})") from error
