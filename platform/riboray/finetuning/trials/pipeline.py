"""Trials on Ray Tune: as many at a time as there is room for, each in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from riboray.errors import RiborayError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Dataset
from riboray.finetuning.learner import KEPT_BYTES, Learner
from riboray.finetuning.metrics import LOWER_IS_BETTER
from riboray.finetuning.plan import Trial, TrialResult
from riboray.finetuning.splitting import Fold
from riboray.finetuning.trial import give_up, run_trial
from riboray.model.checkpoint import load_checkpoint
from riboray.pipeline import cause_of
from riboray.pretraining.sessions import Record, Requests

__all__ = ["TrialWork", "run_trials"]

#: Epochs before a trial of a search may be given up.
_GRACE_EPOCHS = 3


@dataclass(frozen=True)
class TrialWork:
    """What all trials share.

    Attributes
    ----------
    config : FinetuneConfig
        Of the run.
    data : Dataset
        All records.
    folds : list of Fold
        What is trained on and measured.
    metric : str
        What trials are compared by.
    trials : dict of str to Trial
        All trials, by name.
    folder : Path
        Absolute, and seen by every node; a directory for each trial is made in it.
    is_local : bool
        Whether Ray is one of our own, on this machine.
    """

    config: FinetuneConfig
    data: Dataset
    folds: list[Fold]
    metric: str
    trials: dict[str, Trial]
    folder: Path
    is_local: bool


class _TuneSession:
    """The loop's session inside a trial: measurements go to Ray Tune."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._sign = -1.0 if metric in LOWER_IS_BETTER else 1.0

    def publish(self, record: Record) -> None:
        """Report a measurement."""
        # The last one comes too late for the scheduler to give the trial up.
        if record["kind"] == "validation" and self._metric in record and record["progress"] < 1:
            score = self._sign * record[self._metric]
            tune.report({"score": score, "epochs": record["epochs"], "step": record["step"]})

    def requests(self) -> Requests:
        """Nothing is asked: Ray Tune ends a trial's process."""
        return Requests()

    def losing_machine(self) -> bool:
        """Never: a trial that is lost goes on from its checkpoint elsewhere."""
        return False


@ray.remote
def _make_features(work: TrialWork, rows: NDArray[np.int64]) -> dict[int, NDArray[np.float32]]:
    """Have the frozen encoder read some records."""
    torch.set_num_threads(work.config.cpus_per_worker)
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    return Learner(work.config, work.data, rows, device).all_features(rows)


def _shared_features(work: TrialWork, resources: dict[str, float]) -> list[Any]:
    """Have what a frozen encoder makes of all records made once for all trials.

    Returns
    -------
    list of ObjectRef
        Of parts of the records; nothing if trials differ in it, or if it is too much to keep.
    """
    config, data = work.config, work.data
    if config.learn != "frozen" or {"learn", "pooling"} & config.search.axes.keys():
        return []
    lengths = np.array([len(text) for text in data.sequences])
    rows = len(data) if data.task.level == "sequence" else int(lengths.sum())
    width = load_checkpoint(config.checkpoint).model.config.hidden_size
    if 4 * width * rows > KEPT_BYTES:
        return []
    # Longest first, dealt out: parts of about one size.
    order = np.argsort(-lengths, kind="stable")
    count = min(max(4 * int(ray.cluster_resources().get("CPU", 1)), 1), len(order))  # type: ignore[no-untyped-call]
    shared = ray.put(work)
    make = _make_features.options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    parts = [make.remote(shared, order[k::count]) for k in range(count)]
    # Before any trial holds the GPU that they need.
    ray.wait(parts, num_returns=len(parts), fetch_local=False)
    return parts


def _train_trial(config: dict[str, Any], work: TrialWork, features: list[Any]) -> None:
    """Run one trial; Ray Tune calls it in a process of its own."""
    trial = work.trials[config["trial"]]
    torch.set_num_threads(work.config.cpus_per_worker)
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    own = trial.configured(work.config)
    folder = work.folder / trial.name
    fold = work.folds[trial.fold]
    session = _TuneSession(work.metric)
    known: dict[int, NDArray[np.float32]] = {}
    for part in ray.get(features):
        known |= part
    run_trial(own, work.data, fold, folder, session, device, known or None)


class _Telling(tune.Callback):
    """Tells how trials go; Ray Tune calls it in the driver."""

    def __init__(self, tell: Callable[[str, dict[str, Any] | None], None]) -> None:
        self._tell = tell
        self._last: dict[str, dict[str, Any]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Remember the newest measurement, and pass it on."""
        name = trial.config["trial"]
        if "score" in result:
            self._last[name] = result
            self._tell(name, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that a trial is over."""
        self._tell(trial.config["trial"], None)


def run_trials(
    work: TrialWork,
    *,
    use_gpu: bool,
    tell: Callable[[str, dict[str, Any] | None], None],
) -> dict[str, TrialResult]:
    """Run trials that are not done, within a connection to Ray.

    Parameters
    ----------
    work : TrialWork
        Trials whose results are there are not run again, and others go on from their checkpoints.
    use_gpu : bool
        Whether each gets a GPU.
    tell : callable
        Told a trial's name with its newest measurement, or with None when it is over.

    Returns
    -------
    dict of str to TrialResult
        By trial's name.

    Raises
    ------
    RiborayError
        If a trial failed for good; results of the others are kept.

    Notes
    -----
    Where options are searched and there is no cross-validation, trials that are worse than half of
    those that came as far are given up (ASHA: Li et al. 2020, arXiv:1810.05934).
    """
    todo = [name for name, result in _results(work).items() if result is None]
    if todo:
        _fit(work, todo, use_gpu, tell)
    results = _results(work)
    missing = [name for name, result in results.items() if result is None]
    if missing:
        raise RiborayError(f"{missing[0]} has no result; give the same command again")
    return {name: result for name, result in results.items() if result is not None}


def _fit(
    work: TrialWork,
    todo: list[str],
    use_gpu: bool,
    tell: Callable[[str, dict[str, Any] | None], None],
) -> None:
    config = work.config
    resources: dict[str, float] = {"CPU": config.cpus_per_worker}
    # A Ray of our own offers more CPUs than the machine has; 0 is no limit.
    most = max((os.cpu_count() or 1) // config.cpus_per_worker, 1) if work.is_local else 0
    if use_gpu:
        resources["GPU"] = 1
    if config.memory_per_worker is not None:
        resources["memory"] = config.memory_per_worker * 2**30
    scheduler, notes = _scheduler(work), work.folder / "tune"
    shutil.rmtree(notes, ignore_errors=True)  # of another call; what counts lies beside it
    features = _shared_features(work, resources)
    trainable = tune.with_parameters(_train_trial, work=work, features=features)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"trial": tune.grid_search(todo)},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            scheduler=scheduler,
            max_concurrent_trials=config.trials_at_once or most,
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(work.folder),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[_Telling(tell)],
            verbose=0,
        ),
    )
    found = tuner.fit()
    errors = []
    for result in (found[k] for k in range(len(found))):
        assert result.config is not None
        name = result.config["trial"]
        if result.error is not None:
            errors.append((name, _cause(result.error)))
        elif scheduler is not None and _result(work, name) is None:
            fold = work.folds[work.trials[name].fold]
            give_up(work.trials[name].configured(config), work.folder / name, len(fold.train))
    for name, cause in errors:
        if isinstance(cause, RiborayError):
            raise cause
        raise RiborayError(f"{name} failed: {cause_of(cause)}")


def _result(work: TrialWork, name: str) -> TrialResult | None:
    return TrialResult.read(work.folder / name, work.config.limits())


def _results(work: TrialWork) -> dict[str, TrialResult | None]:
    return {name: _result(work, name) for name in work.trials}


def _scheduler(work: TrialWork) -> ASHAScheduler | None:
    searches = bool(work.config.search.axes) and len(work.folds) == 1
    epochs = int(work.config.max_epochs)
    if not searches or epochs <= _GRACE_EPOCHS:
        return None
    return ASHAScheduler(
        time_attr="epochs", grace_period=_GRACE_EPOCHS, max_t=epochs + 1, reduction_factor=2
    )


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    return error
