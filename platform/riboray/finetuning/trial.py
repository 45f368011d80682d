"""One trial, in one process: learn, choose the best model, measure it. It knows no Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from riboray.errors import RiborayError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Dataset
from riboray.finetuning.learner import Diverged, Learner
from riboray.finetuning.loop import run, steps_of
from riboray.finetuning.outcome import choose_threshold, measure_model
from riboray.finetuning.plan import TrialResult
from riboray.finetuning.splitting import Fold
from riboray.manifest import atomic_path
from riboray.model.checkpoint import load_checkpoint
from riboray.model.prediction import RnaBertForPrediction
from riboray.pretraining.checkpoints import CheckpointStore, step_of
from riboray.pretraining.sessions import Session

__all__ = ["PREDICTIONS_NAME", "give_up", "run_trial", "store_of"]

PREDICTIONS_NAME = "predictions.parquet"


def store_of(config: FinetuneConfig, folder: Path) -> CheckpointStore:
    """Return where a trial keeps its checkpoints."""
    return CheckpointStore(folder / "checkpoints", config.keep_checkpoints)


def give_up(config: FinetuneConfig, folder: Path, records: int) -> None:
    """Write down that a trial was given up, and how good it was by then."""
    store = store_of(config, folder)
    best = store.best()
    score = None if best is None else store.score(step_of(best))
    TrialResult(
        None if score is None else score.value,
        0.0 if best is None else step_of(best) / steps_of(config, records)[0],
        stopped=True,
        limits=config.limits(),
    ).write(folder)


def run_trial(
    config: FinetuneConfig,
    data: Dataset,
    fold: Fold,
    folder: Path,
    session: Session,
    device: torch.device,
    features: dict[int, NDArray[np.float32]] | None = None,
) -> TrialResult:
    """Train, and measure the best model on what it is tested on.

    Parameters
    ----------
    config, data, fold, session
        See `loop.run`.
    folder : Path
        The trial's directory; it goes on from the checkpoint there, and its result is left there.
    device : torch.device
        Where to train.
    features : dict of int to ndarray, optional
        What a frozen encoder made of records, if that is known.
    """
    known = TrialResult.read(folder, config.limits())
    if known is not None:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    store = store_of(config, folder)
    learner = Learner(config, data, fold.train, device, features)
    try:
        end = run(config, learner, fold, session, store)
    except Diverged as error:  # it would again
        found = TrialResult(None, 0.0, stopped=True, limits=config.limits(), failed=str(error))
        found.write(folder)
        return found
    chosen = store.best() or store.newest(lambda message: None)
    if chosen is None or not end["finished"]:
        raise RiborayError(f"{folder.name} ended before its end")
    model = load_checkpoint(chosen).model
    assert isinstance(model, RnaBertForPrediction)
    choose_threshold(model, data, fold.validation)
    outcome = measure_model(model, data, fold.test)
    with atomic_path(folder / PREDICTIONS_NAME) as temporary:
        pq.write_table(outcome.predictions, temporary)
    found = TrialResult(
        end["best"],
        step_of(chosen) / steps_of(config, len(fold.train))[0],
        outcome.metrics,
        model.head_config.threshold,
        confusion=outcome.confusion,
        limits=config.limits(),
    )
    found.write(folder)
    return found
