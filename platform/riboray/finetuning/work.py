"""What workers of a fine-tuning are given."""

from __future__ import annotations

from dataclasses import dataclass

from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Dataset
from riboray.finetuning.splitting import Fold
from riboray.pretraining.checkpoints import CheckpointStore

__all__ = ["TuningWork"]


@dataclass(frozen=True)
class TuningWork:
    """Options, data and where checkpoints go; for the attributes see `loop.run`."""

    config: FinetuneConfig
    data: Dataset
    fold: Fold
    store: CheckpointStore
    stop_step: int | None = None
