"""One training of a fine-tuning, on Ray Train."""

from __future__ import annotations

from typing import Any

__all__ = ["tuning_worker"]


def tuning_worker(arguments: dict[str, Any]) -> None:
    """Fine-tune as one of a run's workers, whose values are a `work.TuningWork`.

    What it needs is imported in the worker alone: Ray's controller of the run needs this function
    too, and no model.
    """
    import ray
    import ray.train.torch

    from riboray.finetuning.learner import Learner
    from riboray.finetuning.loop import run
    from riboray.finetuning.work import TuningWork
    from riboray.pretraining.working.pipeline import begin

    work: TuningWork = ray.get(arguments["values"][0])
    session = begin(work.config, work.store, arguments["board"])
    if session is None:
        return
    learner = Learner(work.config, work.data, work.fold.train, ray.train.torch.get_device())
    run(work.config, learner, work.fold, session, work.store, work.stop_step)
