"""What a training checkpoint holds beside the model, and how all workers get the same of it.

Everything that decides how a run goes on is here: weights, optimiser, averaged weights, random
number generators, step, clock, curriculum position, measurements taken and every stream's cursor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from riboray.errors import CheckpointError
from riboray.model.checkpoint import load_checkpoint, write_checkpoint_files
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.curriculum import Position
from riboray.pretraining.options import RunOptions
from riboray.pretraining.reduction import from_rank_zero
from riboray.pretraining.report import read_records, write_records
from riboray.pretraining.trainer import Trainer

__all__ = ["STATE_FOLDER", "RunState", "restore_state", "write_beside", "write_state"]

Record = dict[str, Any]

STATE_FOLDER = "training_state"
SCHEMA_VERSION = 1


@dataclass
class RunState:
    """Where a run stands.

    Attributes
    ----------
    step : int
        Steps taken.
    elapsed_s : float
        Seconds of training so far.
    evaluated : int
        Measurements taken; -1 before the first.
    position : Position
        Phase of the curriculum and where it began.
    stale : int
        Measurements in a row that were no better than the best of the phase.
    best : float or None
        The best measurement of the phase, higher is better.
    cursors : dict of str to list of (visit, batch)
        Where each stream of each objective stands.
    """

    step: int = 0
    elapsed_s: float = 0.0
    evaluated: int = -1
    position: Position = field(default_factory=Position)
    stale: int = 0
    best: float | None = None
    cursors: dict[str, list[list[int]]] = field(default_factory=dict)


def write_state(trainer: Trainer, directory: Path, state: RunState, history: list[Record]) -> None:
    """Write a training checkpoint's files into an existing directory.

    Parameters
    ----------
    trainer : Trainer
        Model, optimiser and, if there are any, averaged weights: these are then the model's.
    directory : Path
        Where to.
    state : RunState
        Where the run stands.
    history : list of dict
        The records so far, one a line of ``metrics.jsonl``.
    """
    with trainer.averaged_weights():
        write_checkpoint_files(trainer.model, directory)
    values = {"schema_version": SCHEMA_VERSION, **asdict(state)}
    values["position"] = state.position._asdict()
    write_beside(directory, ("trainer.pt", trainer.state_dict()), values, history, trainer.config)


def write_beside(
    directory: Path,
    stored: tuple[str, dict[str, Any]],
    values: dict[str, Any],
    history: list[Record],
    config: RunOptions,
) -> None:
    """Write what lies beside a training checkpoint's model.

    Parameters
    ----------
    directory : Path
        Where to.
    stored : tuple of str and dict
        File and state of optimiser and weights.
    values : dict
        Where the run stands, for ``state.json``.
    history : list of dict
        The records so far.
    config : RunOptions
        The run's options.
    """
    folder = directory / STATE_FOLDER
    folder.mkdir()
    torch.save(stored[1], folder / stored[0])
    (folder / "state.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    write_records(directory / "metrics.jsonl", history)
    options = yaml.safe_dump(asdict(config), sort_keys=False)
    (directory / "resolved_config.yaml").write_text(options, "utf-8")


def _read_state(trainer: Trainer, directory: Path) -> tuple[dict[str, Any], RunState, list[Record]]:
    """Read what `write_state` wrote.

    Raises
    ------
    CheckpointError
        If it holds another model, or no training state.
    """
    model = trainer.config.model
    loaded = load_checkpoint(directory, vocabulary=model.vocabulary)
    if loaded.model.config != model:
        raise CheckpointError(directory, "holds a model of another configuration")
    folder = directory / STATE_FOLDER
    try:
        values = json.loads((folder / "state.json").read_text("utf-8"))
        stored = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
        history = read_records(directory / "metrics.jsonl")
        version = int(values.pop("schema_version"))
        if version > SCHEMA_VERSION:
            reason = f"training state of version {version}; update riboray"
            raise CheckpointError(directory, reason)
        values["position"] = Position(**values["position"])
        state = RunState(**values)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(directory, f"no usable training state ({error})") from error
    stored["model"] = loaded.model.state_dict()
    return stored, state, history


def restore_state(
    trainer: Trainer, store: CheckpointStore | None, warn: Callable[[str], None]
) -> tuple[RunState, list[Record]]:
    """Take up the newest checkpoint that is whole; called by all workers together.

    Rank 0 reads it and hands it to the others.

    Returns
    -------
    state : RunState
        Where to go on; the beginning if there is no checkpoint.
    history : list of dict
        The records up to there.

    Raises
    ------
    CheckpointError
        If the checkpoint is whole but not of this model. On every worker.
    """

    def read() -> tuple[dict[str, Any], RunState, list[Record]] | None:
        path = None if store is None else store.newest(warn)
        return None if path is None else _read_state(trainer, path)

    found = from_rank_zero(read, trainer.device)
    if found is None:
        return RunState(), []
    stored, state, history = found
    trainer.load_state_dict(stored)
    return state, history
