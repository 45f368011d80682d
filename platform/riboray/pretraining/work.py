"""What every worker of a pre-training run is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.streams import StreamSpec

if TYPE_CHECKING:
    from riboray.pretraining.validation import Validation

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """Options, data and where checkpoints go; for the attributes see `loop.run`."""

    config: PretrainConfig
    specs: dict[str, StreamSpec]
    validation: Validation
    store: CheckpointStore
