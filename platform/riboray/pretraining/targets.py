"""What the losses of a step are means over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from riboray.pretraining.masking import IGNORE
from riboray.pretraining.streams import PairBatch, TokenBatch

__all__ = ["Counts", "count_targets"]


class Counts(NamedTuple):
    """What a global step is a mean over: targets of each kind, and pairs."""

    mlm: float
    sal: float
    ss: float


def count_targets(
    mlm: Sequence[TokenBatch], sal: Sequence[PairBatch], ss: Sequence[TokenBatch]
) -> Counts:
    """Count a worker's share of what a step is a mean over."""
    masked, classes = (
        float(sum(int((batch.labels != IGNORE).sum()) for batch in batches))
        for batches in (mlm, ss)
    )
    return Counts(masked, float(sum(len(batch.reference) for batch in sal)), classes)
